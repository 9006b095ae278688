"""The head of the paper's released code, kept for comparison.

It concatenates 32-wide projections along the features, so that its transformer layer sees a sequence of length one: a
softmax over one score is 1, and nothing is weighed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from cotune.heads.base import HEADS, Embeddings, FusionHead

_WIDTH = 32


@HEADS.register("reference")
class ReferenceHead(FusionHead):
    """32-wide ReLU projections, one encoder layer (8 heads, 2048 in between), 128 hidden units.

    Parameters
    ----------
    dims, n_outputs
        See :class:`~cotune.heads.base.FusionHead`.
    """

    learns_absence: ClassVar[bool] = False

    def __init__(self, dims: Mapping[str, int], n_outputs: int) -> None:
        super().__init__(dims, n_outputs)
        self.project = nn.ModuleList([nn.Sequential(nn.Linear(dim, _WIDTH), nn.ReLU()) for dim in dims.values()])
        whole = _WIDTH * len(dims)
        self.layer = nn.TransformerEncoderLayer(whole, 8, dim_feedforward=2048, dropout=0.4, batch_first=True)
        self.classify = nn.Sequential(
            nn.Dropout(0.5), nn.Linear(whole, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, n_outputs)
        )

    def fuse(self, embeddings: Embeddings) -> Tensor:
        """Return outputs, shape (B, n_outputs)."""
        projected = [project(embeddings[name]) for project, name in zip(self.project, self.fields, strict=True)]
        joined = torch.cat(projected[::-1], dim=1)  # the released code puts the image first
        outputs: Tensor = self.classify(self.layer(joined.unsqueeze(1)).squeeze(1))
        return outputs
