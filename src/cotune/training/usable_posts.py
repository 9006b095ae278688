"""Which posts can be used for training, and what is said of those that cannot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cotune.data.also import is_own
from cotune.data.tables.cells import field_labels
from cotune.errors import DataError, listed
from cotune.progress import Progress
from cotune.report.numbers import plural
from cotune.settings import FitConfig
from cotune.tasks import Task
from cotune.tasks.choose import annotates
from cotune.training.features import Features
from cotune.training.post_notes import readable_posts

_SHOWN = 5


def readable(
    posts: pd.DataFrame, progress: Progress, config: FitConfig | None = None, what: str = "post"
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the posts that have a label and can be read, and how many do not or cannot.

    With `config`, labels of fields count where its task learns from them; `what` names the posts in messages.
    """
    kept, unreadable = readable_posts(posts, progress)
    columns = field_labels(kept).values() if config is not None and annotates(kept, config) else ()
    kept = _labelled(kept, ["label", *columns], progress, what)
    return kept, {"unreadable_cells": unreadable, "unlabelled": len(posts) - unreadable - len(kept)}


def _labelled(posts: pd.DataFrame, columns: Sequence[str], progress: Progress, what: str) -> pd.DataFrame:
    missing = posts[[column for column in columns if column in posts]].isna().all(axis=1)
    if missing[is_own(posts)].all():
        raise DataError("the posts have no labels; fill the `label` column, or name it with --label-column")
    if missing.any():
        rows = ", ".join(str(row) for row in posts.loc[missing, "row"].head(_SHOWN))
        progress.say(
            f"note: {plural(missing.sum(), f'{what} without a label is', f'{what}s without a label are')} left out "
            f"(row{'' if missing.sum() == 1 else 's'} {rows}{_more(missing.sum())})"
        )
        posts = posts[~missing].reset_index(drop=True)
    return posts


def refuse_other_labels(task: Task, posts: pd.DataFrame, what: str, *, started: bool) -> None:
    """Refuse a label that the task does not have: it was learned from other posts."""
    for row, label in zip(posts["row"], posts["label"], strict=True):
        problem = None if label is None else task.problem(label)
        if problem is not None:
            where = " by the run to start from" if started else ""
            other = "give a --rule that makes that label" if task.has_rule and not started else (
                "train from scratch with posts of that label"
            )  # fmt: skip
            raise DataError(
                f"the {what} of row {row} has the label {listed([label], quote=True)}, which {problem}{where}; "
                f"leave such posts out, or {other}"
            )


def usable_rows(
    posts: pd.DataFrame, features: Features, config: FitConfig, what: str, progress: Progress
) -> np.ndarray:
    """Return the posts that can be used, and tell how many cannot, and why."""
    keep: np.ndarray = np.asarray(features.present.any(axis=1))
    for at, fault in list(features.faults.items())[:_SHOWN]:
        progress.say(f"note: row {posts['row'].iloc[at]}: {fault}")
    if features.faults:
        n = len(features.faults)
        if config.bad_images == "skip":
            keep[list(features.faults)] = False
        rest = "what else they have" if config.fields else "their text alone"
        done = "left out" if config.bad_images == "skip" else f"used by {rest}"
        progress.say(f"note: {plural(n, f'{what} post')} with an unreadable image {'is' if n == 1 else 'are'} {done}")
    cells = [(at, error) for at, error in features.errors.items() if not error.fields]
    for at, error in cells[:_SHOWN]:
        progress.say(f"note: row {posts['row'].iloc[at]}: {error}, counted as missing")
    if len(cells) > _SHOWN:
        progress.say(f"note: {plural(len(cells) - _SHOWN, 'more such post')}")
    empty = int((~features.present.any(axis=1)).sum() - sum(not features.present[i].any() for i in features.faults))
    if empty:
        progress.say(f"note: {plural(empty, f'{what} post')} with nothing that the model reads left out")
    rows = np.flatnonzero(keep)
    if not len(rows):
        raise DataError(f"no {what} post can be used; see `cotune check`")
    return rows


def _more(n: int) -> str:
    return f" and {n - _SHOWN:,} more" if n > _SHOWN else ""
