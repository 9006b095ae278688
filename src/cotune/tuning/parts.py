"""The one cut of a search's posts: to train on, to score trials on, and a test part that no trial sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cotune.benchmark.folds import Folds
from cotune.data.duplicates import large_group_note
from cotune.data.splits import holdout_split
from cotune.data.tables.cells import field_labels
from cotune.errors import DataError
from cotune.report.numbers import plural
from cotune.tasks import Task
from cotune.training.features import Features
from cotune.training.fit_data import groups_of
from cotune.training.usable_posts import usable_rows
from cotune.tuning.plan import TunePlan

FILE = "parts.parquet"
TRAIN, VALIDATION, TEST = 0, 1, 2
_LEFT_OUT = -1
_NAMES = {TRAIN: "training", VALIDATION: "validation", TEST: "test"}


def cut_parts(posts: pd.DataFrame, features: Features, task: Task, plan: TunePlan) -> Folds:
    """Share out the usable posts among the three parts.

    Near-duplicates are kept together and labels shared out evenly, as where ``fit`` holds out a part.

    Parameters
    ----------
    posts : DataFrame
        Posts with a label of `task`.
    features : Features
        The same posts, prepared.
    task : Task
        What is learned.
    plan : TunePlan
        How large the parts are.

    Returns
    -------
    Folds
        The posts that are used; ``fold`` is ``TRAIN``, ``VALIDATION`` or ``TEST``.

    Raises
    ------
    DataError
        If there are too few posts for three parts.
    """
    progress = features.kept.options.progress
    rows = usable_rows(posts, features, plan.start, "labelled", progress)
    groups = groups_of(posts, features, plan.start)
    own = np.arange(len(rows)) if groups is None else groups[rows]
    if groups is not None and (note := large_group_note(own)) is not None:
        progress.say(f"note: {note}")
    kept = posts.iloc[rows].reset_index(drop=True)
    targets = task.encode(kept["label"].tolist())
    scored = np.flatnonzero(task.scored(targets))
    part = np.full(len(rows), TRAIN, dtype=np.int64)
    left_out = {"nothing usable": len(posts) - len(rows)}
    labels = () if task.name == "single-label" else tuple(kept["label"])
    try:
        strata, of = task.strata(targets[scored]), own[scored]
        rest, test = holdout_split(strata, fraction=plan.test, seed=plan.fit.seed, groups=of)
        _, held = holdout_split(strata[rest], fraction=plan.validation, seed=plan.fit.seed, groups=of[rest])
        part[scored[test]], part[scored[rest[held]]] = TEST, VALIDATION
        # What is known of the fields of a near-duplicate is known of a post that is scored.
        part[~task.scored(targets) & np.isin(own, own[part != TRAIN])] = _LEFT_OUT
        task.refuse_untrainable(targets[part == TRAIN])
    except DataError as fault:
        raise _too_few(len(rows), str(fault)) from None
    for which in (VALIDATION, TEST):
        problem = _unscorable(task, targets[part == which])
        if problem is not None:
            raise _too_few(len(rows), f"in the {_NAMES[which]} part {problem}")
    ids = kept["id"].astype(str).to_numpy(dtype=object)
    found = {name: tuple(kept[name]) for name in field_labels(kept).values()} if task.label_columns()[1:] else {}
    return Folds(
        ids, targets, task, part, own.astype(np.int64), left_out, plan.fit.seed, labels, field_labels=found
    )  # fmt: skip


def _too_few(n: int, why: str) -> DataError:
    return DataError(
        f"{plural(n, 'post is', 'posts are')} too few to cut into training, validation and test parts: {why}"
    )


def _unscorable(task: Task, targets: np.ndarray) -> str | None:
    """Return why predictions of these posts could not be scored and compared, None if they can."""
    if task.target_type == "multiclass":
        counts = np.bincount(targets[task.scored(targets)], minlength=len(task.outputs))
        rare = [name for name, n in zip(task.outputs, counts, strict=True) if n < 2]
        if rare and (len(task.outputs) == 2 or len(rare) > len(task.outputs) - 2):
            return f"fewer than two posts have the label {rare[0]!r}; add posts or change --test and --validation"
    return task.note_on_held_out(targets)


def describe_parts(cut: Folds) -> str:
    """Return one line on how many posts each part has."""
    sizes = {name: int((cut.fold == part).sum()) for part, name in _NAMES.items()}
    return (
        f"{plural(sizes['training'], 'post')} to train on, {sizes['validation']:,} to score trials on, "
        f"{plural(sizes['test'], 'test post')} that no trial sees"
    )


def load_parts(out: Path) -> Folds:
    """Return the cut that a search was begun with; a damaged one is an error."""
    return Folds.load(out / FILE)
