"""Paired tests of whether one model's AUC is really above another's on the same posts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from cotune.errors import ConfigError, DataError
from cotune.metrics.checks import Floats, checked
from cotune.metrics.intervals import percentile_interval, resamples
from cotune.metrics.scores import MacroAuc


@dataclass(frozen=True)
class AucComparison:
    """Two models' AUC on the same posts; `difference` is a minus b, with interval and two-sided p-value."""

    auc_a: float
    auc_b: float
    difference: float
    low: float
    high: float
    p_value: float

    def to_dict(self) -> dict[str, float | None]:
        """Return the numbers by name; NaN becomes None, which JSON can hold."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


def delong_covariance(y: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return the AUC of several scores on the same posts, and the covariance of these estimates.

    Parameters
    ----------
    y : array-like of int, shape (N,)
        1 for the posts that should score high, else 0.
    scores : array-like of float, shape (N, K)
        One column per model.

    Returns
    -------
    aucs : array, shape (K,)
    covariance : array, shape (K, K)

    Notes
    -----
    DeLong, DeLong and Clarke-Pearson (1988), with the O(N log N) midrank form of Sun and Xu, "Fast
    Implementation of DeLong's Algorithm", IEEE Signal Processing Letters 21(11), 2014. Each class needs two
    posts at least.
    """
    from scipy.stats import rankdata

    table = np.asarray(scores, dtype=np.float64)
    labels, _ = checked(y, np.zeros((len(table), 2)), probabilities=False)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise DataError("scores need the shape (posts, models) and finite numbers only")
    positive, negative = table[labels == 1], table[labels == 0]
    m, n = len(positive), len(negative)
    if min(m, n) < 2:
        raise DataError(f"DeLong's test needs two posts of each class at least; there are {n} and {m}")
    together = rankdata(np.vstack([positive, negative]), axis=0)
    # How much of the other side each post outranks; their means are the AUC, their spread its variance.
    beats = (together[:m] - rankdata(positive, axis=0)) / n
    beaten = 1 - (together[m:] - rankdata(negative, axis=0)) / m
    covariance = np.atleast_2d(np.cov(beats, rowvar=False)) / m + np.atleast_2d(np.cov(beaten, rowvar=False)) / n
    return beats.mean(axis=0), covariance


def delong_test(
    y: npt.ArrayLike, proba_a: npt.ArrayLike, proba_b: npt.ArrayLike, *, confidence: float = 0.95
) -> AucComparison:
    """Compare the AUC of two models on the same posts of two classes; see :func:`delong_covariance`.

    Parameters
    ----------
    y : array-like of int, shape (N,)
        True classes, 0 or 1.
    proba_a, proba_b : array-like of float, shape (N, 2)
        Scores of the two models; column 1 is used.
    confidence : float
        Coverage of the interval.
    """
    from scipy.stats import norm

    _check_confidence(confidence)
    labels, a = checked(y, proba_a, probabilities=False)
    _, b = checked(y, proba_b, probabilities=False)
    if a.shape[1] != 2 or b.shape[1] != 2:
        raise DataError(
            f"DeLong's test is for two classes; there are {a.shape[1]} and {b.shape[1]} columns: "
            "use paired_bootstrap_auc"
        )
    (auc_a, auc_b), covariance = delong_covariance(labels, np.column_stack([a[:, 1], b[:, 1]]))
    difference = float(auc_a - auc_b)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = math.sqrt(variance) if variance > 1e-18 else 0.0  # rounding leaves a trace where models agree
    no_spread = 1.0 if abs(difference) < 1e-12 else 0.0
    p_value = 2 * float(norm.sf(abs(difference) / error)) if error else no_spread
    reach = float(norm.ppf((1 + confidence) / 2)) * error
    return AucComparison(float(auc_a), float(auc_b), difference, difference - reach, difference + reach, p_value)


def paired_bootstrap_auc(
    y: npt.ArrayLike,
    proba_a: npt.ArrayLike,
    proba_b: npt.ArrayLike,
    n_bootstrap: int = 2000,
    seed: int = 0,
    *,
    confidence: float = 0.95,
) -> AucComparison:
    """Compare the AUC of two models on the same resamples of the posts, for any number of classes.

    Parameters
    ----------
    y : array-like of int, shape (N,)
        True classes as column numbers.
    proba_a, proba_b : array-like of float, shape (N, C)
        Scores of the two models for the same posts in the same order.
    n_bootstrap, seed
        Resamples, and the seed they are drawn with.
    confidence : float
        Coverage of the percentile interval.

    Notes
    -----
    The p-value is twice the share of resamples on the far side of zero, with one added to both counts so that
    it is never zero. Resamples without an AUC (one class only) are left out.
    """
    _check_confidence(confidence)
    if n_bootstrap < 1:
        raise ConfigError(f"n_bootstrap must be 1 or more, not {n_bootstrap}")
    labels, a = checked(y, proba_a, probabilities=False)
    _, b = checked(y, proba_b, probabilities=False)
    if a.shape != b.shape:
        raise DataError(f"the two models have different classes: {a.shape[1]} and {b.shape[1]} columns")
    auc_a, auc_b = MacroAuc(labels, a), MacroAuc(labels, b)
    once = np.ones((1, len(labels)))
    whole_a, whole_b = float(auc_a(once)[0]), float(auc_b(once)[0])
    draws = np.concatenate([auc_a(counts) - auc_b(counts) for counts in resamples(len(labels), n_bootstrap, seed)])
    draws = draws[~np.isnan(draws)]
    low, high = percentile_interval(draws, confidence)
    return AucComparison(whole_a, whole_b, whole_a - whole_b, low, high, paired_p(draws))


def paired_p(draws: Floats) -> float:
    """Return the two-sided p-value of a paired bootstrap: how often the difference, without NaN, crosses zero."""
    if not len(draws):
        return math.nan
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(draws) + 1))


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Return p-values adjusted for their number by Holm's step-down method (1979), in the order given.

    A NaN stays NaN and does not count as a test that was made.
    """
    given = np.asarray(p_values, dtype=np.float64).ravel()
    known = np.flatnonzero(~np.isnan(given))
    if ((given[known] < 0) | (given[known] > 1)).any():
        raise DataError("p-values must lie between 0 and 1")
    order = known[np.argsort(given[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted = np.full(len(given), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * factors), 1.0)
    return adjusted


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, not {confidence}")
