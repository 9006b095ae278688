"""A table's columns turned into posts, chunk by chunk."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.images.folders import ImageFolders
from cotune.data.kinds import FIELD_KINDS, BadCellError, read_cells
from cotune.data.tables import row_errors
from cotune.data.tables.cells import (
    FIELD_LABEL,
    KEPT,
    confined_image,
    plain_cell,
    read_flags,
    read_label,
    read_votes,
    single_cell,
)
from cotune.data.tables.chunks import Chunk
from cotune.data.tables.row_errors import RowError
from cotune.errors import DataError, clip, did_you_mean, listed
from cotune.fields import Field, fields_of_columns
from cotune.report.numbers import plural

#: What the reasons of errors call by its name themselves; of several texts or images they do not say which.
_SPEAKING = frozenset({"id", "text", "image", "label", "group"})
#: Columns that the annotators of a field may have, one each.
_ANNOTATORS = 9


@dataclass(frozen=True)
class ColumnNames:
    """What the columns of a table are called.

    Attributes
    ----------
    id, group : str
        Columns of ids and of groups.
    text, image : str or tuple of str
        Columns of texts and of images; several make a field each, called after the columns.
    label : str or tuple of str
        Column of labels, or several columns of 0 and 1, one for each label.
    table : tuple of str
        Columns of numbers and categories.
    fields : tuple of Field, optional
        The fields, instead of `text`, `image` and `table`.
    partial : bool
        Whether columns of fields and of labels may be missing, as in a table that joins another: one of each will do.
    kept : tuple of str
        Further columns, which posts have as ``column:NAME`` with their cells as they are.
    """

    id: str = "id"
    text: str | tuple[str, ...] = "text"
    image: str | tuple[str, ...] = "image"
    label: str | tuple[str, ...] = "label"
    group: str = "group"
    table: tuple[str, ...] = ()
    fields: tuple[Field, ...] | None = None
    partial: bool = False
    kept: tuple[str, ...] = ()

    def read_fields(self) -> tuple[Field, ...]:
        """Return the fields of a post."""
        return self.fields or fields_of_columns(_names(self.text), _names(self.image), self.table)

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns of labels."""
        return _names(self.label)

    def field_labels(self) -> dict[str, tuple[str, ...]]:
        """Return the columns that may hold labels of each field: one of any number of annotators, or one for each."""
        if len(self.labels) != 1:
            return {}
        found = {}
        for field in self.read_fields():
            whole = f"{self.labels[0]}:{field.name}"
            found[field.name] = (whole, *(f"{whole}:{i}" for i in range(1, _ANNOTATORS + 1)))
        return found

    def unread_labels(self, found: Sequence[str]) -> str | None:
        """Return a note on columns of a table that look like labels of a field and are not read; None for none."""
        if len(self.labels) != 1:
            return None
        known, read = self.field_labels(), set(self.columns())
        whole = [columns[0] for columns in known.values()]
        unread = [name for name in found if name.startswith(f"{self.labels[0]}:") and name not in read]
        if not unread:
            return None
        near = "".join(did_you_mean(name, whole) for name in unread[:1] if name.rpartition(":")[0] not in whole)
        what = "column of labels is" if len(unread) == 1 else "columns of labels are"
        return (
            f"note: the {what} not used: {listed(unread, quote=True)}{near}; labels of fields are read from "
            f"{listed(whole, quote=True)}, and those of up to {_ANNOTATORS} annotators from '{whole[0]}:1' and so on"
        )

    def columns(self) -> list[str]:
        """Return all columns that are read, each once."""
        of_fields = [column for field in self.read_fields() for column in field.columns]
        further = [column for columns in self.field_labels().values() for column in columns]
        return list(dict.fromkeys([self.id, *of_fields, *self.labels, *further, self.group, *self.kept]))


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


class PostsBuilder:
    """Turns raw chunks of one table into posts.

    Parameters
    ----------
    names : ColumnNames
        What the columns are called.
    base : Path or str
        Where relative image paths begin; a string is a URL.
    where : str
        What the table is called in messages.
    in_memory : bool
        Whether it is an object of Python rather than a file.
    allow_outside : bool
        Whether images may lie outside of `base`.
    """

    def __init__(
        self,
        names: ColumnNames,
        base: Path | str,
        where: str,
        *,
        in_memory: bool = False,
        allow_outside: bool = False,
    ) -> None:
        self.in_memory = in_memory
        self.names = names
        # resolve() would follow links and ask the disk
        self.base = base if isinstance(base, str) else os.path.abspath(base)  # noqa: PTH100
        self._folders = None if allow_outside else ImageFolders(self.base)
        self.where = where
        self.rows_before = 0
        self.found: list[str] = []

    def require(self, found: list[str], *, labels: bool) -> None:
        """Refuse a table whose columns `found` lack what is needed, naming the flag that fixes it."""
        names, fields = self.names, self.names.read_fields()
        if names.partial:
            self._require_some(found)
            return
        usual = [(field.kind, field.columns[0]) for field in fields if field.columns == (field.kind,)]
        if len(usual) == len(fields) and not any(column in found for _, column in usual):
            self._missing(usual, found)
        labels = labels and not any(column in found for columns in names.field_labels().values() for column in columns)
        wanted = [(field.kind, column) for field in fields for column in field.columns]
        wanted += [*(("label", column) for column in names.labels), ("id", names.id), ("group", names.group)]
        for flag, name in wanted:
            renamed = name != flag or (flag == "label" and len(names.labels) > 1)
            if name not in found and (renamed or (flag == "label" and labels)):
                self._missing([(flag, name)], found)
        for name in names.kept:
            if name not in found:
                raise DataError(
                    f"{self.where} has no column {clip(name)!r} to tell posts apart by{did_you_mean(name, found)}; "
                    f"it has: {listed(found, most=20) or 'none'}"
                )

    def _require_some(self, found: list[str]) -> None:
        """Refuse a table without any column of a field, or without any of labels."""
        names = self.names
        fields = [column for field in names.read_fields() for column in field.columns]
        of_fields = names.field_labels().values()
        whole = set(names.labels) <= set(found)  # several columns of 0 and 1 make one label together
        for what, wanted, lacks in (
            ("a field", fields, set(fields).isdisjoint(found)),
            ("labels", [*names.labels, *(columns[0] for columns in of_fields)],
             not whole and {column for columns in of_fields for column in columns}.isdisjoint(found)),
        ):  # fmt: skip
            if lacks:
                raise DataError(
                    f"{self.where} has no column of {what} ({listed(wanted, most=20, quote=True)}); it has: "
                    f"{listed(found, most=20) or 'none'}; name its columns as those of the posts table that it joins"
                )

    def _missing(self, wanted: list[tuple[str, str]], found: list[str]) -> None:
        shown = ", ".join(clip(name, 40) for name in found[:20])
        shown += f" and {len(found) - 20} more" if len(found) > 20 else ""
        wish = " and no ".join(f"{clip(name)!r}" for _, name in wanted)
        near = next((hint for _, name in wanted if (hint := did_you_mean(name, found))), "")
        python = f"columns=ColumnNames({', '.join(f'{flag}=...' for flag, _ in wanted)})"
        if self.in_memory:
            fix = f"rename a column (or read_posts(..., {python}))"
        else:
            fix = f"name another with {' or '.join(f'--{flag}-column' for flag, _ in wanted)} (in Python: {python})"
        raise DataError(f"{self.where} has no column {wish}{near}; it has: {shown or 'none'}; {fix}")

    def build(self, chunk: Chunk, keep: Sequence[int] | None = None) -> pd.DataFrame:
        """Return the posts of the next chunk, or of those of its rows that `keep` lists.

        A cell that cannot be read is empty, and its row has an error.
        """
        self.found = chunk.columns
        places = range(chunk.rows) if keep is None else keep
        rows = [self.rows_before + place + 1 for place in places]
        self.rows_before += chunk.rows
        nothing: list[Any] = [None] * chunk.rows
        wrong: dict[int, list[tuple[str, str]]] = {}
        columns: dict[str, Any] = {}
        for name, names, read in self._columns():
            given = {column: chunk.values.get(column, nothing) for column in names}
            cells = np.empty(len(rows), dtype=object)
            for i, place in enumerate(places):
                try:
                    cells[i] = read({column: values[place] for column, values in given.items()})
                except BadCellError as error:
                    reason = str(error) if name in _SPEAKING else f"{name}: {error}"
                    wrong.setdefault(i, []).append((name, reason))
            columns[name] = pd.Series(cells, dtype=object)
        self._name(columns["id"], rows)
        errors = np.empty(len(rows), dtype=object)
        for i, found in wrong.items():
            errors[i] = RowError(tuple(field for field, _ in found), "; ".join(reason for _, reason in found))
        return pd.DataFrame(
            {**columns, "row": pd.Series(rows, dtype="int64"), row_errors.COLUMN: pd.Series(errors, dtype=object)}
        )

    def _columns(self) -> Iterator[tuple[str, tuple[str, ...], Callable[[Mapping[str, Any]], Any]]]:
        """Yield what posts have: its name, the columns it is read from, and how."""
        names = self.names
        yield "id", (names.id,), lambda cells: plain_cell(single_cell(cells[names.id]), "id")
        for field in names.read_fields():
            kind = FIELD_KINDS[field.kind]
            read = functools.partial(read_cells, kind, base=self.base)
            if field.kind == "image" and self._folders is not None:
                read = functools.partial(confined_image, self._folders, read)
            yield field.name, field.columns, read
        yield "label", names.labels, read_label if len(names.labels) == 1 else read_flags
        for field_name, columns in names.field_labels().items():
            there = tuple(column for column in columns if column in self.found)
            if there:
                yield f"{FIELD_LABEL}{field_name}", there, read_votes
        yield "group", (names.group,), lambda cells: plain_cell(single_cell(cells[names.group]), "group")
        for column in names.kept:
            yield f"{KEPT}{column}", (column,), lambda cells: next(iter(cells.values()))

    def _name(self, ids: pd.Series[Any], rows: list[int]) -> None:
        """Make up the ids that are not given."""
        given = self.names.id in self.found
        for i, row in enumerate(rows):
            # An empty cell among given ids gets a name that no other post is likely to have.
            ids[i] = ids[i] or (f"row-{row}" if given else str(row - 1))

    def refuse_duplicate_ids(self, posts: pd.DataFrame) -> None:
        """Refuse posts of which two have the same id."""
        twice = posts.loc[posts["id"].duplicated(keep=False)]
        if twice.empty:
            return
        first = twice["id"].iloc[0]
        rows = twice.loc[twice["id"] == first, "row"].tolist()
        shown = ", ".join(map(str, rows[:5])) + ("..." if len(rows) > 5 else "")
        raise DataError(
            f"{self.where}: id {clip(first)!r} occurs in rows {shown} "
            f"({plural(twice['id'].nunique(), 'id occurs', 'ids occur')} more than once); make ids unique or "
            "remove the column"
        )
