"""Which task a table of labels sets, and a run's task as its files say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cotune.data.tables.cells import LABEL_SEPARATOR, field_labels
from cotune.errors import ConfigError, DataError, LabelError
from cotune.settings import FitConfig
from cotune.tasks.annotated import Annotated
from cotune.tasks.base import TASKS, Task
from cotune.tasks.label_rule import read_rule

AUTO = "auto"
# The most telling first: any label can be a class.
_ORDER = ("multi-label", "regression", "single-label")


def make_task(name: str, labels: Sequence[str], rows: Sequence[int] | None = None) -> Task:
    """Return the task that is asked for, learned from the labels of the training posts.

    Parameters
    ----------
    name : str
        A registered task, or ``auto`` for the first of the built-in ones that recognises the labels.
    labels : sequence of str
        One for every post.
    rows : sequence of int, optional
        The posts' rows in their table, for messages.

    Raises
    ------
    ConfigError
        If no task has that name.
    DataError
        If nothing can be learned from the labels.
    """
    if name == AUTO:
        name = next(known for known in _ORDER if TASKS[known].recognises(labels))
    try:
        return TASKS[name].learn(labels)
    except LabelError as error:
        row = _row_of(error.label, labels, rows)
        if row is None:
            raise
        raise DataError(f"row {row}: {error}") from None


def task_of_posts(posts: pd.DataFrame, config: FitConfig) -> Task:
    """Return the task that training posts set, as the settings name it: from their labels, and those of their fields.

    Raises
    ------
    ConfigError
        If no task has that name, or the rule cannot be read.
    DataError
        If nothing can be learned from the labels.
    """
    if annotates(posts, config):
        return Annotated.learn_posts(posts, None if config.rule is None else read_rule(config.rule))
    if config.rule is not None:
        where = "no column such as label:text holds any" if config.task in (AUTO, Annotated.name) else (
            f"the task {config.task} reads none"
        )  # fmt: skip
        raise ConfigError(f"--rule makes labels of the labels of fields, and {where}; leave it out")
    return make_task(config.task, posts["label"].tolist(), posts["row"].tolist())


def annotates(posts: pd.DataFrame, config: FitConfig) -> bool:
    """Tell whether labels of fields are learned from."""
    return config.task == Annotated.name or (config.task == AUTO and bool(field_labels(posts)))


def _row_of(label: str, labels: Sequence[str], rows: Sequence[int] | None) -> int | None:
    """Return the row of the first post with a label, or with one that has it among its names."""
    pairs = [] if rows is None else list(zip(rows, map(str, labels), strict=True))
    whole = [row for row, each in pairs if each == label]
    among = [row for row, each in pairs if label in (name.strip() for name in each.split(LABEL_SEPARATOR))]
    return next(iter([*whole, *among]), None)


def restore_task(saved: Mapping[str, Any]) -> Task:
    """Return the task that ``{"name": ..., "settings": ...}`` describes, as run folders keep it."""
    return TASKS[saved["name"]](**saved["settings"])
