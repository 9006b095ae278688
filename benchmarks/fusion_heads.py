"""Other ways to fuse two embeddings, as methods beside `joint` (attention) and `concat`.

    PYTHONPATH=benchmarks cotune bench posts.csv --out DIR --plugin fusion_heads \
        --methods joint,concat,gated,product,late-attention,averaged

With `--tune frozen` the heads alone are compared, in a minute or two; without it the encoders learn too.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cotune.benchmark import METHODS, Method
from cotune.benchmark.methods import fit
from cotune.heads import HEADS, Embeddings, FusionHead, make_head


class _Head(FusionHead):
    """Keeps the settings, which are those of `concat` and `attention`, so that nothing but the fusion differs."""

    def __init__(self, dims: Mapping[str, int], n_outputs: int, *, modality_dropout: float = 0.1, **more: Any) -> None:
        super().__init__(dims, n_outputs, modality_dropout=modality_dropout)
        self.more = more
        self.build(**more)

    @abc.abstractmethod
    def build(self, *, width: int, dropout: float, heads: int) -> None:
        """Make the layers."""

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **self.more}


def _projections(head: FusionHead, width: int) -> nn.ModuleList:
    return nn.ModuleList([nn.Linear(dim, width) for dim in head.dims.values()])


@HEADS.register("gated")
class GatedHead(_Head):
    """Gated multimodal unit: a sigmoid of both embeddings mixes them (Arevalo et al. 2017)."""

    def build(self, *, width: int, dropout: float, heads: int) -> None:
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(sum(self.dims.values()), width)
        self.project = _projections(self, width)
        self.output = nn.Linear(width, self.n_outputs)

    def fuse(self, embeddings: Embeddings) -> Tensor:
        text, image = (self.dropout(embeddings[name]) for name in self.fields)
        gate = torch.sigmoid(self.gate(torch.cat([text, image], dim=1)))
        mixed = gate * torch.tanh(self.project[0](text)) + (1 - gate) * torch.tanh(self.project[1](image))
        outputs: Tensor = self.output(self.dropout(mixed))
        return outputs


@HEADS.register("product")
class ProductHead(_Head):
    """`concat`'s hidden layer beside the product of two projections (after Kim et al. 2017, low-rank bilinear)."""

    def build(self, *, width: int, dropout: float, heads: int) -> None:
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(sum(self.dims.values()), width)
        self.project = _projections(self, width)
        self.output = nn.Linear(2 * width, self.n_outputs)

    def fuse(self, embeddings: Embeddings) -> Tensor:
        text, image = (self.dropout(embeddings[name]) for name in self.fields)
        hidden = torch.relu(self.hidden(torch.cat([text, image], dim=1)))
        product = torch.tanh(self.project[0](text)) * torch.tanh(self.project[1](image))
        outputs: Tensor = self.output(self.dropout(torch.cat([hidden, product], dim=1)))
        return outputs


@HEADS.register("averaged")
class AveragedHead(_Head):
    """The mean of the outputs of a `concat` head and of an `attention` head without its skip."""

    def build(self, *, width: int, dropout: float, heads: int) -> None:
        settings: dict[str, Any] = {"width": width, "dropout": dropout}
        self.concat = make_head("concat", self.dims, self.n_outputs, **settings)
        self.attention = make_head("attention", self.dims, self.n_outputs, heads=heads, skip=False, **settings)

    def fuse(self, embeddings: Embeddings) -> Tensor:
        return (self.concat.fuse(embeddings) + self.attention.fuse(embeddings)) / 2


@HEADS.register("late-attention")
class LateAttentionHead(AveragedHead):
    """`concat`, to whose outputs attention adds through a weight that begins at zero."""

    def build(self, **settings: Any) -> None:
        super().build(**settings)
        self.weight = nn.Parameter(torch.zeros(()))

    def fuse(self, embeddings: Embeddings) -> Tensor:
        return self.concat.fuse(embeddings) + self.weight * self.attention.fuse(embeddings)


for _name, _title in (
    ("gated", "Gated unit"),
    ("product", "Concatenated, with a product"),
    ("averaged", "Mean of both heads' logits"),
    ("late-attention", "Concatenated, attention from zero"),
):
    METHODS.add(_name, Method(_title, run=fit, settings={"fusion": _name}))
