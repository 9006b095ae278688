"""Writing a predictions table piece by piece, so that memory does not grow with the number of posts."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cotune.data.tables.excel import workbook_writer
from cotune.data.write import UnixLines
from cotune.errors import DataError, clip
from cotune.files import atomic_path
from cotune.ownership import BENCHMARK, RUN

if TYPE_CHECKING:
    import pandas as pd

_TEXT_KINDS = (".csv", ".tsv", ".jsonl", ".json")
KINDS = (*_TEXT_KINDS, ".parquet", ".xlsx")
TEXTS = frozenset({"id", "true", "label", "error"})
"""Columns that hold text, if nothing else is said; all others hold numbers."""

Write = Callable[["pd.DataFrame"], None]


def check_predictions_path(out: str | Path, posts: Path | None = None) -> None:
    """Refuse an `out` that cannot be meant, before any work is done for it.

    Raises
    ------
    DataError
        If it is neither ``-`` nor has a known ending, is the table `posts` itself, or is a workbook and openpyxl is
        not installed.
    """
    if str(out) == "-":
        return
    kind, compressed = _kind(out)
    if kind not in (_TEXT_KINDS if compressed else KINDS):
        raise DataError(
            f"{clip(str(out))} has no ending that is known; write {', '.join(KINDS)} (those of text also with .gz), "
            "or - for standard output"
        )
    # Path.resolve() raises where links lead in a circle.
    if posts is not None and os.path.realpath(out) == os.path.realpath(posts):
        raise DataError(f"{out} is the posts table itself, which predictions would replace; give --out another name")
    _refuse_files_of_others(Path(out))
    if kind == ".xlsx":
        from cotune.data.tables.excel import need_openpyxl

        need_openpyxl(str(out))


def _refuse_files_of_others(out: Path) -> None:
    """Refuse to replace a file of a run, an encoder or a benchmark, or JSON that is no predictions."""
    known = out.suffix == ".json" or any(fnmatch(out.name, name) for name in (*RUN.files, *BENCHMARK.files, "log.csv"))
    for folder in (out.parent, out.parent.parent):
        for marker, what in (("config.json", "a run or an encoder"), ("bench.json", "a benchmark")):
            if known and out.exists() and (folder / marker).is_file():
                raise DataError(f"{out} is a file of {what}, which predictions would replace; give --out another name")
    if out.suffix == ".json" and out.is_file():
        try:
            found = json.loads(out.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if not isinstance(found, list):
            raise DataError(f"{out} holds something other than predictions; give --out another name, or remove it")


def _flushing(write: Write) -> Write:
    """Return a writer whose rows reach standard output at once: whoever reads them may be waiting."""

    def write_and_flush(frame: pd.DataFrame) -> None:
        write(frame)
        sys.stdout.flush()

    return write_and_flush


def _kind(out: str | Path) -> tuple[str, bool]:
    suffixes = [suffix.lower() for suffix in Path(out).suffixes]
    compressed = suffixes[-1:] == [".gz"]
    return "".join((suffixes[:-1] if compressed else suffixes)[-1:]), compressed


@contextmanager
def predictions_writer(out: str | Path, columns: Sequence[str], texts: Collection[str] = TEXTS) -> Iterator[Write]:
    """Open a predictions table; it appears under its name only when the block ends well.

    Parameters
    ----------
    out : path
        A .csv, .tsv, .jsonl, .json (each also .gz), .parquet or .xlsx file, or ``-`` for comma-separated lines on
        standard output.
    columns : sequence of str
        The table's columns.
    texts : collection of str
        Those that hold text; the others hold numbers.

    Yields
    ------
    callable
        Takes the next rows as a DataFrame with these columns.
    """
    check_predictions_path(out)
    if str(out) == "-":
        with _csv_rows(sys.stdout, columns, ",") as write:
            yield _flushing(write)
        return
    kind, compressed = _kind(out)
    with atomic_path(out) as temporary, ExitStack() as stack:
        if kind == ".parquet":
            yield stack.enter_context(_parquet_rows(temporary, columns, texts))
        elif kind == ".xlsx":
            rows = stack.enter_context(workbook_writer(temporary, columns))
            yield lambda frame: rows(list(record.values()) for record in records(frame))
        else:
            handle = stack.enter_context(_text(temporary, compressed))
            yield stack.enter_context(_text_rows(handle, kind, columns))


@contextmanager
def _text(path: Path, compressed: bool) -> Iterator[TextIO]:
    if not compressed:
        with path.open("w", encoding="utf-8", errors="replace", newline="") as handle:
            yield handle
        return
    # Without a time and a name in it, equal tables are equal files.
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", errors="replace", newline="") as handle,
    ):
        yield handle


@contextmanager
def _text_rows(handle: TextIO, kind: str, columns: Sequence[str]) -> Iterator[Write]:
    if kind == ".jsonl":
        yield lambda frame: handle.writelines(f"{line}\n" for line in _json_records(frame))
    elif kind == ".json":
        with _json_array(handle) as write:
            yield write
    else:
        with _csv_rows(handle, columns, "\t" if kind == ".tsv" else ",") as write:
            yield write


@contextmanager
def _json_array(handle: TextIO) -> Iterator[Write]:
    begun = False

    def write(frame: pd.DataFrame) -> None:
        nonlocal begun
        for record in _json_records(frame):
            handle.write(f"{',' if begun else '['}\n{record}")
            begun = True

    yield write
    handle.write("\n]\n" if begun else "[]\n")


def records(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the rows as plain values; NaN and nothing are None."""
    for record in frame.to_dict("records"):
        yield {str(name): _plain(value) for name, value in record.items()}


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value


def _json_records(frame: pd.DataFrame) -> Iterator[str]:
    for record in records(frame):
        yield json.dumps(record, ensure_ascii=False)


@contextmanager
def _csv_rows(handle: TextIO, columns: Sequence[str], delimiter: str) -> Iterator[Write]:
    writer = csv.DictWriter(UnixLines(handle), columns, delimiter=delimiter)
    writer.writeheader()
    yield lambda frame: writer.writerows(records(frame))


@contextmanager
def _parquet_rows(path: Path, columns: Sequence[str], texts: Collection[str]) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string() if name in texts else pa.float64()) for name in columns])
    with pq.ParquetWriter(path, schema) as writer:
        yield lambda frame: writer.write_table(pa.Table.from_pylist(list(records(frame)), schema=schema))
