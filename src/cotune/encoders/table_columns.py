"""The columns of a table field: which hold numbers, which categories, and how one cell is read."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, cast

import numpy as np
import pandas as pd

from cotune.errors import DataError, EncoderError, clip, did_you_mean, listed

ColumnKind = Literal["number", "category"]
#: The cells of a post by column; None for a post that has none.
Cells = Mapping[str, object] | None
_KINDS: tuple[ColumnKind, ...] = ("number", "category")
#: The numbers that a cell can hold.
LARGEST = float(np.finfo(np.float32).max)

_MOSTLY_NUMBERS = 0.9  # from this share of numbers on, any other value is taken for a mistake
_MAX_CATEGORIES = 10_000
_FEW_VALUES = 20  # up to this many values, all of them may differ by chance
_WHOLE_FLOAT = re.compile(r"(0|-?[1-9][0-9]*)\.0+")


@dataclass(frozen=True)
class Column:
    """One column of a table field.

    Attributes
    ----------
    name : str
        Its name in the posts table.
    kind : {"number", "category"}
        How its values are read.
    values : tuple of str
        The values of a category, sorted; empty for a number.
    """

    name: str
    kind: ColumnKind
    values: tuple[str, ...] = ()


def read_columns(
    values: Sequence[Cells],
    names: Sequence[str],
    categories: Collection[str] = (),
    rows: Sequence[int] | None = None,
) -> list[Column]:
    """Decide from the posts' cells which columns hold numbers and which hold categories.

    A column holds numbers if all of its values are finite numbers, or strings that parse as such. Missing cells do not
    count: None, NaN, empty strings and the string ``NaN``. Booleans and everything else are categories.

    Parameters
    ----------
    values : sequence of mapping or None
        The cells of each post by column; None for a post without any.
    names : sequence of str
        The columns to read.
    categories : collection of str
        Columns that are categories whatever they hold.
    rows : sequence of int, optional
        The posts' rows in their table, for messages; counted from 1 by default.

    Returns
    -------
    list of Column
        One for each name, in their order.

    Raises
    ------
    DataError
        If a column has no values, mixes numbers with a few other values, or looks like an identifier.
    """
    _check_names(names, categories)
    return [_read_column(_Values.of(values, name, rows), name in categories) for name in names]


def _check_names(names: Sequence[str], categories: Collection[str]) -> None:
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise DataError(f"the column {duplicates[0]!r} is listed twice among the table columns; list it once")
    unknown = [name for name in categories if name not in names]
    if unknown:
        raise DataError(
            f"{clip(unknown[0], 60)!r} is declared a category but is not among the table columns "
            f"({listed(names)}){did_you_mean(unknown[0], names)}; correct its name or list it there"
        )


@dataclass(frozen=True)
class _Values:
    """The values of one column that are not missing, and their rows."""

    name: str
    values: list[object]
    rows: list[int]

    @classmethod
    def of(cls, posts: Sequence[Cells], name: str, rows: Sequence[int] | None) -> _Values:
        cells = [None if post is None else post.get(name) for post in posts]
        at = [i for i, value in enumerate(cells) if not is_missing(value)]
        return cls(name, [cells[i] for i in at], [i + 1 if rows is None else int(rows[i]) for i in at])


def _read_column(column: _Values, is_category: bool) -> Column:
    if not column.values:
        raise DataError(f"the column {column.name!r} has no values; fill it in or leave it out of the table columns")
    if is_category or _guess_kind(column) == "category":
        return Column(column.name, "category", _categories(column))
    return Column(column.name, "number")


def _guess_kind(column: _Values) -> ColumnKind:
    wrong = [as_number(value) is None for value in column.values]
    if sum(wrong) > (1 - _MOSTLY_NUMBERS) * len(wrong) + 1e-9:
        return "category"
    if any(wrong):
        first = wrong.index(True)
        raise DataError(
            f"row {column.rows[first]}: {not_a_number(column.name, column.values[first])}; "
            "fix the cell, leave it empty, or declare the column a category"
        )
    return "number"


def _categories(column: _Values) -> tuple[str, ...]:
    texts = [category_name(value) for value in column.values]
    values = sorted(set(texts))
    if len(values) > _MAX_CATEGORIES:
        found = f"has {len(values):,} different values, more than {_MAX_CATEGORIES:,}"
    elif len(values) == len(texts) > _FEW_VALUES:
        found = f"has a different value in each of {len(texts):,} posts"
    else:
        return tuple(values)
    raise DataError(
        f"the category column {column.name!r} {found}, which looks like an identifier; "
        "leave it out of the table columns or group its values"
    )


def not_a_number(name: str, value: object) -> str:
    """Return in one line that a cell should be a number and is not."""
    return f"the column {name!r} holds {clip(category_name(value), 60)!r}, expected a number"


def is_missing(value: object) -> bool:
    """Tell whether a cell holds no value."""
    if isinstance(value, str):
        return value.strip() in ("", "nan", "NaN")  # not "Nan", which is a name
    if isinstance(value, float | np.floating):
        return math.isnan(value)
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return value is None or value is pd.NA or value is pd.NaT


def as_number(value: object) -> float | None:
    """Return `value` as a finite number; None if it is none, as booleans are not."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | np.integer | np.floating | Decimal):
        return None
    if isinstance(value, str) and "_" in value:  # Python reads 1_000, but no program writes it into tables
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def category_name(value: object) -> str:
    """Return `value` as the name of a category, the same for 3, 3.0 and "3.0", and without white space around it."""
    if isinstance(value, float | np.floating | Decimal) and (number := as_number(value)) is not None:
        return str(int(number) if number.is_integer() else value)
    try:
        text = str(value).strip()
    except ValueError:  # a whole number of thousands of digits, which Python does not write out
        return type(value).__name__
    whole = _WHOLE_FLOAT.fullmatch(text)  # a table saved by pandas has 3.0 for 3 where cells are missing
    return whole[1] if whole else text


def check_columns(columns: Sequence[Column]) -> None:
    """Refuse columns that no table encoder can read, with an EncoderError."""
    if not columns:
        raise EncoderError("a table encoder needs at least one column; name the columns it shall read")
    for column in columns:
        if column.kind not in _KINDS:
            raise EncoderError(f"the column {column.name!r} has the kind {column.kind!r}; use number or category")
        if column.kind == "category" and not column.values:
            raise EncoderError(f"the category column {column.name!r} has no values; take columns from read_columns()")


class CellReader:
    """Turns the cells of posts into numbers.

    Parameters
    ----------
    columns : sequence of Column
        What the cells mean.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = tuple(columns)
        self._codes = [{value: code for code, value in enumerate(column.values)} for column in columns]

    @property
    def n_columns(self) -> int:
        """How many columns it reads."""
        return len(self._columns)

    def cells(self, values: Sequence[Cells]) -> np.ndarray:
        """Turn the cells of posts into numbers.

        Parameters
        ----------
        values : sequence of mapping or None
            The cells of each post by column; a column that is not there is missing, others are ignored.

        Returns
        -------
        ndarray
            Shape (N, n_columns), float32. Numbers as they are; categories as positions in ``values``, -1 for any other
            value; NaN for missing cells and for what is not a number in a number column (see :meth:`problem`).
        """
        cells = np.full((len(values), len(self._columns)), np.nan, dtype=np.float32)
        for i, post in enumerate(values):
            if post is not None:
                cells[i] = [self._read_cell(post.get(column.name), j) for j, column in enumerate(self._columns)]
        return cells

    def _read_cell(self, value: object, j: int) -> float:
        if is_missing(value):
            return math.nan
        if self._columns[j].kind == "category":
            return self._codes[j].get(category_name(value), -1)
        number = as_number(value)
        return math.nan if number is None else min(max(number, -LARGEST), LARGEST)

    def problems(self, values: Sequence[Cells]) -> dict[int, str]:
        """Return what is wrong with each post, by its position; see :meth:`problem`."""
        found = {i: self.problem(post) for i, post in enumerate(values)}
        return {i: problem for i, problem in found.items() if problem is not None}

    def problem(self, post: Cells) -> str | None:
        """Return in one line what is wrong with a post: the first cell that should be a number and is not."""
        for column in self._columns if post is not None else ():
            value = cast(Mapping[str, object], post).get(column.name)
            if column.kind == "number" and not is_missing(value) and as_number(value) is None:
                return not_a_number(column.name, value)
        return None
