"""Register a fusion head and a benchmark method of your own, and compare them with ours on the same folds.

From the shell:

    PYTHONPATH=examples cotune bench posts.csv --out results --methods probe,bilinear --plugin own_fusion_head
"""

import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cotune.benchmark import METHODS, Method
from cotune.benchmark.methods import fit
from cotune.heads import HEADS, Embeddings, FusionHead


@HEADS.register("bilinear")
class BilinearHead(FusionHead):
    """The product of the projections, feature by feature, beside the projections themselves."""

    def __init__(
        self, dims: Mapping[str, int], n_outputs: int, *, width: int = 128, modality_dropout: float = 0.1
    ) -> None:
        super().__init__(dims, n_outputs, modality_dropout=modality_dropout)
        self.width = width
        self.project = nn.ModuleList([nn.Linear(dim, width) for dim in dims.values()])
        self.output = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Linear((len(dims) + 1) * width, n_outputs))

    def fuse(self, embeddings: Embeddings) -> Tensor:
        parts = [project(embeddings[name]) for project, name in zip(self.project, self.fields, strict=True)]
        product = torch.stack(parts).prod(dim=0)
        outputs: Tensor = self.output(torch.cat([*parts, product], dim=1))
        return outputs

    def settings(self) -> dict[str, Any]:  # what builds the head again when a run is loaded
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
