"""The default head: one token for each field, real attention between them, and a way past the bottleneck."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cotune.heads.base import HEADS, Embeddings, FusionHead


@HEADS.register("attention")
class AttentionHead(FusionHead):
    """Multi-head attention over one token for each field, with a skip of the raw embeddings.

    The embeddings are projected to `width`, get a learned embedding of their field, and attend to one another in a
    residual block. Past them a skip leads from the raw embeddings through one hidden layer, and the output layer reads
    both: what the fields say of one another, and what they say side by side.

    Parameters
    ----------
    dims, n_outputs
        See :class:`~cotune.heads.base.FusionHead`.
    width : int
        Size of the tokens.
    heads : int
        Number of attention heads; must divide `width`.
    dropout : float
        On the embeddings, on the attended tokens, on the skip's hidden layer and before the output layer.
    skip : bool
        Whether the output layer sees more than the attended tokens.
    modality_dropout : float
        See :class:`~cotune.heads.base.FusionHead`.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        n_outputs: int,
        *,
        width: int = 128,
        heads: int = 4,
        dropout: float = 0.5,
        skip: bool = True,
        modality_dropout: float = 0.1,
    ) -> None:
        super().__init__(dims, n_outputs, modality_dropout=modality_dropout)
        self.width, self.heads, self.p_dropout, self.skip = width, heads, dropout, skip
        self.project = nn.ModuleList([nn.Linear(dim, width) for dim in dims.values()])
        self.field_embedding = nn.Parameter(torch.randn(len(dims), width) * 0.02)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(sum(dims.values()), width) if skip else None
        self.output = nn.Linear((len(dims) + skip) * width, n_outputs)

    def _tokens(self, embeddings: list[Tensor]) -> Tensor:
        projected = [project(given) for project, given in zip(self.project, embeddings, strict=True)]
        return torch.stack(projected, dim=1) + self.field_embedding

    def fuse(self, embeddings: Embeddings) -> Tensor:
        """Return outputs, shape (B, n_outputs)."""
        given = [self.dropout(embeddings[name]) for name in self.fields]
        tokens = self._tokens(given)
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        parts = [self.norm(tokens + self.dropout(attended)).flatten(1)]
        if self.hidden is not None:
            parts.append(torch.relu(self.hidden(torch.cat(given, dim=1))))
        outputs: Tensor = self.output(self.dropout(torch.cat(parts, dim=1)))
        return outputs

    def attention_weights(self, embeddings: Embeddings) -> Tensor:
        """Return how much each field attends to each, shape (B, heads, F, F); rows sum to one.

        Both axes are in the order of the fields. An absent field attends, and is attended to, as what stands in for it.
        """
        given = self.stand_in(embeddings)
        tokens = self._tokens([given[name] for name in self.fields])
        _, weights = self.attention(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)
        result: Tensor = weights
        return result

    def settings(self) -> dict[str, Any]:
        """Return the arguments that build this head again."""
        return {
            "width": self.width,
            "heads": self.heads,
            "dropout": self.p_dropout,
            "skip": self.skip,
            "modality_dropout": self.modality_dropout,
        }
