"""Scores of one set of predictions, each written once and for any number of resamples.

A bootstrap resample is a vector of counts: how often each post was drawn. All scores here are computed from
such counts, for a whole block of resamples at a time; the plain score is the case in which every count is 1.
Sorting, the expensive part of an AUC, is therefore done once and not once per resample.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cotune.metrics.checks import Floats, Ints, checked

CALIBRATION_BINS = 15


class Ranking:
    """Posts sorted by one score, ready to give the AUC of any resample.

    Parameters
    ----------
    positive : array of bool, shape (N,)
        Which posts belong to the class that should score high.
    scores : array of float, shape (N,)
        Higher means more likely positive.
    """

    def __init__(self, positive: npt.NDArray[np.bool_], scores: Floats) -> None:
        self._order = np.argsort(scores, kind="stable")
        ordered = scores[self._order]
        self._positive = positive[self._order].astype(np.float64)
        self._starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))

    def auc(self, counts: Floats) -> Floats:
        """Return the AUC of each row of `counts` (shape (B, N)); NaN where one of the two sides is empty.

        The AUC is the chance that a positive outranks a negative, a tie counting one half (as midranks do).
        """
        positive, negative = self._steps(counts)
        outranked = np.cumsum(negative, axis=1) - negative / 2
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        wins = np.einsum("bn,bn->b", positive, outranked)
        return ratio(wins, pairs)

    def average_precision(self, counts: Floats) -> Floats:
        """Return the average precision of each row of `counts` (shape (B, N)); NaN where there is no positive.

        The mean over positives of the precision among the posts that score as high or higher, without interpolation.
        """
        positive, negative = self._steps(counts)
        hits = positive[:, ::-1].cumsum(axis=1)[:, ::-1]
        chosen = hits + negative[:, ::-1].cumsum(axis=1)[:, ::-1]
        precision = np.nan_to_num(ratio(hits, chosen))
        return ratio(np.einsum("bn,bn->b", positive, precision), positive.sum(axis=1))

    def _steps(self, counts: Floats) -> tuple[Floats, Floats]:
        """Return the positives and negatives drawn at each step of the score, from the lowest up."""
        drawn = counts[:, self._order]
        positive = drawn * self._positive
        negative = drawn - positive
        if len(self._starts) < drawn.shape[1]:  # posts with equal scores become one step
            positive = np.add.reduceat(positive, self._starts, axis=1)
            negative = np.add.reduceat(negative, self._starts, axis=1)
        return positive, negative


class MacroAuc:
    """The AUC of a whole table of predictions for any resample; see :func:`roc_auc` for what it means."""

    def __init__(self, y: Ints, proba: Floats) -> None:
        n_classes = proba.shape[1]
        columns = [1] if n_classes == 2 else range(n_classes if n_classes > 1 else 0)
        # A class that nobody has cannot come up in a resample either.
        self._rankings = [Ranking(y == k, proba[:, k]) for k in columns if n_classes == 2 or (y == k).any()]

    def __call__(self, counts: Floats) -> Floats:
        """Return the AUC of each row of `counts`."""
        if not self._rankings:
            return np.full(len(counts), np.nan)
        return mean_of_known(np.stack([ranking.auc(counts) for ranking in self._rankings], axis=1))


def ratio(top: Floats, bottom: Floats) -> Floats:
    """Return `top` / `bottom`, NaN where `bottom` is zero."""
    out: Floats = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out


def mean_of_known(values: Floats) -> Floats:
    """Return the mean of each row over its values that are not NaN; NaN for a row without any."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1).astype(np.float64))


def mean_of_drawn(counts: Floats, values: Floats) -> Floats:
    """Return the mean over posts of one value per post, for each resample."""
    return ratio(counts @ values, counts.sum(axis=1))


def one_hot(numbers: Ints, width: int) -> Floats:
    """Return one row per number, 1 in the column of that number."""
    rows: Floats = (numbers[:, None] == np.arange(width)).astype(np.float64)
    return rows


class ScoreSheet:
    """Everything about a set of predictions that does not depend on the resample.

    Parameters
    ----------
    y : array of int, shape (N,)
        True classes, checked.
    proba : array of float, shape (N, C)
        Probabilities, checked.
    """

    def __init__(self, y: Ints, proba: Floats) -> None:
        self.y, self.proba = y, proba
        self.n, self.n_classes = proba.shape
        self.predicted = proba.argmax(axis=1)
        self.right = (self.predicted == y).astype(np.float64)

    @classmethod
    def of(cls, y: npt.ArrayLike, proba: npt.ArrayLike) -> ScoreSheet:
        """Return the sheet of classes and probabilities once they are checked; see :func:`score`."""
        return cls(*checked(y, proba))

    @cached_property
    def _auc(self) -> MacroAuc:
        return MacroAuc(self.y, self.proba)

    @cached_property
    def _true(self) -> Floats:
        return one_hot(self.y, self.n_classes)

    @cached_property
    def _chosen(self) -> Floats:
        return one_hot(self.predicted, self.n_classes)

    @cached_property
    def _surprise(self) -> Floats:
        given = self.proba[np.arange(self.n), self.y]
        surprise: Floats = -np.log(np.clip(given, np.finfo(np.float64).eps, 1.0))
        return surprise

    @cached_property
    def _squared_error(self) -> Floats:
        error: Floats = ((self.proba - self._true) ** 2).sum(axis=1)
        return error

    @cached_property
    def _overconfidence(self) -> Floats:
        confidence = self.proba.max(axis=1)
        # Bins are open below and closed above, as in Guo et al.; the guard keeps a confidence of 0 inside.
        place = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
        gap: Floats = one_hot(place, CALIBRATION_BINS) * (confidence - self.right)[:, None]
        return gap

    def auc(self, counts: Floats) -> Floats:
        """Area under the ROC curve, see :func:`roc_auc`."""
        return self._auc(counts)

    def accuracy(self, counts: Floats) -> Floats:
        """Share of posts whose most likely class is the true one."""
        return mean_of_drawn(counts, self.right)

    def _f1_and_support(self, counts: Floats) -> tuple[Floats, Floats]:
        support: Floats = counts @ self._true
        hits: Floats = counts @ (self._true * self._chosen)
        return ratio(2 * hits, support + counts @ self._chosen), support

    def macro_f1(self, counts: Floats) -> Floats:
        """Mean F1 over the classes that are either true or predicted for some post."""
        return mean_of_known(self._f1_and_support(counts)[0])

    def weighted_f1(self, counts: Floats) -> Floats:
        """Mean F1 over classes, each weighing as much as it has true posts."""
        f1, support = self._f1_and_support(counts)
        return ratio((np.nan_to_num(f1) * support).sum(axis=1), support.sum(axis=1))

    def log_loss(self, counts: Floats) -> Floats:
        """Mean negative log-likelihood of the true class, in nats; probabilities are kept above 2.2e-16."""
        return mean_of_drawn(counts, self._surprise)

    def brier(self, counts: Floats) -> Floats:
        """Mean squared error summed over all classes (Brier 1950): 0 is perfect, 2 the worst."""
        return mean_of_drawn(counts, self._squared_error)

    def calibration_error(self, counts: Floats) -> Floats:
        """Return the expected calibration error, see :func:`score`."""
        return ratio(np.abs(counts @ self._overconfidence).sum(axis=1), counts.sum(axis=1))


SCORES: dict[str, Callable[[ScoreSheet, Floats], Floats]] = {
    "auc": ScoreSheet.auc,
    "accuracy": ScoreSheet.accuracy,
    "macro_f1": ScoreSheet.macro_f1,
    "weighted_f1": ScoreSheet.weighted_f1,
    "log_loss": ScoreSheet.log_loss,
    "brier": ScoreSheet.brier,
    "calibration_error": ScoreSheet.calibration_error,
}
SCORE_NAMES = tuple(SCORES)


def roc_auc(y: npt.ArrayLike, proba: npt.ArrayLike) -> float:
    """Return the area under the ROC curve: of column 1 for two classes, else macro one-vs-rest.

    Classes absent from `y` have no ROC curve and are left out of the mean.

    Parameters
    ----------
    y : array-like of int, shape (N,)
        True classes as column numbers.
    proba : array-like of float, shape (N, C)
        Scores; only their order within a column matters.

    Returns
    -------
    float
        0.5 is chance, ties count one half; NaN when fewer than two classes are present in `y`.
    """
    labels, scores = checked(y, proba, probabilities=False)
    return float(MacroAuc(labels, scores)(np.ones((1, len(labels))))[0])


def score(y: npt.ArrayLike, proba: npt.ArrayLike) -> dict[str, float]:
    """Return every score of a set of predictions.

    Parameters
    ----------
    y : array-like of int, shape (N,)
        True classes as column numbers.
    proba : array-like of float, shape (N, C)
        Probabilities, each row adding up to 1.

    Returns
    -------
    dict
        `auc` (see :func:`roc_auc`), `accuracy`, `macro_f1` (over classes that are true or predicted
        somewhere), `weighted_f1`, `log_loss` (nats), `brier` (summed over classes, 0 to 2) and
        `calibration_error`.

    Notes
    -----
    The calibration error is that of Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural
    Networks", ICML 2017: 15 equal-width bins on the confidence of the most likely class; the gaps between
    confidence and accuracy are averaged with the bins' sizes as weights.
    """
    sheet = ScoreSheet.of(y, proba)
    once = np.ones((1, sheet.n))
    return {name: float(function(sheet, once)[0]) for name, function in SCORES.items()}


def confusion_matrix(y: npt.ArrayLike, proba: npt.ArrayLike) -> Ints:
    """Return the counts of true classes (rows) against most likely classes (columns), shape (C, C)."""
    sheet = ScoreSheet(*checked(y, proba, probabilities=False))
    cells = sheet.y * sheet.n_classes + sheet.predicted
    counts = np.bincount(cells, minlength=sheet.n_classes**2)
    return counts.reshape(sheet.n_classes, sheet.n_classes).astype(np.int64)
