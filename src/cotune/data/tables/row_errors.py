"""Rows with a cell that cannot be read: they stay in the table, with the reason, and are left out of training."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotune.report.numbers import plural

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

COLUMN = "error"
_SHOWN = 5


@dataclass(frozen=True)
class RowError:
    """What is wrong with the cells of one row.

    Attributes
    ----------
    fields : tuple of str
        The fields that could not be read: `id`, `text`, `image`, `label`, `group`.
    reason : str
        What is wrong with them, and what is expected.
    """

    fields: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return self.reason

    def concerns(self, fields: Collection[str]) -> bool:
        """Tell whether one of `fields` could not be read."""
        return any(field in fields for field in self.fields)


def row_errors(posts: pd.DataFrame) -> list[RowError | None]:
    """Return the error of each row, None for none; a frame that was made by hand has none."""
    if COLUMN not in posts:
        return [None] * len(posts)
    return [error if isinstance(error, RowError) else None for error in posts[COLUMN]]


def has_row_error(posts: pd.DataFrame) -> np.ndarray:
    """Return which rows have an error."""
    import numpy as np

    return np.asarray([error is not None for error in row_errors(posts)], dtype=bool)


class RowErrorCount:
    """Counts the rows with an error in the pieces of a table, and keeps the first ones.

    Parameters
    ----------
    most : int
        How many to keep.
    """

    def __init__(self, most: int = _SHOWN) -> None:
        self.most = most
        self.count = 0
        self.first: list[tuple[object, RowError]] = []

    def add(self, posts: pd.DataFrame) -> None:
        """Add the next posts."""
        for row, error in zip(posts["row"], row_errors(posts), strict=True):
            if error is not None:
                self.count += 1
                if len(self.first) < self.most:
                    self.first.append((row, error))

    def notes(self) -> list[str]:
        """Return a line for each of the first rows, and one that says how many are left out."""
        if not self.count:
            return []
        many = plural(self.count, "post with an unreadable cell is", "posts with an unreadable cell are")
        return [*(f"note: row {row}: {error}" for row, error in self.first), f"note: {many} left out"]


def row_error_notes(posts: pd.DataFrame) -> list[str]:
    """Return what :meth:`RowErrorCount.notes` says about one table."""
    found = RowErrorCount()
    found.add(posts)
    return found.notes()
