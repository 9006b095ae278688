"""What held-out posts say after an epoch, in a form that can always be compared."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cotune.metrics import score


@dataclass(frozen=True)
class HeldOutScore:
    """Scores of held-out posts; None where one is undefined.

    Attributes
    ----------
    auc : float or None
        None where all posts have the same label, as no AUC is defined then.
    loss : float or None
        The log loss; None where the model's answer is no number.
    """

    auc: float | None
    loss: float | None

    @property
    def value(self) -> float:
        """What early stopping maximises: the AUC, else the negative log loss, else minus infinity.

        It is never NaN, which no value is larger than and which is larger than none.
        """
        if self.auc is not None:
            return self.auc
        return -math.inf if self.loss is None else -self.loss


def score_held_out(labels: np.ndarray, proba: np.ndarray) -> HeldOutScore:
    """Score the probabilities of held-out posts.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
        Their classes.
    proba : ndarray, shape (N, C)
        Their probabilities; they may hold NaN, as those of a model that has diverged do.
    """
    if not np.isfinite(proba).all():
        return HeldOutScore(None, None)
    found = score(labels, proba)
    return HeldOutScore(None if math.isnan(found["auc"]) else found["auc"], found["log_loss"])
