"""The default head: two modality tokens, real attention between them, and a way past the bottleneck."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cotune.fusion.base import HEADS, FusionHead


@HEADS.register("attention")
class AttentionHead(FusionHead):
    """Multi-head attention over one token for each modality, with a skip of the raw embeddings.

    Both embeddings are projected to `width`, get a learned modality embedding, and attend to one another in
    a residual block. Past them a skip leads from the raw embeddings through one hidden layer, and the output
    layer reads both: what the modalities say of one another, and what they say side by side.

    Parameters
    ----------
    text_dim, image_dim, n_classes : int
        Sizes.
    width : int
        Size of the tokens.
    heads : int
        Number of attention heads; must divide `width`.
    dropout : float
        On the embeddings, on the attended tokens, on the skip's hidden layer and before the output layer.
    skip : bool
        Whether the output layer sees more than the attended tokens.
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
        heads: int = 4,
        dropout: float = 0.5,
        skip: bool = True,
        modality_dropout: float = 0.1,
    ) -> None:
        super().__init__(text_dim, image_dim, n_classes, modality_dropout=modality_dropout)
        self.width, self.heads, self.p_dropout, self.skip = width, heads, dropout, skip
        self.project_text = nn.Linear(text_dim, width)
        self.project_image = nn.Linear(image_dim, width)
        self.modality_embedding = nn.Parameter(torch.randn(2, width) * 0.02)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(text_dim + image_dim, width) if skip else None
        self.output = nn.Linear((3 if skip else 2) * width, n_classes)

    def _tokens(self, text: Tensor, image: Tensor) -> Tensor:
        tokens = torch.stack([self.project_text(text), self.project_image(image)], dim=1)
        return tokens + self.modality_embedding

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        """Return logits, shape (B, n_classes)."""
        text, image = self.dropout(text), self.dropout(image)
        tokens = self._tokens(text, image)
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        parts = [self.norm(tokens + self.dropout(attended)).flatten(1)]
        if self.hidden is not None:
            parts.append(torch.relu(self.hidden(torch.cat([text, image], dim=1))))
        logits: Tensor = self.output(self.dropout(torch.cat(parts, dim=1)))
        return logits

    def attention_weights(self, text: Tensor, image: Tensor, present: Tensor) -> Tensor:
        """Return how much each modality attends to each, shape (B, heads, 2, 2); rows sum to one.

        Order of both axes: text, image. Arguments are those of :meth:`~cotune.fusion.base.FusionHead.forward`; an
        absent modality attends, and is attended to, as what stands in for it.
        """
        tokens = self._tokens(*self.stand_in(text, image, present))
        _, weights = self.attention(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)
        result: Tensor = weights
        return result

    def settings(self) -> dict[str, Any]:
        """Return the arguments that build this head anew."""
        return {
            "width": self.width,
            "heads": self.heads,
            "dropout": self.p_dropout,
            "skip": self.skip,
            "modality_dropout": self.modality_dropout,
        }
