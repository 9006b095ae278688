"""Tables of text: .csv, .tsv, .jsonl and .json, plain or compressed, from files or standard input."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import IO, Any

from cotune.data.tables.chunks import Chunk, Collector, header_names
from cotune.errors import DataError

MOST_LINE = 128 * 2**20
"""Longer lines, in bytes, are refused: a small compressed file may hold one that fills the memory."""
MOST_BLANK = 1_000_000
"""More blank lines in a row are refused: a small compressed file may hold so many that skipping them takes hours."""
MOST_JSON = 2**30
"""Longer .json tables, in characters, are refused, as they are read whole."""

_BLANK = (b"\n", b"\r\n")
_RETURN = "\ufdd0"  # a code point that Unicode keeps free of characters


class Lines:
    r"""Lines ended by ``\n`` alone, decoded one by one so that a bad byte has a line number.

    Parameters
    ----------
    path : Path or None
        The file; None for standard input.
    compressed : bool
        Whether it is gzip.
    """

    def __init__(self, path: Path | None, compressed: bool = False) -> None:
        self.name = "standard input" if path is None else str(path)
        self._path = path
        self._compressed = compressed
        self._lines = self._read()
        self._first: list[str] = []
        #: Bytes of the longest line that is read.
        self.most = MOST_LINE

    def first(self) -> str:
        """Return the first line, which stays the next to be yielded; empty when there is none."""
        if not self._first:
            self._first = [line for line in [next(self._lines, None)] if line is not None]
        return self._first[0] if self._first else ""

    def __iter__(self) -> Iterator[str]:
        while self._first:
            yield self._first.pop()
        yield from self._lines

    def _open(self) -> IO[bytes]:
        if self._path is None:
            return sys.stdin.buffer
        try:
            return gzip.open(self._path, "rb") if self._compressed else self._path.open("rb")  # type: ignore[return-value]
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror or error}") from error

    def _refuse_wide(self, first: bytes) -> None:
        """Refuse a file whose first line shows two or four bytes a character, with a mark or by its zero bytes."""
        if first.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
            raise DataError(f"{self.name} is UTF-32; save it as UTF-8")
        if first.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(f"{self.name} is UTF-16; save it as UTF-8")
        if b"\0" in first:
            raise DataError(f"{self.name} has zero bytes in its first line, as UTF-16 has; save it as UTF-8")

    def _read(self) -> Iterator[str]:
        position = blank = 0
        handle = self._open()
        try:
            for number, raw in enumerate(iter(lambda: handle.readline(self.most), b""), start=1):
                if len(raw) == self.most:
                    raise DataError(
                        f"{self.name}, line {number}: longer than {self.most // 2**20} MB, as no post is; save the "
                        "table with one post a line"
                    )
                blank = blank + 1 if raw in _BLANK else 0
                if blank > MOST_BLANK:
                    raise DataError(f"{self.name}, line {number}: more than {MOST_BLANK:,} blank lines in a row")
                if number == 1:
                    self._refuse_wide(raw)
                try:
                    yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{self.name} is not UTF-8: line {number}, byte {position + error.start} of the file is "
                        f"0x{raw[error.start]:02x}; save it as UTF-8"
                    ) from error
                position += len(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.name} cannot be read to its end: {error}") from error
        finally:
            if self._path is not None:
                handle.close()


def sniffed_kind(lines: Lines) -> str:
    """Return what kind of table begins with the first of `lines`."""
    first = lines.first().lstrip("\ufeff \t\r\n")
    if not first and not lines.first():
        raise DataError(f"{lines.name} is empty; a posts table needs a header and at least one row")
    if first.startswith("{"):
        return ".jsonl"
    if first.startswith("["):
        return ".json"
    return ".tsv" if "\t" in first and "," not in first else ".csv"


def csv_chunks(source: Lines, wanted: Sequence[str], chunk_size: int, delimiter: str) -> Iterator[Chunk]:
    """Yield the records of a table of separated values."""
    csv.field_size_limit(MOST_LINE)  # texts may be longer than csv's own 128 KB
    name, lines = source.name, iter(source)
    blank = 0
    first = next(lines, "")
    while first and not first.strip("\ufeff \t\r\n"):
        blank += 1
        first = next(lines, "")
    if delimiter == "," and "," not in first:  # spreadsheets of many countries write semicolons
        delimiter = ";" if ";" in first else "\t" if "\t" in first else ","

    if "\r" in first.rstrip("\r\n"):
        raise DataError(f"{name}: the lines end in bare carriage returns; save it with ordinary line ends")

    def all_lines() -> Iterator[str]:
        yield from repeat("\n", blank)
        yield first
        for line in lines:  # csv takes no lone carriage return outside quotes
            body = line.rstrip("\r\n")
            yield line if "\r" not in body else body.replace("\r", _RETURN) + line[len(body) :]

    reader = csv.reader(all_lines(), delimiter=delimiter, strict=True)
    collector = Collector(wanted, chunk_size)
    header: list[str] = []
    start = 1
    try:
        for fields in reader:
            start, begun = reader.line_num + 1, start
            if not fields or (len(header) != 1 and len(fields) == 1 and not fields[0].strip()):
                continue  # a blank line; in a table of one column it may be an empty post
            if not header:
                header = header_names(name, fields)
                collector.columns.update(dict.fromkeys(header))
                continue
            if len(fields) > len(header) and any(fields[len(header) :]):
                raise DataError(
                    f"{name}, line {begun}: {len(fields)} fields, but the header has {len(header)}; "
                    "put quotes around a field that holds the separator"
                )
            if len(fields) < len(header):
                raise DataError(
                    f"{name}, line {begun}: {len(fields)} of {len(header)} fields; the file may be cut off, "
                    "or the line lacks separators"
                )
            if any(_RETURN in field for field in fields):
                fields = [field.replace(_RETURN, "\r") for field in fields]
            collector.add(dict(zip(header, fields, strict=False)))
            if collector.full:
                yield collector.take()
    except csv.Error as error:
        what = "a quote is opened and never closed" if "unexpected end" in str(error) else str(error)
        raise DataError(f"{name}, record at line {start}: {what}; double the quotes inside a quoted field") from error
    if not header:
        raise DataError(f"{name} holds only blank lines; a posts table needs a header and at least one row")
    if collector.records or header:
        yield collector.take()


def jsonl_chunks(lines: Lines, wanted: Sequence[str], chunk_size: int) -> Iterator[Chunk]:
    """Yield the records of a table with a JSON object in each line."""
    collector = Collector(wanted, chunk_size, by_row=True)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _parse(line.rstrip("\r\n"), f"{lines.name}, line {number}")
        if isinstance(record, list) and number == 1:
            raise DataError(f"{lines.name} holds a JSON array, not one object a line; name it .json")
        if not isinstance(record, dict):
            raise DataError(f"{lines.name}, line {number}: holds {type(record).__name__}, expected an object {{...}}")
        collector.add(record)
        if collector.full:
            yield collector.take()
    yield collector.take()


def json_chunks(lines: Lines, wanted: Sequence[str], chunk_size: int) -> Iterator[Chunk]:
    """Yield the records of one JSON array of objects, or of one object of columns."""
    value = _parse(_whole(lines), lines.name)
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        sizes = {len(column) for column in value.values()}
        if len(sizes) > 1:
            raise DataError(f"{lines.name}: columns of different lengths ({', '.join(map(str, sorted(sizes)))})")
        value = [dict(zip(value, record, strict=True)) for record in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        raise DataError(f"{lines.name}: expected a JSON array of objects, one for each post; for one a line use .jsonl")
    collector = Collector(wanted, chunk_size)
    for row, record in enumerate(value, start=1):
        if not isinstance(record, dict):
            raise DataError(f"{lines.name}, row {row}: holds {type(record).__name__}, expected an object {{...}}")
        collector.add(record)
        if collector.full:
            yield collector.take()
    yield collector.take()


def _whole(lines: Lines) -> str:
    """Return all lines as one text."""
    lines.most = MOST_JSON  # many programs write an array in one line
    parts, length = [], 0
    for part in lines:
        parts.append(part)
        length += len(part)
        if length > MOST_JSON:
            raise DataError(f"{lines.name} has more than {MOST_JSON // 2**20} MB and is read whole; save it as .jsonl")
    return "".join(parts)


def _parse(text: str, where: str) -> Any:
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # a number of too many digits for Python; as words it is one odd cell
            return json.loads(text, parse_int=str)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if error.lineno > 1 else ""
        raise DataError(f"{where}{line}: not valid JSON, column {error.colno}: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{where}: JSON that cannot be read: {error}") from error
