"""Scores of posts that have any number of labels, each written once and for any number of resamples.

As in :mod:`cotune.metrics.scores`, a resample is a vector of counts: how often each post was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cotune.errors import DataError
from cotune.metrics.checks import Floats
from cotune.metrics.intervals import BLOCK
from cotune.metrics.scores import CALIBRATION_BINS, Ranking, mean_of_drawn, mean_of_known, ratio
from cotune.report.numbers import plural

DEFAULT_THRESHOLD = 0.5


class MultiLabelSheet:
    """Everything about a set of predictions that does not depend on the resample.

    Parameters
    ----------
    targets : array of float, shape (N, K)
        1 where a post has a label, else 0; checked.
    proba : array of float, shape (N, K)
        Probabilities of the labels, each on its own; checked.
    thresholds : array of float, shape (K,)
        The probability from which a label is predicted.
    """

    def __init__(self, targets: Floats, proba: Floats, thresholds: Floats) -> None:
        self.targets, self.proba, self.thresholds = targets, proba, thresholds
        self.n, self.n_labels = targets.shape
        self.predicted = (proba >= thresholds).astype(np.float64)

    @classmethod
    def of(
        cls, targets: npt.ArrayLike, proba: npt.ArrayLike, thresholds: npt.ArrayLike | None = None
    ) -> MultiLabelSheet:
        """Return the sheet of targets and probabilities once they are checked; thresholds are 0.5 if not given.

        Raises
        ------
        DataError
            On no posts, shapes that differ, a target other than 0 and 1, or a probability outside of 0 to 1.
        """
        true, scores = np.asarray(targets, dtype=np.float64), np.asarray(proba, dtype=np.float64)
        _check_cells(true, scores)
        cuts = np.full(true.shape[1], DEFAULT_THRESHOLD) if thresholds is None else np.asarray(thresholds, np.float64)
        if cuts.shape != true.shape[1:]:
            raise DataError(f"{true.shape[1]} labels need as many thresholds, not the shape {cuts.shape}")
        return cls(true, scores, cuts)

    @cached_property
    def rankings(self) -> list[Ranking]:
        """The posts sorted by the probability of each label."""
        return [Ranking(self.targets[:, k] == 1, self.proba[:, k]) for k in range(self.n_labels)]

    @cached_property
    def _all_cells(self) -> Ranking:
        return Ranking(self.targets.ravel() == 1, self.proba.ravel())

    @cached_property
    def _cross_entropy(self) -> Floats:
        given = np.where(self.targets == 1, self.proba, 1 - self.proba)
        surprise: Floats = -np.log(np.clip(given, np.finfo(np.float64).eps, 1.0)).mean(axis=1)
        return surprise

    @cached_property
    def _all_right(self) -> Floats:
        right: Floats = (self.predicted == self.targets).all(axis=1).astype(np.float64)
        return right

    def auc(self, counts: Floats) -> Floats:
        """Mean AUC over the labels that some posts have and others do not (macro average)."""
        return mean_of_known(np.stack([ranking.auc(counts) for ranking in self.rankings], axis=1))

    def micro_auc(self, counts: Floats) -> Floats:
        """AUC over all pairs of a post and a label, as if each were a post of its own."""
        rows = max(1, BLOCK // self.targets.size)  # repeated counts are K times as large
        blocks = [counts[start : start + rows] for start in range(0, len(counts), rows)]
        return np.concatenate([self._all_cells.auc(np.repeat(block, self.n_labels, axis=1)) for block in blocks])

    def mean_average_precision(self, counts: Floats) -> Floats:
        """Mean average precision over the labels that a post has (macro average)."""
        found = [ranking.average_precision(counts) for ranking in self.rankings]
        return mean_of_known(np.stack(found, axis=1))

    def hits_and_sizes(self, counts: Floats) -> tuple[Floats, Floats, Floats]:
        """Return how many posts have each label both truly and predicted, truly, and predicted: (B, K) each."""
        return counts @ (self.targets * self.predicted), counts @ self.targets, counts @ self.predicted

    def micro_f1(self, counts: Floats) -> Floats:
        """F1 over all pairs of a post and a label."""
        hits, true, predicted = (found.sum(axis=1) for found in self.hits_and_sizes(counts))
        return ratio(2 * hits, true + predicted)

    def macro_f1(self, counts: Floats) -> Floats:
        """Mean F1 over the labels that are either true or predicted for some post."""
        hits, true, predicted = self.hits_and_sizes(counts)
        return mean_of_known(ratio(2 * hits, true + predicted))

    def subset_accuracy(self, counts: Floats) -> Floats:
        """Share of posts whose labels are all predicted, and no others."""
        return mean_of_drawn(counts, self._all_right)

    def log_loss(self, counts: Floats) -> Floats:
        """Mean binary cross-entropy of a post and a label, in nats; probabilities are kept above 2.2e-16."""
        return mean_of_drawn(counts, self._cross_entropy)

    def brier(self, counts: Floats) -> Floats:
        """Mean squared error of a post and a label: 0 is perfect, 1 the worst."""
        return mean_of_drawn(counts, ((self.proba - self.targets) ** 2).mean(axis=1))

    def calibration_error(self, counts: Floats) -> Floats:
        """Return how far probabilities lie from shares over all pairs of a post and a label.

        Mean gap between the probability and the share that has the label, over bins of equal width on the probability.
        """
        place = np.clip(np.ceil(self.proba * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
        gaps = np.zeros((self.n, CALIBRATION_BINS))
        np.add.at(gaps, (np.arange(self.n)[:, None], place), self.proba - self.targets)
        return ratio(np.abs(counts @ gaps).sum(axis=1), counts.sum(axis=1) * self.n_labels)


#: What a temperature changes.
CALIBRATION_SCORES: dict[str, Callable[[MultiLabelSheet, Floats], Floats]] = {
    "log_loss": MultiLabelSheet.log_loss,
    "brier": MultiLabelSheet.brier,
    "calibration_error": MultiLabelSheet.calibration_error,
}
MULTI_LABEL_SCORES: dict[str, Callable[[MultiLabelSheet, Floats], Floats]] = {
    "auc": MultiLabelSheet.auc,
    "micro_auc": MultiLabelSheet.micro_auc,
    "mean_average_precision": MultiLabelSheet.mean_average_precision,
    "micro_f1": MultiLabelSheet.micro_f1,
    "macro_f1": MultiLabelSheet.macro_f1,
    "subset_accuracy": MultiLabelSheet.subset_accuracy,
    "log_loss": MultiLabelSheet.log_loss,
}


def per_label(sheet: MultiLabelSheet, names: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    """Return the scores of each label by its name; None for one that is undefined.

    Parameters
    ----------
    sheet : MultiLabelSheet
        Targets and predictions.
    names : sequence of str
        Name of each column, K of them.

    Returns
    -------
    dict of dict
        `precision`, `recall`, `f1`, `auc`, `average_precision`, `support` (posts that truly have the label) and
        `threshold`.
    """
    once = np.ones((1, sheet.n))
    hits, true, predicted = sheet.hits_and_sizes(once)
    columns = {
        "precision": ratio(hits, predicted)[0],
        "recall": ratio(hits, true)[0],
        "f1": ratio(2 * hits, true + predicted)[0],
        "auc": [ranking.auc(once)[0] for ranking in sheet.rankings],
        "average_precision": [ranking.average_precision(once)[0] for ranking in sheet.rankings],
    }
    found: dict[str, dict[str, float | int | None]] = {}
    for k, name in enumerate(names):
        scores = {score: None if math.isnan(values[k]) else float(values[k]) for score, values in columns.items()}
        found[name] = {**scores, "support": int(true[0, k]), "threshold": float(sheet.thresholds[k])}
    return found


def best_f1_threshold(positive: npt.NDArray[np.bool_], proba: Floats) -> float:
    """Return the threshold with the best F1: 0.5 if it is as good as any, else one between neighbouring probabilities.

    Parameters
    ----------
    positive : array of bool, shape (N,)
        Which posts have the label.
    proba : array of float, shape (N,)
        Its probabilities.
    """
    values, place = np.unique(proba, return_inverse=True)
    if len(values) < 2:
        return DEFAULT_THRESHOLD
    # How many posts, and posts with the label, have each of the values or a larger one.
    chosen = np.bincount(place)[::-1].cumsum()[::-1]
    hits = np.bincount(place, weights=positive)[::-1].cumsum()[::-1]
    f1 = 2 * hits[1:] / (chosen[1:] + positive.sum())
    above = proba >= DEFAULT_THRESHOLD
    usual = 2 * (positive & above).sum() / max(1, above.sum() + positive.sum())
    if usual >= f1.max() - 1e-12:
        return DEFAULT_THRESHOLD
    # Between neighbouring floats there is nothing, and the lower one would take in the posts below.
    cuts = np.nextafter(values[:-1], np.inf)
    cuts = np.clip((values[:-1] + values[1:]) / 2, cuts, values[1:])[f1 >= f1.max() - 1e-12]
    return float(cuts[np.abs(cuts - DEFAULT_THRESHOLD).argmin()])


def _check_cells(targets: Floats, proba: Floats) -> None:
    if proba.ndim != 2 or proba.shape[1] == 0:
        raise DataError(f"probabilities need the shape (posts, labels), not {proba.shape}")
    if targets.shape != proba.shape:
        raise DataError(f"targets have the shape {targets.shape} but probabilities {proba.shape}; give one per label")
    if len(proba) == 0:
        raise DataError("there are no posts to score; give at least one labelled post")
    _refuse_rows(~((targets == 0) | (targets == 1)), "a target is neither 0 nor 1; encode the labels first")
    outside = ~((proba >= 0) & (proba <= 1))
    _refuse_rows(outside, "a probability is not a number from 0 to 1; apply a sigmoid to raw scores first")


def _refuse_rows(wrong: npt.NDArray[np.bool_], reason: str) -> None:
    rows = np.flatnonzero(wrong.any(axis=1))
    if len(rows):
        raise DataError(f"row {rows[0]}: {reason} ({plural(len(rows), 'such row')})")
