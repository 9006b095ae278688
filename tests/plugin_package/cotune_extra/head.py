"""A fusion head: the embeddings of all fields projected to one size, and added."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cotune.heads import Embeddings, FusionHead


class SumHead(FusionHead):
    def __init__(
        self, dims: Mapping[str, int], n_outputs: int, *, width: int = 16, slope: float = 0.0,
        modality_dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(dims, n_outputs, modality_dropout=modality_dropout)
        self.width, self.slope = width, slope
        self.project = nn.ModuleList([nn.Linear(dim, width) for dim in dims.values()])
        self.out = nn.Sequential(nn.LeakyReLU(slope), nn.Linear(width, n_outputs))

    def fuse(self, embeddings: Embeddings) -> Tensor:
        parts = [project(embeddings[name]) for project, name in zip(self.project, self.fields, strict=True)]
        outputs: Tensor = self.out(sum(parts))
        return outputs

    def settings(self) -> dict[str, Any]:
        return {"width": self.width, "slope": self.slope, "modality_dropout": self.modality_dropout}
