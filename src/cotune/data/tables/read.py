"""Raw records from tables of every kind, in chunks, with exact row and line numbers in every error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cotune.data.tables.arrow import arrow_chunks, dataset_chunks, parquet_chunks
from cotune.data.tables.chunks import Chunk, join_chunks
from cotune.data.tables.excel import excel_chunks
from cotune.data.tables.text import Lines, csv_chunks, json_chunks, jsonl_chunks, sniffed_kind
from cotune.errors import ConfigError, DataError, clip, did_you_mean

__all__ = ["KINDS", "STDIN", "Chunk", "arrow_chunks", "is_stdin", "join_chunks", "read_chunks", "table_name"]

KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".xlsx")
_TEXT_KINDS = KINDS[:-2]
STDIN = "standard input"


def is_stdin(path: object) -> bool:
    """Tell whether `path` is ``-``, which stands for standard input."""
    return str(path) == "-"


def table_name(path: object) -> str:
    """Return what a table is called in messages."""
    return STDIN if is_stdin(path) else clip(str(path))


def read_chunks(path: Path, wanted: Sequence[str], chunk_size: int, *, kind: str | None = None) -> Iterator[Chunk]:
    """Yield the table at `path` in chunks of at most `chunk_size` rows.

    Parameters
    ----------
    path : pathlib.Path
        A table file, a folder written by `datasets`, or ``-`` for text on standard input.
    wanted : sequence of str
        The columns to keep; those that do not exist are left out.
    chunk_size : int
        The most rows of one chunk.
    kind : str, optional
        How to read it ("csv"), instead of what its name (for standard input: its first line) suggests.

    Raises
    ------
    DataError
        For anything that is not a readable table.
    """
    ending = None if kind is None else _ending(kind)
    if is_stdin(path):
        return _stdin_chunks(wanted, chunk_size, ending)
    if path.is_dir():
        return dataset_chunks(path, wanted, chunk_size, KINDS)
    ending, compressed = _kind(path, ending)
    if ending == ".parquet":
        return parquet_chunks(path, wanted, chunk_size)
    if ending == ".xlsx":
        return excel_chunks(path, wanted, chunk_size)
    return _text_chunks(Lines(path, compressed), ending, wanted, chunk_size)


def _stdin_chunks(wanted: Sequence[str], chunk_size: int, ending: str | None) -> Iterator[Chunk]:
    if ending is not None and ending not in _TEXT_KINDS:
        raise DataError(f"{STDIN} is read as csv, tsv, jsonl or json, not as {ending[1:]}; save the table as a file")
    lines = Lines(None)
    return _text_chunks(lines, ending or sniffed_kind(lines), wanted, chunk_size)


def _text_chunks(lines: Lines, ending: str, wanted: Sequence[str], chunk_size: int) -> Iterator[Chunk]:
    if ending == ".json":
        return json_chunks(lines, wanted, chunk_size)
    if ending in (".csv", ".tsv"):
        return csv_chunks(lines, wanted, chunk_size, "\t" if ending == ".tsv" else ",")
    return jsonl_chunks(lines, wanted, chunk_size)


def _ending(kind: str) -> str:
    ending = "." + kind.lower().removeprefix(".")
    if ending not in KINDS:
        names = [known[1:] for known in KINDS]
        raise ConfigError(f"unknown format {clip(kind)!r}{did_you_mean(kind, names)}; choose one of {', '.join(names)}")
    return ending


def _kind(path: Path, asked: str | None) -> tuple[str, bool]:
    """Return how to read a file, and whether it is compressed."""
    try:
        there, regular = path.exists(), path.is_file()
    except (OSError, ValueError) as error:  # a name too long to exist, or with a NUL byte
        raise DataError(f"{clip(str(path))} cannot be a file: {_why(error)}; check the path") from error
    if not there:
        raise DataError(f"{path} does not exist; check the path")
    if not regular:
        raise DataError(f"{path} is not a regular file; a posts table is one of {', '.join(KINDS)}")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    found: list[Any] = [asked] if asked else (suffixes[:-1] if compressed else suffixes)[-1:]
    known = _TEXT_KINDS if compressed else KINDS
    if not found or found[0] not in known:
        raise DataError(
            f"{path} has no ending that is known; a posts table is one of {', '.join(known)} "
            "(--format, or kind= in Python, says how to read another)"
        )
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if empty:
        raise DataError(f"{path} is empty (0 bytes); a posts table needs a header and at least one row")
    return str(found[0]), compressed


def _why(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
