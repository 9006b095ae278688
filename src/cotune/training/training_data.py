"""Which posts a model is trained on, and which are scored meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cotune.training.features import Features


@dataclass(frozen=True)
class HeldOut:
    """Posts that are scored after every epoch: some of the prepared ones, or of a validation table of their own."""

    features: Features
    targets: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class TrainingData:
    """What a model is trained on.

    Attributes
    ----------
    features : Features
        The prepared posts, with the pretrained encoders, which stay as they are.
    targets : ndarray
        The task's targets of every post.
    rows : ndarray of int
        The posts to train on.
    learned : ndarray or None
        What the loss reads of every post, where that is more than its target (see :meth:`cotune.tasks.Task.learned`).
    weights : ndarray or None
        How much each post of `features` counts in the loss; only their proportions matter.
    held_out : HeldOut or None
        What is scored after every epoch.
    taught : ndarray or None
        Probabilities of every post that other models gave (see :mod:`cotune.training.distillation`), shape
        (N, n_outputs); NaN in rows without. ``distill_weight`` says how much they count beside the targets.
    further : ndarray or None
        Which posts are of further tables, boolean, shape (N,): they are trained on, never held out and never scored.
    """

    features: Features
    targets: np.ndarray
    rows: np.ndarray
    weights: np.ndarray | None = None
    held_out: HeldOut | None = None
    learned: np.ndarray | None = None
    taught: np.ndarray | None = None
    further: np.ndarray | None = None

    @property
    def own_rows(self) -> np.ndarray:
        """The posts to train on that are of the main table."""
        return self.rows if self.further is None else self.rows[~self.further[self.rows]]

    @property
    def of_loss(self) -> np.ndarray:
        """What the loss reads of every post."""
        return self.targets if self.learned is None else self.learned
