"""Heads of one modality alone, the paper's unimodal rivals."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from cotune.fusion.base import HEADS, FusionHead


class _SingleHead(FusionHead):
    """Dropout, one hidden layer and the output layer on one embedding."""

    def __init__(
        self, text_dim: int, image_dim: int, n_classes: int, *, width: int = 128, dropout: float = 0.5
    ) -> None:
        sizes = {"text": text_dim, "image": image_dim}
        used = {name: size if name in self.uses else 0 for name, size in sizes.items()}
        super().__init__(used["text"], used["image"], n_classes)
        self.width, self.p_dropout = width, dropout
        self.classify = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(sizes[self.uses[0]], width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, n_classes),
        )

    def settings(self) -> dict[str, Any]:
        """Return the arguments that build this head anew."""
        return {"width": self.width, "dropout": self.p_dropout}


@HEADS.register("text")
class TextHead(_SingleHead):
    """The text alone."""

    uses: ClassVar[tuple[str, ...]] = ("text",)

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        """Return logits from the text's embedding."""
        logits: Tensor = self.classify(text)
        return logits


@HEADS.register("image")
class ImageHead(_SingleHead):
    """The image alone."""

    uses: ClassVar[tuple[str, ...]] = ("image",)

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        """Return logits from the image's embedding."""
        logits: Tensor = self.classify(image)
        return logits
