"""Plain concatenation of the two embeddings and a small feed-forward network: the strong simple rival."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cotune.fusion.base import HEADS, FusionHead


@HEADS.register("concat")
class ConcatHead(FusionHead):
    """One hidden layer on the concatenated embeddings.

    Parameters
    ----------
    text_dim, image_dim, n_classes : int
        Sizes.
    width : int
        Hidden units.
    dropout : float
        Before and after the hidden layer.
    modality_dropout : float
        See :class:`~cotune.fusion.base.FusionHead`.
    """

    def __init__(
        self,
        text_dim: int,
        image_dim: int,
        n_classes: int,
        *,
        width: int = 128,
        dropout: float = 0.5,
        modality_dropout: float = 0.1,
    ) -> None:
        super().__init__(text_dim, image_dim, n_classes, modality_dropout=modality_dropout)
        self.width, self.p_dropout = width, dropout
        self.classify = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(text_dim + image_dim, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, n_classes),
        )

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        """Return logits, shape (B, n_classes)."""
        logits: Tensor = self.classify(torch.cat([text, image], dim=1))
        return logits

    def settings(self) -> dict[str, Any]:
        """Return the arguments that build this head anew."""
        return {"width": self.width, "dropout": self.p_dropout, "modality_dropout": self.modality_dropout}
