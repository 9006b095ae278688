"""Scores of slices of a posts table: where a model is worse than elsewhere, beyond chance and much looking.

A slice is the posts with one value of a column, or with one value of something derived from a post: ``@length``,
``@size`` and ``@missing``. Numbers are cut into quarters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.images.load import image_pixels
from cotune.data.kinds import FIELD_KINDS
from cotune.data.tables.cells import KEPT
from cotune.data.tables.where import cell_name
from cotune.errors import ConfigError, clip, did_you_mean
from cotune.fields import Field
from cotune.metrics.checks import Floats
from cotune.metrics.comparison import holm
from cotune.metrics.intervals import BLOCK, percentile_interval, resamples
from cotune.tasks import Task

#: What is derived from a post, and what it is called.
DERIVED = {"@length": "characters", "@size": "pixels", "@missing": "missing fields"}
#: Posts that a slice needs.
SMALLEST = 30
_MOST_VALUES = 40
_QUARTERS_FROM = 12  # different numbers; fewer are values of their own
_OTHERS = "(rarer values)"
_CONFIDENCE = 0.95
_ENOUGH = 20  # permutations on either side of a difference, with which its p-value is known well enough
_FIRST_BLOCK = 100
_ROUNDING = 1e-12
#: Permutations for each test there is: with the fewer a corrected p-value may be as small as .02, with the more, made
#: where that many posts are permuted in all, .0008.
_FEWER, _MORE, _PERMUTED = 100, 2500, 10_000_000


def kept_columns(by: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the table that slices are made by.

    Raises
    ------
    ConfigError
        If something is to be derived that is not known.
    """
    for name in by:
        if name.startswith("@") and name not in DERIVED:
            raise ConfigError(f"--by {clip(name)}: derived are {', '.join(DERIVED)}{did_you_mean(name, DERIVED)}")
    return tuple(dict.fromkeys(name for name in by if name not in DERIVED))


def slice_values(posts: pd.DataFrame, fields: Sequence[Field], by: Sequence[str]) -> pd.DataFrame:
    """Return what posts are told apart by, one column for each of `by`: names of values, or numbers.

    Parameters
    ----------
    posts : DataFrame
        As :func:`cotune.data.posts.read_posts` gives it, with the columns of :func:`kept_columns` kept.
    fields : sequence of Field
        What a post has.
    by : sequence of str
        Columns of the table, or names in `DERIVED`.
    """
    fields = [one for one in fields if one.name in posts]
    found: dict[str, list[Any]] = {}
    for name in dict.fromkeys(by):
        if name not in DERIVED:
            found[name] = [cell_name(value) for value in posts[f"{KEPT}{name}"]]
            continue
        rows = [[(one, posts[one.name].iloc[i]) for one in fields] for i in range(len(posts))]
        found[name] = [_DERIVE[name](row) for row in rows]
    return pd.DataFrame(found, index=posts.index, dtype=object)


def _length(row: list[tuple[Field, Any]]) -> int:
    return sum(len(value) for one, value in row if one.kind == "text" and isinstance(value, str))


def _size(row: list[tuple[Field, Any]]) -> int | str:
    sizes = [image_pixels(value) for one, value in row if one.kind == "image" and FIELD_KINDS[one.kind].has(value)]
    return "unreadable image" if None in sizes else sum(n or 0 for n in sizes) if sizes else "no image"


def _missing(row: list[tuple[Field, Any]]) -> str:
    return " and ".join(one.name for one, value in row if not FIELD_KINDS[one.kind].has(value)) or "none"


_DERIVE: dict[str, Any] = {"@length": _length, "@size": _size, "@missing": _missing}


def score_slices(
    task: Task,
    targets: np.ndarray,
    predictions: np.ndarray,
    values: pd.DataFrame,
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the main score of every slice, the worst first, and how it differs from that of all other posts.

    Parameters
    ----------
    task : Task
        Whose main score it is.
    targets, predictions : ndarray
        Of the scored posts.
    values : DataFrame
        What :func:`slice_values` gives of them.
    n_bootstrap : int
        Resamples of each slice and of the rest, and permutations of a test unless its tests need more; with 0 there
        are no intervals and no tests.
    seed : int
        Seed of these.

    Returns
    -------
    dict
        ``rows``: of each slice ``by``, ``value``, ``n``, ``score`` with its interval, ``rest`` (the score of all other
        posts), ``difference`` with its interval, ``p`` and ``p_adjusted``; ``grouped``: by column, how many rarer
        values with how many posts were put together; ``smallest``, the fewest posts of a slice; ``tests``.

    Notes
    -----
    A p-value is that of a permutation test: the difference is compared with those of random slices that have as many
    posts of every stratum of targets (classes), twice the smaller side. Where nothing differs it is valid for any
    number of posts; the standard error of a bootstrap is not, as a slice without an error has none. A test ends early
    once its p-value is known well enough (J. Besag and P. Clifford, "Sequential Monte Carlo p-values", Biometrika
    1991). Holm's correction is over all slices of all columns.
    """
    rows: list[dict[str, Any]] = []
    grouped: dict[str, dict[str, int]] = {}
    slices: list[np.ndarray] = []
    for by in values:
        names, rarer = _grouped(_named(values[by].tolist(), DERIVED.get(str(by), "")))
        if rarer:
            grouped[str(by)] = {"values": len(rarer), "posts": sum(rarer.values())}
        for name in dict.fromkeys(names):
            inside = np.array([other == name for other in names])
            if SMALLEST <= inside.sum() < len(inside):
                row = _compared(task, targets, predictions, inside, n_bootstrap, seed)
                rows.append({"by": str(by), "value": name, "n": int(inside.sum()), **row})
                slices.append(inside)
    more = min(_MORE * len(rows), _PERMUTED // max(1, len(values)))
    most = max(n_bootstrap, _FEWER * len(rows), more) if n_bootstrap else 0
    sheet, strata = task.sheet(targets, predictions), task.strata(targets)
    gaps = [math.nan if row["difference"]["value"] is None else row["difference"]["value"] for row in rows]
    p = [_permutation_p(task, sheet, strata, inside, gap, most, seed) for inside, gap in zip(slices, gaps, strict=True)]
    for row, alone, adjusted in zip(rows, p, holm(p), strict=True):
        row["p"], row["p_adjusted"] = _jsonable(alone), _jsonable(float(adjusted))
    rows.sort(key=lambda row: math.inf if row["score"]["value"] is None else row["score"]["value"])
    tests = sum(row["p"] is not None for row in rows)
    return {"score": task.main_score, "rows": rows, "grouped": grouped, "smallest": SMALLEST, "tests": tests}


def _named(values: list[Any], unit: str) -> list[str]:
    """Return names of values: numbers of many kinds are cut into quarters."""
    numbers = [_number(value) for value in values]
    known = np.array([number for number in numbers if number is not None])
    words = {value for value, number in zip(values, numbers, strict=True) if number is None}
    if len(set(known.tolist())) < _QUARTERS_FROM or len(words) > 2:
        return [str(value) or "(empty)" for value in values]
    edges = np.unique(np.quantile(known, [0, 0.25, 0.5, 0.75, 1], method="lower"))
    titles = [
        f"{low:,.6g} to {'' if last else 'below '}{high:,.6g}" + (f" {unit}" if unit else "")
        for low, high, last in zip(edges, edges[1:], [*[False] * (len(edges) - 2), True], strict=False)
    ]
    return [
        (str(value) or "(empty)") if number is None
        else titles[min(int(np.searchsorted(edges, number, side="right")) - 1, len(titles) - 1)]
        for value, number in zip(values, numbers, strict=True)
    ]  # fmt: skip


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _grouped(names: list[str]) -> tuple[list[str], dict[str, int]]:
    """Return the names with rare ones as one, and how many posts each of the rare ones has."""
    counts = Counter(names)
    large = {name for name, n in counts.most_common(_MOST_VALUES) if n >= SMALLEST}
    return [name if name in large else _OTHERS for name in names], {
        name: n for name, n in counts.items() if name not in large
    }


def _compared(
    task: Task, targets: np.ndarray, predictions: np.ndarray, inside: np.ndarray, n_bootstrap: int, seed: int
) -> dict[str, Any]:
    function = task.scores[task.main_score]
    scores, draws = [], []
    for side, at in enumerate((inside, ~inside)):
        sheet, n = task.sheet(targets[at], predictions[at]), int(at.sum())
        scores.append(float(function(sheet, np.ones((1, n)))[0]))
        blocks = [function(sheet, counts) for counts in resamples(n, n_bootstrap, seed + side)]
        draws.append(np.concatenate(blocks) if blocks else np.full(1, math.nan))
    return {
        "score": _estimate(scores[0], draws[0]),
        "rest": _jsonable(scores[1]),
        "difference": _estimate(scores[0] - scores[1], draws[0] - draws[1]),
    }


def _permutation_p(
    task: Task, sheet: Any, strata: np.ndarray, inside: np.ndarray, difference: float, most: int, seed: int
) -> float:
    """Return the two-sided p-value of a slice's difference to the rest, by at most so many random slices like it."""
    if math.isnan(difference):
        return math.nan
    function, rng = task.scores[task.main_score], np.random.default_rng(seed)
    places = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    known = lower = higher = tried = 0
    while tried < most and min(lower, higher) < _ENOUGH:
        size = max(1, min(BLOCK // len(inside), most - tried, max(tried, _FIRST_BLOCK)))
        drawn: Floats = np.tile(inside.astype(np.float64), (size, 1))
        for place in places:
            drawn[:, place] = rng.permuted(drawn[:, place], axis=1)
        gaps = function(sheet, drawn) - function(sheet, 1 - drawn)
        gaps = gaps[~np.isnan(gaps)]
        tried, known = tried + size, known + len(gaps)
        lower += int((gaps <= difference + _ROUNDING).sum())
        higher += int((gaps >= difference - _ROUNDING).sum())
    return min(1.0, 2 * (1 + min(lower, higher)) / (1 + known)) if known else math.nan


def _estimate(value: float, draws: np.ndarray) -> dict[str, float | None]:
    low, high = percentile_interval(draws, _CONFIDENCE)
    return {"value": _jsonable(value), "low": _jsonable(low), "high": _jsonable(high)}


def _jsonable(number: float) -> float | None:
    return None if math.isnan(number) else number
