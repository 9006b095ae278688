"""Other ways to fuse two embeddings, as methods beside `joint` (attention) and `concat`.

    PYTHONPATH=benchmarks cotune bench posts.csv --out DIR --plugin fusion_heads \
        --methods joint,concat,gated,product,late-attention,averaged

With `--tune frozen` the heads alone are compared, in a minute or two; without it the encoders learn too.
"""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor, nn

from cotune.benchmark import METHODS, Method
from cotune.benchmark.methods import fit
from cotune.heads import HEADS, FusionHead, make_head


class _Head(FusionHead):
    """Keeps the settings, which are those of `concat` and `attention`, so that nothing but the fusion differs."""

    def __init__(
        self, text_dim: int, image_dim: int, n_classes: int, *, modality_dropout: float = 0.1, **more: Any
    ) -> None:
        super().__init__(text_dim, image_dim, n_classes, modality_dropout=modality_dropout)
        self.more = more
        self.build(text_dim, image_dim, **more)

    @abc.abstractmethod
    def build(self, text_dim: int, image_dim: int, *, width: int, dropout: float, heads: int) -> None:
        """Make the layers."""

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **self.more}


@HEADS.register("gated")
class GatedHead(_Head):
    """Gated multimodal unit: a sigmoid of both embeddings mixes them (Arevalo et al. 2017)."""

    def build(self, text_dim: int, image_dim: int, *, width: int, dropout: float, heads: int) -> None:
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(text_dim + image_dim, width)
        self.text, self.image = nn.Linear(text_dim, width), nn.Linear(image_dim, width)
        self.output = nn.Linear(width, self.n_classes)

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        text, image = self.dropout(text), self.dropout(image)
        gate = torch.sigmoid(self.gate(torch.cat([text, image], dim=1)))
        mixed = gate * torch.tanh(self.text(text)) + (1 - gate) * torch.tanh(self.image(image))
        logits: Tensor = self.output(self.dropout(mixed))
        return logits


@HEADS.register("product")
class ProductHead(_Head):
    """`concat`'s hidden layer beside the product of two projections (after Kim et al. 2017, low-rank bilinear)."""

    def build(self, text_dim: int, image_dim: int, *, width: int, dropout: float, heads: int) -> None:
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(text_dim + image_dim, width)
        self.text, self.image = nn.Linear(text_dim, width), nn.Linear(image_dim, width)
        self.output = nn.Linear(2 * width, self.n_classes)

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        text, image = self.dropout(text), self.dropout(image)
        hidden = torch.relu(self.hidden(torch.cat([text, image], dim=1)))
        product = torch.tanh(self.text(text)) * torch.tanh(self.image(image))
        logits: Tensor = self.output(self.dropout(torch.cat([hidden, product], dim=1)))
        return logits


@HEADS.register("averaged")
class AveragedHead(_Head):
    """The mean of the logits of a `concat` head and of an `attention` head without its skip."""

    def build(self, text_dim: int, image_dim: int, *, width: int, dropout: float, heads: int) -> None:
        sizes = (text_dim, image_dim, self.n_classes)
        settings: dict[str, Any] = {"width": width, "dropout": dropout}
        self.concat = make_head("concat", *sizes, **settings)
        self.attention = make_head("attention", *sizes, heads=heads, skip=False, **settings)

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        return (self.concat.fuse(text, image) + self.attention.fuse(text, image)) / 2


@HEADS.register("late-attention")
class LateAttentionHead(AveragedHead):
    """`concat`, to whose logits attention adds through a weight that begins at zero."""

    def build(self, text_dim: int, image_dim: int, **settings: Any) -> None:
        super().build(text_dim, image_dim, **settings)
        self.weight = nn.Parameter(torch.zeros(()))

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        return self.concat.fuse(text, image) + self.weight * self.attention.fuse(text, image)


for _name, _title in (
    ("gated", "Gated unit"),
    ("product", "Concatenated, with a product"),
    ("averaged", "Mean of both heads' logits"),
    ("late-attention", "Concatenated, attention from zero"),
):
    METHODS.add(_name, Method(_title, run=fit, settings={"fusion": _name}))
