"""Other ways to fuse two embeddings, as methods beside `joint` (attention) and `concat`.

    PYTHONPATH=benchmarks cotune bench posts.csv --out DIR --plugin fusion_heads \
        --methods joint,concat,gated,product,late-attention,averaged

With `--tune frozen` the heads alone are compared, in a minute or two; without it the encoders learn too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cotune.benchmark import METHODS, Method
from cotune.benchmark.methods import fit
from cotune.fusion import HEADS, FusionHead
from cotune.fusion.attention import AttentionHead
from cotune.fusion.concat import ConcatHead


class _Hidden(FusionHead):
    """What the heads here share: `concat`'s dropout and size, and a hidden state that the output layer reads."""

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
        self.dropout = nn.Dropout(dropout)
        self.both = nn.Linear(text_dim + image_dim, width)
        self.text, self.image = nn.Linear(text_dim, width), nn.Linear(image_dim, width)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "width": self.width, "dropout": self.p_dropout}


@HEADS.register("gated")
class GatedHead(_Hidden):
    """Gated multimodal unit: a sigmoid of both embeddings mixes them (Arevalo et al. 2017)."""

    def __init__(self, text_dim: int, image_dim: int, n_classes: int, **settings: Any) -> None:
        super().__init__(text_dim, image_dim, n_classes, **settings)
        self.output = nn.Linear(self.width, n_classes)

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        text, image = self.dropout(text), self.dropout(image)
        gate = torch.sigmoid(self.both(torch.cat([text, image], dim=1)))
        mixed = gate * torch.tanh(self.text(text)) + (1 - gate) * torch.tanh(self.image(image))
        logits: Tensor = self.output(self.dropout(mixed))
        return logits


@HEADS.register("product")
class ProductHead(_Hidden):
    """`concat`'s hidden layer beside the product of two projections (after Kim et al. 2017, low-rank bilinear)."""

    def __init__(self, text_dim: int, image_dim: int, n_classes: int, **settings: Any) -> None:
        super().__init__(text_dim, image_dim, n_classes, **settings)
        self.output = nn.Linear(2 * self.width, n_classes)

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        text, image = self.dropout(text), self.dropout(image)
        hidden = torch.relu(self.both(torch.cat([text, image], dim=1)))
        product = torch.tanh(self.text(text)) * torch.tanh(self.image(image))
        logits: Tensor = self.output(self.dropout(torch.cat([hidden, product], dim=1)))
        return logits


class _Two(FusionHead):
    """A `concat` head and an `attention` head on the same embeddings."""

    def __init__(
        self,
        text_dim: int,
        image_dim: int,
        n_classes: int,
        *,
        width: int = 128,
        heads: int = 4,
        dropout: float = 0.5,
        modality_dropout: float = 0.1,
    ) -> None:
        super().__init__(text_dim, image_dim, n_classes, modality_dropout=modality_dropout)
        self.width, self.heads, self.p_dropout = width, heads, dropout
        self.concat = ConcatHead(text_dim, image_dim, n_classes, width=width, dropout=dropout)
        self.attention = AttentionHead(
            text_dim, image_dim, n_classes, width=width, heads=heads, dropout=dropout, skip=False
        )

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "width": self.width, "heads": self.heads, "dropout": self.p_dropout}


@HEADS.register("averaged")
class AveragedHead(_Two):
    """The mean of both heads' logits."""

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        return (self.concat.fuse(text, image) + self.attention.fuse(text, image)) / 2


@HEADS.register("late-attention")
class LateAttentionHead(_Two):
    """`concat`, to whose logits attention adds through a weight that begins at zero."""

    def __init__(self, text_dim: int, image_dim: int, n_classes: int, **settings: Any) -> None:
        super().__init__(text_dim, image_dim, n_classes, **settings)
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
