"""Percentile bootstrap intervals of scores, and the full evaluation of a set of predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cotune.errors import ConfigError, DataError, did_you_mean
from cotune.metrics.calibration import calibration_bins
from cotune.metrics.checks import Floats, Ints, checked
from cotune.metrics.curves import ranking_curves
from cotune.metrics.scores import SCORES, ScoreSheet, confusion_matrix, one_hot

# Counts held at one time: 4 million float64 are 32 MB.
BLOCK = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A score and its interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Return the three numbers by name; NaN becomes None, which JSON can hold."""
        return {"value": _jsonable(self.value), "low": _jsonable(self.low), "high": _jsonable(self.high)}


@dataclass(frozen=True)
class Evaluation:
    """Every score of a set of predictions, and what else a report shows of them.

    Attributes
    ----------
    n : int
        Posts scored.
    scores : dict of str to Estimate
        Every score of the task with its interval.
    details : dict
        What belongs to the task, as plain JSON values. Of classes: ``classes``, ``confusion`` (rows are true and
        columns predicted classes), ``per_class``, ``calibration`` and ``curves``.
    confidence, n_bootstrap, seed
        How the intervals were made.
    """

    n: int
    scores: dict[str, Estimate]
    details: dict[str, Any]
    confidence: float
    n_bootstrap: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain lists, numbers and strings, ready for JSON; NaN becomes None."""
        return {
            "n": self.n,
            "scores": {name: estimate.to_dict() for name, estimate in self.scores.items()},
            **self.details,
            "confidence": self.confidence,
            "n_bootstrap": self.n_bootstrap,
            "seed": self.seed,
        }


def evaluate_sheet(
    sheet: Any,
    functions: Mapping[str, Callable[[Any, Floats], Floats]],
    details: dict[str, Any],
    *,
    n: int,
    n_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Evaluation:
    """Return scores with percentile bootstrap intervals over posts.

    A resample in which a score is undefined (one class only) is left out of that score's interval.

    Parameters
    ----------
    sheet : object
        Targets and predictions, prepared for any resample, such as a :class:`~cotune.metrics.scores.ScoreSheet`.
    functions : mapping
        Scores by name: functions of the sheet and of counts of shape (B, n), each giving B values.
    details : dict
        See :class:`Evaluation`.
    n : int
        Posts scored.
    n_bootstrap : int
        Resamples of the posts; with 0 the intervals are NaN.
    seed : int
        Seed of the resampling.
    confidence : float
        Coverage of the intervals.
    """
    _check_settings(n_bootstrap, confidence)
    once = np.ones((1, n))
    draws: dict[str, list[Floats]] = {name: [] for name in functions}
    for counts in resamples(n, n_bootstrap, seed):
        for name, function in functions.items():
            draws[name].append(function(sheet, counts))
    scores = {
        name: _estimate(float(function(sheet, once)[0]), draws[name], confidence)
        for name, function in functions.items()
    }
    return Evaluation(n, scores, details, confidence, n_bootstrap, seed)


def evaluate(
    y: npt.ArrayLike,
    proba: npt.ArrayLike,
    classes: Sequence[str],
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Evaluation:
    """Score predictions, with a percentile bootstrap interval over posts for every score.

    Parameters
    ----------
    y : array-like of int, shape (N,)
        True classes as column numbers.
    proba : array-like of float, shape (N, C)
        Probabilities, each row adding up to 1.
    classes : sequence of str
        Name of each column.
    n_bootstrap : int
        Resamples of the posts; with 0 the intervals are NaN.
    seed : int
        Seed of the resampling.
    confidence : float
        Coverage of the intervals.
    """
    sheet = ScoreSheet.of(y, proba)
    names = tuple(str(name) for name in classes)
    if len(names) != sheet.n_classes or len(set(names)) != len(names):
        raise DataError(f"{sheet.n_classes} columns of probabilities need as many different class names: {names}")
    confusion = confusion_matrix(sheet.y, sheet.proba)
    details = {
        "classes": list(names),
        "confusion": confusion.tolist(),
        "per_class": _per_class(names, confusion),
        "calibration": calibration_bins(sheet.y, sheet.proba),
        "curves": ranking_curves(one_hot(sheet.y, sheet.n_classes) == 1, sheet.proba, names),
    }
    return evaluate_sheet(sheet, SCORES, details, n=sheet.n, n_bootstrap=n_bootstrap, seed=seed, confidence=confidence)


def bootstrap_interval(
    y: npt.ArrayLike,
    proba: npt.ArrayLike,
    metric: str | Callable[[Ints, Floats], float] = "auc",
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Return one score with its percentile bootstrap interval.

    Parameters
    ----------
    y, proba
        As in :func:`evaluate`; a function may also be given scores that are no probabilities.
    metric : str or callable
        A name out of :data:`cotune.metrics.SCORE_NAMES` (fast), or a function of `y` and `proba` that returns
        a number (called once per resample).
    n_bootstrap, seed, confidence
        As in :func:`evaluate`.
    """
    _check_settings(n_bootstrap, confidence)
    if isinstance(metric, str):
        if metric not in SCORES:
            raise ConfigError(
                f"unknown metric {metric!r}{did_you_mean(metric, SCORES)}; known are: {', '.join(SCORES)}"
            )
        sheet, function = ScoreSheet.of(y, proba), SCORES[metric]
        value = float(function(sheet, np.ones((1, sheet.n)))[0])
        draws = [function(sheet, counts) for counts in resamples(sheet.n, n_bootstrap, seed)]
        return _estimate(value, draws, confidence)
    labels, scores = checked(y, proba, probabilities=False)
    numbers = []
    for counts in resamples(len(labels), n_bootstrap, seed):
        for row in counts:
            drawn = np.repeat(np.arange(len(labels)), row.astype(np.int64))
            numbers.append(float(metric(labels[drawn], scores[drawn])))
    return _estimate(float(metric(labels, scores)), [np.array(numbers)], confidence)


def resamples(n: int, n_bootstrap: int, seed: int) -> Iterator[Floats]:
    """Yield blocks of resamples of `n` posts, each row saying how often each post was drawn."""
    rng = np.random.default_rng(seed)
    size = max(1, BLOCK // n)
    for start in range(0, n_bootstrap, size):
        rows = min(size, n_bootstrap - start)
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def percentile_interval(draws: Floats, confidence: float) -> tuple[float, float]:
    """Return the central part of `draws` that holds `confidence` of them; NaN draws are left out."""
    known = draws[~np.isnan(draws)]
    if len(known) == 0:
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def _estimate(value: float, draws: list[Floats], confidence: float) -> Estimate:
    low, high = percentile_interval(np.concatenate(draws) if draws else np.empty(0), confidence)
    return Estimate(value, low, high)


def _per_class(names: tuple[str, ...], confusion: Ints) -> dict[str, dict[str, float | int | None]]:
    """Return precision, recall and F1 of each class, and how many posts truly have it; None for a ratio of nothing."""

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    found: dict[str, dict[str, float | int | None]] = {}
    for k, name in enumerate(names):
        hits, true, predicted = int(confusion[k, k]), int(confusion[k].sum()), int(confusion[:, k].sum())
        found[name] = {
            "precision": share(hits, predicted),
            "recall": share(hits, true),
            "f1": share(2 * hits, true + predicted),
            "support": true,
        }
    return found


def _check_settings(n_bootstrap: int, confidence: float) -> None:
    if n_bootstrap < 0:
        raise ConfigError(f"n_bootstrap must be 0 or more, not {n_bootstrap}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, not {confidence}")


def _jsonable(number: float) -> float | None:
    return None if math.isnan(number) else number
