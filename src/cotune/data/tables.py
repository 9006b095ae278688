"""Raw records from table files, in chunks, with exact row and line numbers in every complaint."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cotune.errors import DataError

KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_TEXT_KINDS = KINDS[:-1]
_RETURN = "\ufdd0"  # a code point that Unicode keeps free of characters


@dataclass
class Chunk:
    """Some rows of a table: the wanted columns' values and the names of all columns seen so far."""

    columns: list[str]
    values: dict[str, list[Any]]
    rows: int


def read_chunks(path: Path, wanted: Sequence[str], chunk_size: int) -> Iterator[Chunk]:
    """Yield the table at `path` in chunks of at most `chunk_size` rows.

    Parameters
    ----------
    path : pathlib.Path
        A table file or a folder written by `datasets`.
    wanted : sequence of str
        The columns to keep; those that do not exist are left out.
    chunk_size : int
        The most rows of one chunk.

    Raises
    ------
    DataError
        For anything that is not a readable table.
    """
    if path.is_dir():
        return _dataset_chunks(path, wanted, chunk_size)
    kind, compressed = _kind(path)
    if kind == ".parquet":
        return _parquet_chunks(path, wanted, chunk_size)
    if kind == ".json":
        return _json_chunks(path, compressed, wanted, chunk_size)
    if kind in (".csv", ".tsv"):
        return _csv_chunks(path, compressed, wanted, chunk_size, "\t" if kind == ".tsv" else ",")
    return _jsonl_chunks(path, compressed, wanted, chunk_size)


def _kind(path: Path) -> tuple[str, bool]:
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path")
    if not path.is_file():
        raise DataError(f"{path} is not a regular file; a posts table is one of {', '.join(KINDS)}")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if compressed else suffixes)[-1:]
    known = _TEXT_KINDS if compressed else KINDS
    if not kind or kind[0] not in known:
        raise DataError(f"{path} has no ending that is known; a posts table is one of {', '.join(known)}")
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if empty:
        raise DataError(f"{path} is empty (0 bytes); a posts table needs a header and at least one row")
    return kind[0], compressed


def _open(path: Path, compressed: bool) -> IO[bytes]:
    try:
        return gzip.open(path, "rb") if compressed else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _lines(path: Path, compressed: bool) -> Iterator[str]:
    r"""Yield lines ended by ``\n`` alone, decoded one by one so that a bad byte has a line number."""
    position = 0
    with _open(path, compressed) as handle:
        try:
            for number, raw in enumerate(handle, start=1):
                if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise DataError(f"{path} is UTF-16; save it as UTF-8")
                try:
                    yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path} is not UTF-8: line {number}, byte {position + error.start} of the file is "
                        f"0x{raw[error.start]:02x}; save it as UTF-8"
                    ) from error
                position += len(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} cannot be read to its end: {error}") from error


class _Collector:
    """Gathers records into chunks."""

    def __init__(self, wanted: Sequence[str], chunk_size: int) -> None:
        self.wanted = list(dict.fromkeys(wanted))
        self.chunk_size = chunk_size
        self.columns: dict[str, None] = {}
        self.records: list[list[Any]] = []

    @property
    def full(self) -> bool:
        return len(self.records) >= self.chunk_size

    def add(self, record: Mapping[str, Any]) -> None:
        for key in record:
            if key not in self.columns:
                self.columns[key] = None
        self.records.append([record.get(name) for name in self.wanted])

    def take(self) -> Chunk:
        records, self.records = self.records, []
        values = {name: [record[i] for record in records] for i, name in enumerate(self.wanted) if name in self.columns}
        return Chunk(list(self.columns), values, len(records))


def _csv_chunks(
    path: Path, compressed: bool, wanted: Sequence[str], chunk_size: int, delimiter: str
) -> Iterator[Chunk]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # texts may be longer than csv's own 128 KB
    lines = _lines(path, compressed)
    first = next(lines, "")
    if delimiter == "," and "," not in first:  # spreadsheets of many countries write semicolons
        delimiter = ";" if ";" in first else "\t" if "\t" in first else ","

    if "\r" in first.rstrip("\r\n"):
        raise DataError(f"{path}: the lines end in bare carriage returns; save it with ordinary line ends")

    def all_lines() -> Iterator[str]:
        yield first
        for line in lines:  # csv takes no lone carriage return outside quotes
            body = line.rstrip("\r\n")
            yield line if "\r" not in body else body.replace("\r", _RETURN) + line[len(body) :]

    reader = csv.reader(all_lines(), delimiter=delimiter, strict=True)
    collector = _Collector(wanted, chunk_size)
    header: list[str] = []
    start = 1
    try:
        for fields in reader:
            start, begun = reader.line_num + 1, start
            if not fields or (len(fields) == 1 < len(header) and not fields[0].strip()):
                continue  # a blank line; in a table of one column it may be an empty post
            if not header:
                header = _header(path, fields)
                collector.columns.update(dict.fromkeys(header))
                continue
            if len(fields) > len(header) and any(fields[len(header) :]):
                raise DataError(
                    f"{path}, line {begun}: {len(fields)} fields, but the header has {len(header)}; "
                    "put quotes around a field that holds the separator"
                )
            if len(fields) < len(header):
                raise DataError(
                    f"{path}, line {begun}: {len(fields)} of {len(header)} fields; the file may be cut off, "
                    "or the line lacks separators"
                )
            if any(_RETURN in field for field in fields):
                fields = [field.replace(_RETURN, "\r") for field in fields]
            collector.add(dict(zip(header, fields, strict=False)))
            if collector.full:
                yield collector.take()
    except csv.Error as error:
        what = "a quote is opened and never closed" if "unexpected end" in str(error) else str(error)
        raise DataError(f"{path}, record at line {start}: {what}; double the quotes inside a quoted field") from error
    if not header:
        raise DataError(f"{path} holds only blank lines; a posts table needs a header and at least one row")
    if collector.records or header:
        yield collector.take()


def _header(path: Path, fields: list[str]) -> list[str]:
    header = [name.strip() for name in fields]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the header names column {twice[0]!r} more than once; give each its own name")
    return header


def _jsonl_chunks(path: Path, compressed: bool, wanted: Sequence[str], chunk_size: int) -> Iterator[Chunk]:
    collector = _Collector(wanted, chunk_size)
    for number, line in enumerate(_lines(path, compressed), start=1):
        if not line.strip():
            continue
        record = _parse(line.rstrip("\r\n"), f"{path}, line {number}")
        if isinstance(record, list) and number == 1:
            raise DataError(f"{path} holds a JSON array, not one object a line; name it .json")
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: holds {type(record).__name__}, expected an object {{...}}")
        collector.add(record)
        if collector.full:
            yield collector.take()
    yield collector.take()


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if error.lineno > 1 else ""
        raise DataError(f"{where}{line}: not valid JSON, column {error.colno}: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of too many digits
        raise DataError(f"{where}: JSON that cannot be read: {error}") from error


def _json_chunks(path: Path, compressed: bool, wanted: Sequence[str], chunk_size: int) -> Iterator[Chunk]:
    value = _parse("".join(_lines(path, compressed)), str(path))
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        sizes = {len(column) for column in value.values()}
        if len(sizes) > 1:
            raise DataError(f"{path}: columns of different lengths ({', '.join(map(str, sorted(sizes)))})")
        value = [dict(zip(value, record, strict=True)) for record in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a JSON array of objects, one for each post; for one a line use .jsonl")
    collector = _Collector(wanted, chunk_size)
    for row, record in enumerate(value, start=1):
        if not isinstance(record, dict):
            raise DataError(f"{path}, row {row}: holds {type(record).__name__}, expected an object {{...}}")
        collector.add(record)
        if collector.full:
            yield collector.take()
    yield collector.take()


def _parquet_chunks(path: Path, wanted: Sequence[str], chunk_size: int) -> Iterator[Chunk]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            columns = list(table.schema_arrow.names)
            keep = [name for name in dict.fromkeys(wanted) if name in columns]
            if not keep:
                yield Chunk(columns, {}, table.metadata.num_rows)
                return
            for batch in table.iter_batches(batch_size=chunk_size, columns=keep):
                values = {name: batch.column(batch.schema.get_field_index(name)).to_pylist() for name in keep}
                yield Chunk(columns, values, batch.num_rows)
            if table.metadata.num_rows == 0:
                yield Chunk(columns, {name: [] for name in keep}, 0)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from error


def _dataset_chunks(path: Path, wanted: Sequence[str], chunk_size: int) -> Iterator[Chunk]:
    if (path / "dataset_dict.json").exists():
        splits = sorted(folder.name for folder in path.iterdir() if (folder / "state.json").exists())
        raise DataError(f"{path} holds the splits {', '.join(splits) or 'none'}; name one, as {path / 'train'}")
    if not (path / "state.json").exists():
        raise DataError(
            f"{path} is a folder; a posts table is one of {', '.join(KINDS)} or a folder written by "
            "Hugging Face datasets' save_to_disk"
        )
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{path} is a Hugging Face datasets folder; pip install 'cotune[datasets]'") from error
    try:
        table = datasets.load_from_disk(str(path))
        decoders: dict[str, Callable[[Any], Any]] = {}
        for name, feature in table.features.items():
            if isinstance(feature, datasets.Image):
                # Encoded bytes are small and decoded safely later on.
                table = table.cast_column(name, datasets.Image(decode=False))
            elif isinstance(feature, datasets.ClassLabel):
                decoders[name] = _label_reader(feature.names)
    except Exception as error:
        raise DataError(f"{path} cannot be opened as a datasets folder: {str(error).splitlines()[0]}") from error
    columns = list(table.column_names)
    keep = [name for name in dict.fromkeys(wanted) if name in columns]
    table = table.select_columns(keep)
    for start in range(0, max(1, len(table)), chunk_size):
        batch = table[start : start + chunk_size]
        values = {name: [decoders.get(name, _same)(value) for value in batch[name]] for name in keep}
        yield Chunk(columns, values, min(chunk_size, len(table) - start))


def _same(value: Any) -> Any:
    return value


def _label_reader(names: list[str]) -> Callable[[Any], Any]:
    # Hugging Face writes -1 where a label is withheld.
    return lambda value: names[value] if isinstance(value, int) and 0 <= value < len(names) else None
