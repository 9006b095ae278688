"""Register a fusion head and a benchmark method of your own, and compare them with ours on the same folds.

From the shell:

    PYTHONPATH=examples cotune bench posts.csv --out results --methods probe,bilinear --plugin own_fusion_head
"""

import tempfile
from typing import Any

import torch
from torch import Tensor, nn

from cotune.benchmark import METHODS, Method
from cotune.benchmark.methods import fit
from cotune.heads import HEADS, FusionHead


@HEADS.register("bilinear")
class BilinearHead(FusionHead):
    """The product of two projections, feature by feature, beside the projections themselves."""

    def __init__(
        self, text_dim: int, image_dim: int, n_classes: int, *, width: int = 128, modality_dropout: float = 0.1
    ) -> None:
        super().__init__(text_dim, image_dim, n_classes, modality_dropout=modality_dropout)
        self.width = width
        self.text, self.image = nn.Linear(text_dim, width), nn.Linear(image_dim, width)
        self.output = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Linear(3 * width, n_classes))

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        text, image = self.text(text), self.image(image)
        logits: Tensor = self.output(torch.cat([text, image, text * image], dim=1))
        return logits

    def settings(self) -> dict[str, Any]:  # what builds the head anew when a run is loaded
        return {**super().settings(), "width": self.width}


METHODS.add(
    "bilinear", Method("Bilinear head, frozen encoders", run=fit, settings={"fusion": "bilinear", "tune": "frozen"})
)


if __name__ == "__main__":
    from cotune.benchmark import Plan, run_plan
    from cotune.demo import read_demo_posts
    from cotune.report.benchmark_report import write_all
    from cotune.settings import FitConfig

    settings = FitConfig()
    pair = (settings.text_encoder, settings.image_encoder)
    with tempfile.TemporaryDirectory() as out:
        run_plan(read_demo_posts().head(300), Plan(methods=("probe", "bilinear"), pairs=(pair,), folds=3), out)
        print(write_all(out).tables[0].markdown())
