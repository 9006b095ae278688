"""Cutting posts into folds and into a training and a held-out part."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from cotune.data.duplicates import near_duplicate_groups
from cotune.data.posts import is_missing
from cotune.errors import ConfigError, DataError, clip, did_you_mean
from cotune.report.numbers import every_post, plural

Indices: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Protocol = Literal["paper", "grouped", "published"]
PROTOCOLS = ("paper", "grouped")

_DRAWS = 5


def make_folds(
    posts_or_labels: pd.DataFrame | Sequence[Any] | np.ndarray[Any, Any],
    *,
    n_folds: int,
    protocol: Protocol,
    seed: int,
    groups: Sequence[Any] | np.ndarray[Any, Any] | None = None,
) -> list[Indices]:
    """Return the test posts of each fold; every post is in exactly one of them.

    Parameters
    ----------
    posts_or_labels : pandas.DataFrame or sequence
        Posts, or their labels alone; an array of whole numbers is taken for strata, any of which may be rare.
    n_folds : int
        How many folds.
    protocol : {"paper", "grouped"}
        "paper" shares out each label evenly; "grouped" also keeps every group within one fold.
    seed : int
        Of the shuffle.
    groups : sequence, optional
        A group for each post. By default near-duplicates of the posts are looked for.

    Raises
    ------
    DataError
        When posts lack labels, all have the same one, or a label is too rare for that many folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"unknown protocol {protocol!r}{did_you_mean(str(protocol), PROTOCOLS)}; choose 'paper' or 'grouped'"
        )
    if n_folds < 2:
        raise ConfigError(f"the number of folds must be at least 2, not {n_folds}")
    labels = _labels(posts_or_labels)
    strata = _are_strata(posts_or_labels)
    if not strata:
        _refuse_rare(labels, n_folds, None)
    nothing = np.zeros(len(labels))
    if protocol == "paper":
        cut = StratifiedKFold(n_splits=n_folds, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a rare stratum
            return [test.astype(np.int64) for _, test in cut.split(nothing, labels)]
    if groups is None:
        if not isinstance(posts_or_labels, pd.DataFrame):
            raise DataError(
                "the protocol 'grouped' needs a group for each post, or the posts to find near-duplicates in"
            )
        groups = near_duplicate_groups(posts_or_labels)
    codes = _codes(groups, len(labels))
    if not strata:
        _refuse_rare(labels, n_folds, codes)
    cut = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        folds = [test.astype(np.int64) for _, test in cut.split(nothing, labels, codes)]
    if any(len(fold) == 0 for fold in folds):
        raise DataError(f"the groups are too large to cut the posts into {n_folds} folds; use fewer folds")
    return folds


def holdout_split(
    labels: pd.DataFrame | Sequence[Any] | np.ndarray[Any, Any],
    *,
    fraction: float,
    seed: int,
    groups: Sequence[Any] | np.ndarray[Any, Any] | None = None,
) -> tuple[Indices, Indices]:
    """Return the posts to train on and those to hold out.

    Each label is shared out in the same proportion as far as the groups allow. A label too rare to share out
    stays in training.

    Parameters
    ----------
    labels : sequence or pandas.DataFrame
        The labels, or posts with them.
    fraction : float
        Part of the posts to hold out, between 0 and 1.
    seed : int
        Of the draw.
    groups : sequence, optional
        A group for each post; every group is kept together.

    Raises
    ------
    DataError
        When posts lack labels, all have the same one, or nothing could be held out.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the held-out fraction must lie between 0 and 1, not {fraction}")
    names = _labels(labels)
    size = len(names)
    codes = np.arange(size) if groups is None else _codes(groups, size)
    classes = pd.factorize(pd.Series(names, dtype=object))[0]
    totals = np.bincount(classes).astype(float)
    members = np.zeros((int(codes.max()) + 1, len(totals)))
    np.add.at(members, (codes, classes), 1.0)
    held = _pick_groups(members, totals, fraction, np.random.default_rng(seed))
    chosen = held[codes]
    if not chosen.any() or chosen.all():
        raise DataError(
            f"{plural(size, 'post is', 'posts are')} too few, or their groups too large, to hold out {fraction:.0%}; "
            "add posts, change the fraction or name a table of validation posts"
        )
    return np.flatnonzero(~chosen).astype(np.int64), np.flatnonzero(chosen).astype(np.int64)


def _pick_groups(
    members: np.ndarray[Any, Any], totals: np.ndarray[Any, Any], fraction: float, rng: np.random.Generator
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Take groups, the largest first and otherwise at random, where they bring the label counts nearer the target.

    No label loses its last post for training. Of some draws the one nearest the target is taken; where every
    post is a group of its own the first draw is exact already.
    """
    sizes, weight = members.sum(axis=1), 1.0 / totals
    best, smallest = np.zeros(len(members), dtype=bool), np.inf
    for _ in range(1 if sizes.max() == 1 else _DRAWS):
        order = rng.permutation(len(members))
        order = order[np.argsort(-sizes[order], kind="stable")]
        held = np.zeros(len(members), dtype=bool)
        gap = fraction * totals  # posts of each label still to be held out
        left = float((gap * gap) @ weight)
        spare = (1.0 - fraction) * totals - 1.0 + 1e-9
        for group in order:
            rest = gap - members[group]
            after = float((rest * rest) @ weight)
            # A tie leaves the group in training; the margin keeps rounding from deciding.
            if after < left - 1e-12 and (-rest <= spare).all():
                gap, left, held[group] = rest, after, True
        if left < smallest:
            best, smallest = held, left
    return best


def _labels(source: pd.DataFrame | Sequence[Any] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the labels as strings, or say which are missing."""
    if isinstance(source, pd.DataFrame):
        values = source["label"].tolist()
        rows = source["row"].tolist() if "row" in source else list(range(1, len(values) + 1))
    else:
        values = list(source)
        rows = list(range(1, len(values) + 1))
    if not values:
        raise DataError("there are no posts to cut; add at least one for each label")
    lacking = [row for row, value in zip(rows, values, strict=True) if is_missing(value)]
    if lacking:
        shown = ", ".join(map(str, lacking[:5])) + ("..." if len(lacking) > 5 else "")
        raise DataError(
            f"{plural(len(lacking), 'post has', 'posts have')} no label (rows {shown}); label or remove them"
        )
    names = np.array([str(value) for value in values], dtype=object)
    if len(set(names)) == 1 and not _are_strata(source):
        raise DataError(f"{every_post(len(names))} the label {names[0]!r}; at least two labels are needed")
    return names


def _are_strata(source: object) -> bool:
    """Tell whether posts are given by what stratifies them, as a task says, and not by labels that a user knows."""
    return isinstance(source, np.ndarray) and source.dtype.kind in "iu"


def _codes(groups: Sequence[Any] | np.ndarray[Any, Any], size: int) -> Indices:
    if len(groups) != size:
        raise DataError(f"{plural(len(groups), 'group')} for {plural(size, 'post')}: give one for each")
    codes = pd.factorize(pd.Series(list(groups), dtype=object))[0].astype(np.int64)
    alone = codes < 0  # a post without a group is a group of its own
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(int(alone.sum()))
    return codes


def _refuse_rare(labels: np.ndarray[Any, Any], n_folds: int, groups: Indices | None) -> None:
    for name in sorted(set(labels)):
        mine = labels == name
        count = int(mine.sum()) if groups is None else len(np.unique(groups[mine]))
        if count < n_folds:
            what = plural(count, "post") if groups is None else plural(count, "group") + " of near-duplicates"
            fewer = f"use at most {count} folds, " if count > 1 else ""
            raise DataError(
                f"{what} with the label {clip(str(name), 60)!r} cannot be shared among {n_folds} folds; "
                f"{fewer}add posts with it or leave it out"
            )
