"""Plain concatenation of the embeddings and a small feed-forward network: the strong simple baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cotune.heads.base import HEADS, Embeddings, FusionHead


def feed_forward(size: int, width: int, n_outputs: int, dropout: float) -> nn.Sequential:
    """Return dropout, one hidden layer, dropout and the output layer."""
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, n_outputs)
    )


@HEADS.register("concat")
class ConcatHead(FusionHead):
    """One hidden layer on the concatenated embeddings.

    Parameters
    ----------
    dims, n_outputs
        See :class:`~cotune.heads.base.FusionHead`.
    width : int
        Hidden units.
    dropout : float
        Before and after the hidden layer.
    modality_dropout : float
        See :class:`~cotune.heads.base.FusionHead`.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        n_outputs: int,
        *,
        width: int = 128,
        dropout: float = 0.5,
        modality_dropout: float = 0.1,
    ) -> None:
        super().__init__(dims, n_outputs, modality_dropout=modality_dropout)
        self.width, self.p_dropout = width, dropout
        self.classify = feed_forward(sum(dims.values()), width, n_outputs, dropout)

    def fuse(self, embeddings: Embeddings) -> Tensor:
        """Return outputs, shape (B, n_outputs)."""
        outputs: Tensor = self.classify(torch.cat([embeddings[name] for name in self.fields], dim=1))
        return outputs

    def settings(self) -> dict[str, Any]:
        """Return the arguments that build this head again."""
        return {"width": self.width, "dropout": self.p_dropout, "modality_dropout": self.modality_dropout}
