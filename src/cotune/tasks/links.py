"""What stands between a model's outputs and probabilities: means of several models, and what one teaches another."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, logsigmoid

from cotune.tasks.losses import Loss

#: The function from outputs to probabilities: over all outputs, of each on its own, or none, where they are values.
Link = Literal["softmax", "sigmoid", "identity"]


def probabilities(link: Link, outputs: Tensor) -> Tensor:
    """Return the probabilities, or values, of outputs of shape (..., n_outputs); the same shape."""
    if link == "identity":
        return outputs
    return outputs.softmax(dim=-1) if link == "softmax" else outputs.sigmoid()


def mean_outputs(link: Link, outputs: Tensor) -> Tensor:
    """Return outputs whose probabilities are the mean of several models' probabilities, without leaving the logarithm.

    Parameters
    ----------
    link : {"softmax", "sigmoid", "identity"}
        From outputs to probabilities.
    outputs : Tensor
        Of the models, shape (K, B, n_outputs).

    Returns
    -------
    Tensor
        Shape (B, n_outputs).
    """
    if link == "identity":
        return outputs.mean(dim=0)
    if link == "softmax":
        return log_softmax(outputs, dim=-1).logsumexp(dim=0) - math.log(len(outputs))
    return logsigmoid(outputs).logsumexp(dim=0) - logsigmoid(-outputs).logsumexp(dim=0)


class TaughtLoss(Loss):
    """A task's loss mixed with one against probabilities that other models gave (Hinton et al. 2015).

    Of a post with such probabilities the loss is ``(1 - weight) * task + weight * soft``, of any other the task's. The
    soft loss is a cross-entropy with soft targets, mean over labels where each has a probability of its own, or the
    squared difference of values.

    Parameters
    ----------
    task_loss : Loss
        The task's.
    link : {"softmax", "sigmoid", "identity"}
        From outputs to probabilities.
    weight : float
        Part of the soft loss.
    """

    def __init__(self, task_loss: Loss, link: Link, weight: float) -> None:
        super().__init__()
        self.task_loss, self.link, self.weight = task_loss, link, weight

    def forward(
        self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, taught: Tensor | None = None
    ) -> Tensor:
        """Return the loss, a number; `taught`, shape (B, n_outputs), is NaN in rows that nobody taught."""
        if taught is None:
            return self.task_loss(outputs, targets, weights)  # type: ignore[no-any-return]
        there = taught.isfinite().all(dim=1)
        part = there.to(outputs) * self.weight * (1.0 if weights is None else weights.to(outputs))
        soft = self._each(outputs, torch.where(there.unsqueeze(1), taught.to(outputs), 0.0))
        own = (1.0 - self.weight * there.to(outputs)) * (1.0 if weights is None else weights.to(outputs))
        return self.task_loss(outputs, targets, own) + (soft * part).mean()  # type: ignore[no-any-return]

    def _each(self, outputs: Tensor, taught: Tensor) -> Tensor:
        if self.link == "softmax":
            return -(taught * log_softmax(outputs, dim=1)).sum(dim=1)
        if self.link == "sigmoid":
            return binary_cross_entropy_with_logits(outputs, taught, reduction="none").mean(dim=1)
        return (outputs - taught).square().mean(dim=1)

    def size(self, targets: Tensor) -> Tensor:
        """Return what the loss of posts with these targets is a mean over."""
        return self.task_loss.size(targets)
