"""The head of the paper's released code, kept for comparison.

It concatenates two 32-wide projections along the features, so that its transformer layer sees a sequence of
length one: a softmax over one score is 1, and nothing is weighed.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from cotune.fusion.base import HEADS, FusionHead


@HEADS.register("reference")
class ReferenceHead(FusionHead):
    """32-wide ReLU projections, one encoder layer (64 wide, 8 heads, 2048 in between), 128 hidden units.

    Parameters
    ----------
    text_dim, image_dim, n_classes : int
        Sizes.
    """

    learns_absence: ClassVar[bool] = False

    def __init__(self, text_dim: int, image_dim: int, n_classes: int) -> None:
        super().__init__(text_dim, image_dim, n_classes)
        self.project_text = nn.Sequential(nn.Linear(text_dim, 32), nn.ReLU())
        self.project_image = nn.Sequential(nn.Linear(image_dim, 32), nn.ReLU())
        self.layer = nn.TransformerEncoderLayer(64, 8, dim_feedforward=2048, dropout=0.4, batch_first=True)
        self.classify = nn.Sequential(
            nn.Dropout(0.5), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, n_classes)
        )

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        """Return logits, shape (B, n_classes)."""
        joined = torch.cat([self.project_image(image), self.project_text(text)], dim=1)
        logits: Tensor = self.classify(self.layer(joined.unsqueeze(1)).squeeze(1))
        return logits
