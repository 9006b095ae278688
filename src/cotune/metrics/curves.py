"""ROC and precision-recall curves of single classes, thinned to what a chart can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cotune.metrics.checks import Floats
from cotune.metrics.scores import Ranking

#: Points of a curve, and classes that have curves: those with the most posts.
POINTS, CLASSES = 50, 12
_DIGITS = 4


def ranking_curves(positive: npt.NDArray[np.bool_], scores: Floats, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return ROC and precision-recall curve of each class that some posts have and others do not.

    Parameters
    ----------
    positive : array of bool, shape (N, C)
        Which posts truly have which class.
    scores : array of float, shape (N, C)
        Higher means more likely.
    names : sequence of str
        Name of each column.

    Returns
    -------
    dict of dict
        By class, at most :data:`CLASSES` of them: `auc`, `average_precision`, `support` (posts that have it), `posts`,
        `roc` (pairs of false and true positive rate) and `precision_recall` (pairs of recall and precision), each of at
        most :data:`POINTS` pairs that are points of the whole curve, rounded to four decimals.
    """
    support = positive.sum(axis=0)
    known = [k for k in np.argsort(-support, kind="stable") if 0 < support[k] < len(positive)][:CLASSES]
    return {names[k]: _of_class(positive[:, k], scores[:, k]) for k in sorted(known)}


def _of_class(positive: npt.NDArray[np.bool_], scores: Floats) -> dict[str, Any]:
    ranking, once = Ranking(positive, scores), np.ones((1, len(scores)))
    order = np.argsort(-scores, kind="stable")
    # Posts with equal scores are taken in together.
    last = np.flatnonzero(np.append(scores[order][1:] != scores[order][:-1], True))
    hits = np.cumsum(positive[order])[last]
    taken = last + 1
    true, false = hits / hits[-1], (taken - hits) / (len(scores) - hits[-1])
    return {
        "auc": _plain(ranking.auc(once)[0]),
        "average_precision": _plain(ranking.average_precision(once)[0]),
        "support": int(hits[-1]),
        "posts": len(scores),
        "roc": _thinned(np.append(0.0, false), np.append(0.0, true), np.append(0.0, false + true)),
        "precision_recall": _thinned(true, hits / taken, true),
    }


def _thinned(x: Floats, y: Floats, way: Floats) -> list[list[float]]:
    """Return some of the points, evenly spaced over `way`, which grows along the curve; both ends are among them."""
    at = np.append(0, np.searchsorted(way, np.linspace(way[0], way[-1], POINTS - 1) - 1e-12)).clip(max=len(x) - 1)
    points = np.stack([x, y], axis=1)[np.unique(at)]
    return [[round(float(one), _DIGITS), round(float(other), _DIGITS)] for one, other in points]


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
