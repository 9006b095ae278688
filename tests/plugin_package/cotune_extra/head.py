"""A fusion head: both embeddings projected to one size, and added."""

from typing import Any

from torch import Tensor, nn

from cotune.heads import FusionHead


class SumHead(FusionHead):
    def __init__(
        self, text_dim: int, image_dim: int, n_classes: int, *, width: int = 16, modality_dropout: float = 0.0
    ) -> None:
        super().__init__(text_dim, image_dim, n_classes, modality_dropout=modality_dropout)
        self.width = width
        self.text, self.image = nn.Linear(text_dim, width), nn.Linear(image_dim, width)
        self.out = nn.Linear(width, n_classes)

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        logits: Tensor = self.out((self.text(text) + self.image(image)).relu())
        return logits

    def settings(self) -> dict[str, Any]:
        return {"width": self.width, "modality_dropout": self.modality_dropout}
