"""Losses of the tasks."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss, mse_loss


class Loss(nn.Module, abc.ABC):
    """The loss of a batch, a number.

    Called with outputs (B, n_outputs), targets (B,) or (B, n_outputs) and, optionally, the weights of the posts (B,)
    of mean one over all training posts. A batch's weighted loss is not divided by the sum of the batch's weights,
    which would let a heavy post count for less than it should.
    """

    @abc.abstractmethod
    def forward(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss, a number."""

    def size(self, targets: Tensor) -> Tensor:
        """Return what the loss of posts with these targets is a mean over: how many they are, or their weight."""
        return targets.new_tensor(len(targets), dtype=torch.float32)


class CrossEntropy(Loss):
    """The cross-entropy of a batch, with the weights of classes and of posts."""

    def __init__(self, class_weights: Sequence[float] | None, label_smoothing: float) -> None:
        super().__init__()
        weight = None if class_weights is None else torch.tensor(class_weights)
        self.mean = nn.CrossEntropyLoss(weight=weight, label_smoothing=label_smoothing)
        self.each = nn.CrossEntropyLoss(weight=weight, label_smoothing=label_smoothing, reduction="none")

    def forward(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss, a number."""
        if weights is None:
            result: Tensor = self.mean(outputs, targets)
            return result
        weighted: Tensor = (self.each(outputs, targets) * weights.to(outputs)).sum() / self.size(targets)
        return weighted

    def size(self, targets: Tensor) -> Tensor:
        """Return how many they are, each counted by the weight of its class."""
        return super().size(targets) if self.each.weight is None else self.each.weight[targets].sum()


class EventLikelihood(Loss):
    """The negative log-likelihood of what is known of posts: of events, each a set of cells of a softmax.

    Parameters
    ----------
    masks : ndarray of bool
        Which cells each event is made of, shape (n_events, n_outputs); none is empty.
    event_weights : sequence of float, optional
        How much each event counts.
    label_smoothing : float
        Fraction of each post's loss that is the cross-entropy with all cells alike.
    """

    outside: Tensor
    event_weights: Tensor | None

    def __init__(self, masks: np.ndarray, event_weights: Sequence[float] | None, label_smoothing: float) -> None:
        super().__init__()
        allowed = torch.from_numpy(masks)
        self.register_buffer("outside", torch.zeros(masks.shape).masked_fill(~allowed, -torch.inf))
        self.register_buffer("event_weights", None if event_weights is None else torch.tensor(event_weights))
        self.label_smoothing = label_smoothing

    def forward(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss, a number; `targets` say how much each event counts for each post, shape (B, n_events)."""
        cells = outputs.float().log_softmax(dim=1)
        events = (cells.unsqueeze(1) + self.outside).logsumexp(dim=2)
        counted = targets.to(events)
        if self.event_weights is not None:
            counted = counted * self.event_weights
        each = -(counted * events).sum(dim=1)
        if self.label_smoothing:
            each = (1 - self.label_smoothing) * each - self.label_smoothing * cells.mean(dim=1)
        return each.mean() if weights is None else (each * weights.to(each)).mean()


class BinaryCrossEntropy(Loss):
    """The binary cross-entropy of a batch, mean over labels, with the weights of labels and of posts.

    Parameters
    ----------
    pos_weight : sequence of float, optional
        How much a post with a label counts, relative to one without it.
    label_smoothing : float
        How far targets are moved toward 0.5: with 1 they are all 0.5.
    """

    pos_weight: Tensor | None

    def __init__(self, pos_weight: Sequence[float] | None, label_smoothing: float) -> None:
        super().__init__()
        self.register_buffer("pos_weight", None if pos_weight is None else torch.tensor(pos_weight))
        self.label_smoothing = label_smoothing

    def forward(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss, a number."""
        smooth = targets.to(outputs) * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        cells = binary_cross_entropy_with_logits(outputs, smooth, pos_weight=self.pos_weight, reduction="none")
        each = cells.mean(dim=1)
        return each.mean() if weights is None else (each * weights.to(outputs)).mean()


class StandardisedLoss(Loss):
    """The squared or Huber loss of a batch, in squared standard deviations.

    Parameters
    ----------
    mean, scale : float
        What targets are standardised with.
    huber : bool
        Whether an error of more than one standard deviation counts linearly.
    """

    def __init__(self, mean: float, scale: float, *, huber: bool) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale
        self.each = huber_loss if huber else mse_loss

    def forward(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss, a number."""
        standardised = (targets.to(outputs) - self.mean) / self.scale
        each = self.each(outputs[:, 0], standardised, reduction="none")
        return each.mean() if weights is None else (each * weights.to(outputs)).mean()
