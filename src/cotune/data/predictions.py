"""Writing a predictions table piece by piece, so that memory does not grow with the number of posts."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cotune.data.write import UnixLines
from cotune.errors import DataError
from cotune.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
TEXTS = ("id", "true", "label", "error")
"""Columns that hold text; all others hold numbers."""

Write = Callable[["pd.DataFrame"], None]


def check_predictions_path(out: str | Path, posts: Path | None = None) -> None:
    """Refuse an `out` that cannot be meant, before any work is done for it.

    Raises
    ------
    DataError
        If it is neither ``-`` nor ends in .csv, .tsv, .jsonl or .parquet, or is the table `posts` itself.
    """
    if str(out) == "-":
        return
    if Path(out).suffix.lower() not in KINDS:
        raise DataError(f"{out} has no ending that is known; write .csv, .tsv, .jsonl, .parquet, or - for stdout")
    if posts is not None and Path(out).resolve() == posts.resolve():
        raise DataError(f"{out} is the posts table itself, which predictions would replace; give --out another name")


@contextmanager
def predictions_writer(out: str | Path, columns: Sequence[str]) -> Iterator[Write]:
    """Open a predictions table; it appears under its name only when the block ends well.

    Parameters
    ----------
    out : path
        A .csv, .tsv, .jsonl or .parquet file, or ``-`` for comma-separated lines on standard output.
    columns : sequence of str
        The table's columns; those in `TEXTS` hold text, the others numbers.

    Yields
    ------
    callable
        Takes the next rows as a DataFrame with these columns.
    """
    check_predictions_path(out)
    if str(out) == "-":
        with _csv_rows(sys.stdout, columns, ",") as write:
            yield write
        sys.stdout.flush()
        return
    kind = Path(out).suffix.lower()
    with atomic_path(out) as temporary:
        if kind == ".parquet":
            with _parquet_rows(temporary, columns) as write:
                yield write
            return
        with temporary.open("w", encoding="utf-8", errors="replace", newline="") as handle:
            if kind == ".jsonl":
                yield lambda frame: handle.writelines(_json_lines(frame))
            else:
                with _csv_rows(handle, columns, "\t" if kind == ".tsv" else ",") as write:
                    yield write


def records(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the rows as plain values; NaN and nothing are None."""
    for record in frame.to_dict("records"):
        yield {str(name): _plain(value) for name, value in record.items()}


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value


def _json_lines(frame: pd.DataFrame) -> Iterator[str]:
    for record in records(frame):
        yield json.dumps(record, ensure_ascii=False) + "\n"


@contextmanager
def _csv_rows(handle: TextIO, columns: Sequence[str], delimiter: str) -> Iterator[Write]:
    writer = csv.DictWriter(UnixLines(handle), columns, delimiter=delimiter)
    writer.writeheader()
    yield lambda frame: writer.writerows(records(frame))


@contextmanager
def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string() if name in TEXTS else pa.float64()) for name in columns])
    with pq.ParquetWriter(path, schema) as writer:
        yield lambda frame: writer.write_table(pa.Table.from_pylist(list(records(frame)), schema=schema))
