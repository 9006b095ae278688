"""Scores of predicted numbers, each written once and for any number of resamples.

As in :mod:`cotune.metrics.scores`, a resample is a vector of counts: how often each post was drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cotune.errors import DataError
from cotune.metrics.checks import Floats
from cotune.metrics.scores import mean_of_drawn, ratio
from cotune.report.numbers import plural


class Midranks:
    """Values sorted once, ready to give the ranks in any resample.

    Parameters
    ----------
    values : array of float, shape (N,)
        What is ranked.
    """

    def __init__(self, values: Floats) -> None:
        self._order = np.argsort(values, kind="stable")
        ordered = values[self._order]
        new = np.concatenate(([True], ordered[1:] != ordered[:-1]))
        self._starts = np.flatnonzero(new)
        self._group = np.empty(len(values), dtype=np.int64)
        self._group[self._order] = np.cumsum(new) - 1

    def ranks(self, counts: Floats) -> Floats:
        """Return the rank of every post among those drawn, shape (B, N); equal values share their mean rank."""
        drawn = np.add.reduceat(counts[:, self._order], self._starts, axis=1)
        ranks: Floats = (np.cumsum(drawn, axis=1) - drawn / 2 + 0.5)[:, self._group]
        return ranks


class RegressionSheet:
    """Everything about a set of predictions that does not depend on the resample.

    Parameters
    ----------
    targets, predictions : array of float, shape (N,)
        True and predicted values, checked.
    """

    def __init__(self, targets: Floats, predictions: Floats) -> None:
        self.targets, self.predictions = targets, predictions
        self.n = len(targets)
        self.error = predictions - targets

    @classmethod
    def of(cls, targets: npt.ArrayLike, predictions: npt.ArrayLike) -> RegressionSheet:
        """Return the sheet of targets, shape (N,), and predictions, shape (N,) or (N, 1), once they are checked.

        Raises
        ------
        DataError
            On no posts, shapes that differ, or a value that is not a finite number.
        """
        true, found = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
        if found.ndim == 2 and found.shape[1] == 1:
            found = found[:, 0]
        if true.ndim != 1 or found.shape != true.shape:
            raise DataError(f"targets have the shape {true.shape} but predictions {found.shape}; give one value a post")
        if len(true) == 0:
            raise DataError("there are no posts to score; give at least one labelled post")
        for what, values in (("target", true), ("prediction", found)):
            wrong = np.flatnonzero(~np.isfinite(values))
            if len(wrong):
                raise DataError(
                    f"row {wrong[0]}: the {what} is not a finite number ({plural(len(wrong), 'such row')}); "
                    "leave posts with an error out before scoring"
                )
        return cls(true, found)

    @cached_property
    def _target_ranks(self) -> Midranks:
        return Midranks(self.targets)

    @cached_property
    def _prediction_ranks(self) -> Midranks:
        return Midranks(self.predictions)

    def mae(self, counts: Floats) -> Floats:
        """Mean absolute error."""
        return mean_of_drawn(counts, np.abs(self.error))

    def rmse(self, counts: Floats) -> Floats:
        """Root of the mean squared error."""
        return np.sqrt(mean_of_drawn(counts, self.error**2))

    def r2(self, counts: Floats) -> Floats:
        """Share of the variance that is explained; NaN where all targets are equal."""
        deviation = _deviations(self.targets, counts)
        found: Floats = 1 - ratio(counts @ self.error**2, _sums(counts, deviation, deviation))
        return np.where(_varies(self.targets, counts), found, np.nan)

    def pearson(self, counts: Floats) -> Floats:
        """Pearson correlation of targets and predictions; NaN where one of them is constant."""
        return self._correlation(counts, _deviations(self.targets, counts), _deviations(self.predictions, counts))

    def spearman(self, counts: Floats) -> Floats:
        """Pearson correlation of the ranks; NaN where targets or predictions are constant."""
        middle = (counts.sum(axis=1, keepdims=True) + 1) / 2
        ranks = self._target_ranks.ranks(counts) - middle, self._prediction_ranks.ranks(counts) - middle
        return self._correlation(counts, *ranks)

    def _correlation(self, counts: Floats, a: Floats, b: Floats) -> Floats:
        """Return the correlation of deviations from the mean, shape (B, N) each."""
        spread = np.sqrt(_sums(counts, a, a)) * np.sqrt(_sums(counts, b, b))
        found = np.clip(ratio(_sums(counts, a, b), spread), -1.0, 1.0)
        # Rounding leaves a trace of spread where all values are equal.
        defined = _varies(self.targets, counts) & _varies(self.predictions, counts)
        return np.where(defined, found, np.nan)


REGRESSION_SCORES: dict[str, Callable[[RegressionSheet, Floats], Floats]] = {
    "mae": RegressionSheet.mae,
    "rmse": RegressionSheet.rmse,
    "r2": RegressionSheet.r2,
    "spearman": RegressionSheet.spearman,
    "pearson": RegressionSheet.pearson,
}


def _deviations(values: Floats, counts: Floats) -> Floats:
    """Return each value's deviation from the mean of the resample, shape (B, N)."""
    deviations: Floats = values - mean_of_drawn(counts, values)[:, None]
    return deviations


def _sums(counts: Floats, a: Floats, b: Floats) -> Floats:
    """Return the sum of products over the posts drawn, shape (B,)."""
    sums: Floats = np.einsum("bn,bn,bn->b", counts, a, b)
    return sums


def _varies(values: Floats, counts: Floats) -> npt.NDArray[np.bool_]:
    """Tell for each resample whether it holds two different values."""
    drawn = counts > 0
    low = np.where(drawn, values, np.inf).min(axis=1)
    high = np.where(drawn, values, -np.inf).max(axis=1)
    varies: npt.NDArray[np.bool_] = low < high
    return varies
