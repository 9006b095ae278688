"""Thresholds that keep a target with a known probability, found on labelled posts that the model has not seen.

The guarantees are finite-sample ones. They hold if labelled and coming posts are independent draws from one
distribution; none can survive a drift.

*Act* (precision). Candidates are the m posts with the highest probability, for a grid of m. Given the probability of
the next post, the m above it are independent draws from all posts above it, so that the posts of the class among them
are binomial, and ``P(Bin(m, target) >= found)`` is a p-value for "the precision is below the target". Candidates are
tested from the strictest on until one fails, and again from a later start, each start with its part of the error: fixed
sequence testing with several starts, as in A. Angelopoulos, S. Bates, E. Candès, M. Jordan, L. Lei, "Learn
then Test: Calibrating Predictive Algorithms to Achieve Risk Control", arXiv:2110.01052 (2021). As candidates are ranks
rather than fixed numbers, it takes one more condition: the precision above a threshold does not rise when the threshold
is lowered.

*Allow* (recall). A threshold at the j-th lowest probability among the N posts of the class misses a part of the class
that is Beta(j, N + 1 - j) distributed at the most, whatever the distribution (S. S. Wilks, "Determination of sample
sizes for setting tolerance limits", 1941); the largest j that keeps the target is taken, which needs no correction.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cotune.metrics.checks import Floats

Bools = npt.NDArray[np.bool_]
#: Part of the error that each start may spend, and its posts as a multiple of the fewest that can show the target.
#: The second one is for models whose most probable posts are no better than the next.
_STARTS = ((0.8, 1), (0.2, 4))
_STEP = 1.05  # from a candidate to the next


@dataclass(frozen=True)
class Threshold:
    """A threshold on the probability of the class, and what it rests on.

    Attributes
    ----------
    value : float
        The threshold; posts strictly beyond it are acted on, or allowed.
    found, of : int
        Posts that are right, and posts that were counted.
    bound : float
        Lower bound of the precision or the recall by Clopper and Pearson, at `level`.
    level : float
        Confidence of that bound, with the correction for the candidates that were tried.
    """

    value: float
    found: int
    of: int
    bound: float
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def lower_bound(found: int, of: int, confidence: float) -> float:
    """Return the one-sided lower bound of a part by Clopper and Pearson (Biometrika, 1934)."""
    from scipy.stats import beta

    return 0.0 if found == 0 else float(beta.ppf(1 - confidence, found, of - found + 1))


def interval(found: int, of: int, confidence: float = 0.95) -> dict[str, float | None]:
    """Return a part as `value` with its two-sided interval by Clopper and Pearson, `low` and `high`."""
    if of == 0:
        return {"value": None, "low": 0.0, "high": 1.0}
    each = (1 + confidence) / 2
    return {"value": found / of, "low": lower_bound(found, of, each), "high": 1 - lower_bound(of - found, of, each)}


def fewest_posts(target: float, error: float) -> int:
    """Return how many posts, all of them right, show a precision or recall of `target` but for an `error`."""
    return math.ceil(math.log(error) / math.log(target))


def fewest_to_act(precision: float, confidence: float) -> int:
    """Return how many posts must be acted on before their precision can be shown."""
    return fewest_posts(precision, (1 - confidence) * _STARTS[0][0])


def act_threshold(positive: Bools, scores: Floats, precision: float, confidence: float) -> Threshold | None:
    """Return the lowest threshold above which the precision is at least `precision`; None if none can be shown to.

    Parameters
    ----------
    positive : array of bool, shape (N,)
        Which posts have the class.
    scores : array of float, shape (N,)
        Their probabilities of it.
    precision : float
        The target.
    confidence : float
        Probability, over the draw of the labelled posts, with which it is kept.
    """
    ranked = np.sort(scores)[::-1]
    best: Threshold | None = None
    for part, times in _STARTS:
        level = 1 - (1 - confidence) * part
        at = times * fewest_posts(precision, 1 - level)
        while (at := _beyond_equals(ranked, at)) < len(ranked):
            tried = _tried(positive, scores, float(ranked[at]), level)
            if tried.bound < precision:
                break
            best = tried if best is None or tried.of > best.of else best
            at = max(at + 1, round(at * _STEP))
    return best


def _beyond_equals(ranked: Floats, at: int) -> int:
    """Return the first rank from `at` on whose score is below that of the rank before, as equal scores go together."""
    if not 0 < at < len(ranked) or ranked[at] < ranked[at - 1]:
        return at
    return int(np.searchsorted(-ranked, -ranked[at], side="right"))


def _tried(positive: Bools, scores: Floats, value: float, level: float) -> Threshold:
    above = scores > value
    found, of = int((positive & above).sum()), int(above.sum())
    return Threshold(value, found, of, lower_bound(found, of, level), level)


def allow_threshold(
    positive: Bools, scores: Floats, recall: float, confidence: float, *, most: float | None = None
) -> Threshold | None:
    """Return the highest threshold below which at most ``1 - recall`` of the class lies; None if none can be shown to.

    The other parameters are those of :func:`act_threshold`.

    Parameters
    ----------
    most : float, optional
        A threshold that it must not exceed, such as that of acting.
    """
    mine = np.sort(scores[positive])
    of = len(mine)
    # The more posts of the class lie below, the lower the bound.
    missed = bisect_left(range(of), True, key=lambda missed: lower_bound(of - missed, of, confidence) < recall) - 1
    if missed < 0:
        return None
    value, bound = float(mine[missed]), lower_bound(of - missed, of, confidence)
    value = value if most is None else min(value, most)
    return Threshold(value, int((mine >= value).sum()), of, bound, confidence)
