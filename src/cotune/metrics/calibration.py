"""Calibration: the bins behind a calibration curve."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cotune.metrics.checks import checked
from cotune.metrics.scores import CALIBRATION_BINS


def calibration_bins(y: npt.ArrayLike, proba: npt.ArrayLike, *, n_bins: int = CALIBRATION_BINS) -> list[dict[str, Any]]:
    """Return the bins that hold a post, from the least to the most confident.

    Parameters
    ----------
    y : array-like of int, shape (N,)
        True classes as column numbers.
    proba : array-like of float, shape (N, C)
        Probabilities, each row adding up to 1.
    n_bins : int
        Bins of equal width on the confidence of the most likely class; by default those of the calibration
        error.

    Returns
    -------
    list of dict
        `low` and `high` (the bin's edges), `n` (posts in it), `confidence` (their mean confidence) and
        `accuracy` (the share of them whose most likely class is the true one).
    """
    labels, probabilities = checked(y, proba)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    return [
        {
            "low": bin_ / n_bins,
            "high": (bin_ + 1) / n_bins,
            "n": int(inside.sum()),
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(right[inside].mean()),
        }
        for bin_ in range(n_bins)
        if (inside := place == bin_).any()
    ]
