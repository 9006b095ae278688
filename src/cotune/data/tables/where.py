"""Which rows of a table count, by the values of its columns; and a note on a split that nobody asked for."""

from __future__ import annotations

import datetime
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeAlias
from uuid import UUID

import numpy as np

from cotune.data.tables.chunks import Chunk
from cotune.errors import ConfigError, DataError, NoPostsError, clip, did_you_mean

Where: TypeAlias = "Mapping[str, object]"

SPLIT = "split"
_MOST_VALUES = 1_000  # a column of ids must not fill the memory
_SHOWN = 8


class RowFilter:
    """Picks the rows of a table by the values of its columns.

    Parameters
    ----------
    where : mapping, optional
        From a column to the value, or the values, that count. A row has to fit in every column.
    count_split : bool
        Whether to count the values of a column `split` that `where` does not use.
    """

    def __init__(self, where: Where | None = None, *, count_split: bool = False) -> None:
        self.wanted = {str(column): _wanted(str(column), values) for column, values in (where or {}).items()}
        self.count_split = count_split and SPLIT not in self.wanted
        self.kept = 0
        self._found: dict[str, Counter[str]] = {column: Counter() for column in self.wanted}
        self._splits: Counter[str] = Counter()

    @property
    def columns(self) -> list[str]:
        """The columns that it has to see."""
        return [*self.wanted, *([SPLIT] if self.count_split else [])]

    def keep(self, chunk: Chunk) -> list[int] | None:
        """Return which rows of the next chunk count, None for all of them."""
        rows: list[int] | None = None
        if self.wanted:
            fits = np.ones(chunk.rows, dtype=bool)
            for column, wanted in self.wanted.items():
                names = [cell_name(value) for value in chunk.values.get(column, [None] * chunk.rows)]
                self._count(self._found[column], names)
                fits &= np.fromiter((name in wanted for name in names), dtype=bool, count=chunk.rows)
            rows = np.flatnonzero(fits).tolist()
        if self.count_split and SPLIT in chunk.values:
            values = chunk.values[SPLIT]
            self._count(self._splits, [cell_name(values[i]) for i in (range(chunk.rows) if rows is None else rows)])
        self.kept += chunk.rows if rows is None else len(rows)
        return rows

    def _count(self, counter: Counter[str], names: Iterable[str]) -> None:
        for name in names:
            if name in counter or len(counter) < _MOST_VALUES:
                counter[name] += 1

    def refuse_unknown_columns(self, table: str, found: list[str]) -> None:
        """Refuse a table that lacks a column which rows are picked by."""
        for column in self.wanted:
            if column not in found:
                shown = ", ".join(clip(name, 40) for name in found[:20])
                raise DataError(
                    f"{table} has no column {clip(column)!r} to pick rows by{did_you_mean(column, found)}; "
                    f"it has: {shown or 'none'}"
                )

    def refuse_nothing(self, table: str) -> None:
        """Refuse a table of which no row counts, naming the values that there are."""
        if self.kept or not self.wanted:
            return
        asked = " and ".join(
            f"{clip(column, 40)}={' or '.join(clip(value, 40) or '(empty)' for value in sorted(values))}"
            for column, values in self.wanted.items()
        )
        near = ""
        if len(self.wanted) == 1:
            ((column, values),) = self.wanted.items()
            near = did_you_mean(min(values), [name for name in self._found[column] if name])
        there = "; ".join(f"{clip(column, 40)} holds {_counts(found)}" for column, found in self._found.items())
        raise NoPostsError(f"{table} has no row with {asked}{near}; {there}")

    def split_note(self) -> str | None:
        """Return a note on a column `split` that is not used, None where there is none or it has one value alone."""
        if len(self._splits) < 2:
            return None
        example = self._splits.most_common(1)[0][0] or next(name for name in self._splits if name)
        return (
            f"note: the column {SPLIT!r} ({_counts(self._splits)}) is not used, all rows count; "
            f"use one part with --where {SPLIT}={clip(example, 40)}"
        )


def parse_where(pairs: Iterable[str]) -> dict[str, list[str]]:
    """Read ``COLUMN=VALUE`` as the command line gives it; a column that comes again has several values.

    Raises
    ------
    ConfigError
        If there is no column or no equals sign.
    """
    found: dict[str, list[str]] = {}
    for pair in pairs:
        column, sign, value = pair.partition("=")
        if not sign or not column.strip():
            raise ConfigError(f"--where takes COLUMN=VALUE, as in --where split=train, not {clip(pair)!r}")
        found.setdefault(column.strip(), []).append(value)
    return found


def _wanted(column: str, values: object) -> frozenset[str]:
    several = isinstance(values, Iterable) and not isinstance(values, str | bytes)
    wanted = frozenset(cell_name(value) for value in (values if several else [values]))  # type: ignore[attr-defined]
    if not wanted:
        raise ConfigError(f"no value is given for the column {clip(column)!r}; give at least one")
    return wanted


def cell_name(value: object) -> str:
    """Return a cell as it is compared: like a label, and the same for true, True and "True"."""
    from cotune.data.tables.cells import is_missing, label_name

    if is_missing(value):
        return ""
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        value = value.date()  # a column of days comes out of tables as midnights
    if not isinstance(value, str | numbers.Number | np.generic | datetime.date | datetime.time | UUID):
        return f"a {type(value).__name__}"
    name = label_name(value)
    return name.lower() if name.lower() in ("true", "false") else name


def _counts(found: Counter[str]) -> str:
    shown = ", ".join(f"{clip(name, 40) or '(empty)'} {count:,}" for name, count in found.most_common(_SHOWN))
    return shown + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
