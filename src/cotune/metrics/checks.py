"""Make sure that labels and probabilities fit together before anything is counted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cotune.errors import DataError
from cotune.report.numbers import plural

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Half-precision softmax outputs add up to 1 only roughly.
SUM_TOLERANCE = 1e-2


def checked(y: npt.ArrayLike, proba: npt.ArrayLike, *, probabilities: bool = True) -> tuple[Ints, Floats]:
    """Return `y` as integers and `proba` as float64, or say which row does not fit.

    Parameters
    ----------
    y : array-like of int, shape (N,)
        True classes as column numbers of `proba`.
    proba : array-like of float, shape (N, C)
        One column per class.
    probabilities : bool
        Also ask that each row lies in [0, 1] and adds up to 1; ranking metrics do not need this.

    Raises
    ------
    DataError
        On no posts, shapes that differ, a label outside of the columns, or a value that is no number.
    """
    scores = np.asarray(proba, dtype=np.float64)
    labels = np.asarray(y)
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise DataError(f"probabilities need the shape (posts, classes), not {scores.shape}")
    if labels.shape != (len(scores),):
        raise DataError(f"labels have the shape {labels.shape} but there are {len(scores)} rows of probabilities")
    if len(scores) == 0:
        raise DataError("there are no posts to score; give at least one labelled post")
    return _checked_labels(labels, scores.shape[1]), _checked_scores(scores, probabilities)


def _checked_labels(labels: npt.NDArray[np.generic], n_classes: int) -> Ints:
    if labels.dtype.kind not in "iub":
        whole = labels.dtype.kind == "f" and bool(np.all(labels == np.floor(labels.astype(np.float64))))
        if not whole:
            raise DataError(f"labels must be class numbers 0 to {n_classes - 1}, not {labels.dtype} values")
    numbers = labels.astype(np.int64)
    outside = np.flatnonzero((numbers < 0) | (numbers >= n_classes))
    if len(outside):
        raise DataError(
            f"row {outside[0]}: label {numbers[outside[0]]} is outside of 0 to {n_classes - 1} "
            f"({plural(len(outside), 'such row')}); leave posts without a known label out before scoring"
        )
    return numbers


def _checked_scores(scores: Floats, probabilities: bool) -> Floats:
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(broken):
        raise DataError(
            f"row {broken[0]}: a probability is not a finite number ({plural(len(broken), 'such row')}); "
            "leave posts with an error out before scoring"
        )
    if not probabilities:
        return scores
    off = np.abs(scores.sum(axis=1) - 1) > SUM_TOLERANCE
    off |= ((scores < -SUM_TOLERANCE) | (scores > 1 + SUM_TOLERANCE)).any(axis=1)
    wrong = np.flatnonzero(off)
    if len(wrong):
        raise DataError(
            f"row {wrong[0]}: probabilities must lie in 0 to 1 and add up to 1 ({plural(len(wrong), 'such row')}); "
            "apply a softmax to raw scores first"
        )
    return np.clip(scores, 0.0, 1.0)
