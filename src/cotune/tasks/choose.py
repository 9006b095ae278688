"""Which task a table of labels sets, and a run's task as its files say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cotune.errors import DataError, LabelError
from cotune.tasks.base import TASKS, Task

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
        row = (
            None
            if rows is None
            else next((r for r, label in zip(rows, labels, strict=True) if error.label in label), None)
        )
        if row is None:
            raise
        raise DataError(f"row {row}: {error}") from None


def restore_task(saved: Mapping[str, Any]) -> Task:
    """Return the task that ``{"name": ..., "settings": ...}`` describes, as run folders keep it."""
    return TASKS[saved["name"]](**saved["settings"])
