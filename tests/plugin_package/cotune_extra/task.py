"""A task: ordered classes. A near miss costs less than a far one, and the expected rank is the answer."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cotune.settings import FitConfig
from cotune.tasks.losses import Loss
from cotune.tasks.single_label import SingleLabel


class SoftRanks(Loss):
    """Cross-entropy against classes weighted by their distance from the true one (Diaz & Marathe 2019)."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        ranks = torch.arange(n_classes, dtype=torch.float32)
        self.register_buffer("soft", torch.softmax(-2 * (ranks[:, None] - ranks).abs(), dim=1))

    def forward(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        each = -(self.soft[targets] * torch.log_softmax(outputs, dim=1)).sum(dim=1)
        return each.mean() if weights is None else (each * weights.to(each)).mean()


class Ordinal(SingleLabel):
    name: ClassVar[str] = "ordinal"

    def loss(self, config: FitConfig, targets: np.ndarray, weights: np.ndarray | None = None) -> SoftRanks:
        return SoftRanks(self.n_outputs)

    def decode(self, predictions: np.ndarray) -> list[Any]:
        ranks = np.rint(predictions @ np.arange(self.n_outputs)).astype(int)
        return [self.outputs[rank] for rank in ranks]

    def describe(self) -> str:
        return f"ordinal, from {self.outputs[0]} to {self.outputs[-1]}"
