"""Pieces of a table, as every reader hands them on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cotune.errors import DataError, clip


@dataclass
class Chunk:
    """Some rows of a table: the wanted columns' values and the names of all columns seen so far.

    `by_row` tells that each row names its own columns, so that later ones may bring more.
    """

    columns: list[str]
    values: dict[str, list[Any]]
    rows: int
    by_row: bool = False


@dataclass(frozen=True)
class UnreadableCell:
    """Stands in a chunk for a cell whose value could not be read at all."""

    reason: str


class Collector:
    """Gathers records into chunks."""

    def __init__(self, wanted: Sequence[str], chunk_size: int, *, by_row: bool = False) -> None:
        self.by_row = by_row
        self.wanted = list(dict.fromkeys(wanted))
        self.chunk_size = chunk_size
        self.columns: dict[str, None] = {}
        self.records: list[list[Any]] = []

    @property
    def full(self) -> bool:
        """Whether a chunk's rows are together."""
        return len(self.records) >= self.chunk_size

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a row."""
        for key in record:
            if key not in self.columns:
                self.columns[key] = None
        self.records.append([record.get(name) for name in self.wanted])

    def take(self) -> Chunk:
        """Return the rows gathered so far, and begin again."""
        records, self.records = self.records, []
        values = {name: [record[i] for record in records] for i, name in enumerate(self.wanted) if name in self.columns}
        return Chunk(list(self.columns), values, len(records), self.by_row)


def join_chunks(chunks: Sequence[Chunk]) -> Chunk:
    """Return chunks as one; a column that comes late is empty before."""
    if len(chunks) == 1:
        return chunks[0]
    columns = list(dict.fromkeys(name for chunk in chunks for name in chunk.columns))
    wanted = list(dict.fromkeys(name for chunk in chunks for name in chunk.values))
    values = {
        name: [value for chunk in chunks for value in chunk.values.get(name, [None] * chunk.rows)] for name in wanted
    }
    return Chunk(columns, values, sum(chunk.rows for chunk in chunks), chunks[0].by_row)


def header_names(where: str, fields: Sequence[str]) -> list[str]:
    """Return the names of a header row, trimmed.

    Raises
    ------
    DataError
        When a name occurs twice.
    """
    header = [name.strip() for name in fields]
    twice = sorted(name for name, count in Counter(header).items() if name and count > 1)
    if twice:
        raise DataError(f"{where}: the header names column {clip(twice[0])!r} more than once; give each its own name")
    return header
