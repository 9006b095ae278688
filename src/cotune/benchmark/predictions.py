"""The store of finished cells: one file of all predictions, and one that a running benchmark appends to.

``predictions.parquet`` holds one row for each cell. While a benchmark runs, every finished cell is appended to
``predictions.running`` as a block with its length and checksum; when the run ends, is stopped or is resumed, the
blocks are merged into the parquet file. A kill or a power cut at any moment leaves at most one unfinished block at the
end, which is ignored and cut off before the next one is written.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from filelock import FileLock

from cotune.benchmark.plan import Cell
from cotune.benchmark.records import DIGITS, Record, is_probabilities, record_from_bytes, record_to_bytes, rounded
from cotune.checksums import seal_holds, sealed
from cotune.errors import CotuneError, RunError
from cotune.files import atomic_path, remove_leftovers, to_json, write_at

FILE, RUNNING = "predictions.parquet", "predictions.running"
OLD_FOLDER = "cells"  # one file for each cell, as cotune 0.1 wrote them
_LOCK = ".store.lock"
# Format 2 holds values in single precision where format 1 holds probabilities in millionths.
_PROBABILITIES, _VALUES = 1, 2
_MAGIC = b"cotune\x00\x01"
_HEADER = struct.Struct("<8sQ32sI")
_ONE = 10**DIGITS
_WORDS = ("parameters", "history", "encoders", "versions")


class _Block(NamedTuple):
    start: int
    size: int
    digest: bytes


def append(out: Path, record: Record) -> None:
    """Append a finished cell; safe from several processes, and whole or not at all.

    Raises
    ------
    RunError
        If what was appended before is damaged.
    CotuneError
        If the disk is full or the folder cannot be written to.
    """
    content = record_to_bytes(record)
    head = (_MAGIC, len(content), sha256(content).digest())
    check = zlib.crc32(_HEADER.pack(*head, 0))
    path = out / RUNNING
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(str(out / _LOCK)):
        _, end = _blocks_of(path)
        write_at(path, end, _HEADER.pack(*head, check) + content)


def read(out: Path) -> list[Record]:
    """Return the records of all finished cells, sorted by the cells' keys.

    Raises
    ------
    RunError
        If the store is damaged.
    """
    # What is appended is read first: if another process merges meanwhile, it is found in the merged file.
    appended = list(_read_running(out / RUNNING))
    found = {record.cell: record for record in [*_read_old(out), *_read_merged(out / FILE), *appended]}
    return sorted(found.values(), key=lambda record: record.cell.key)


def write(out: Path, records: Sequence[Record]) -> None:
    """Replace the store's content."""
    with FileLock(str(out / _LOCK)):
        _write(out, records)
        _remove_merged(out)


def merge(out: Path) -> bool:
    """Merge appended cells, and those of an older version's folder, into one file; true if there were any.

    Raises
    ------
    RunError
        If the store is damaged.
    """
    if not (out / RUNNING).exists() and not (out / OLD_FOLDER).is_dir():
        return False
    with FileLock(str(out / _LOCK)):
        records = read(out)
        if records:
            _write(out, records)
        _remove_merged(out)
    return True


def count(out: Path) -> int:
    """Return how many finished cells there are.

    Raises
    ------
    RunError
        If the store is damaged.
    """
    import pyarrow.parquet as pq

    n = sum(not path.name.startswith(".tmp-") for path in (out / OLD_FOLDER).glob("*.parquet"))
    n += len(_blocks_of(out / RUNNING)[0])
    if (out / FILE).is_file():
        try:
            n += pq.read_metadata(out / FILE).num_rows
        except (OSError, ValueError) as error:
            raise _damaged(out / FILE, error) from error
    return n


def clean(out: Path) -> None:
    """Remove what a killed process left unfinished."""
    remove_leftovers(out / FILE)
    for path in (out / OLD_FOLDER).glob(".tmp-*"):
        path.unlink(missing_ok=True)


def _blocks_of(path: Path) -> tuple[list[_Block], int]:
    if not path.is_file():
        return [], 0
    with path.open("rb") as file:
        return _blocks(file, path)


def _blocks(file: BinaryIO, path: Path) -> tuple[list[_Block], int]:
    """Return the whole blocks and where the last one ends."""
    size = file.seek(0, os.SEEK_END)
    found: list[_Block] = []
    end = 0
    while size - end >= _HEADER.size:
        file.seek(end)
        head = _header(file.read(_HEADER.size))
        if head is None:
            file.seek(end)
            rest = file.read()
            starts = (match.start() for match in re.finditer(re.escape(_MAGIC), rest))
            if any(_header(rest[start : start + _HEADER.size]) for start in starts):
                raise _damaged(path, f"block {len(found) + 1} has no valid header")
            break  # the last write did not get to its end
        length, digest = head
        if end + _HEADER.size + length > size:
            break
        found.append(_Block(end + _HEADER.size, length, digest))
        end += _HEADER.size + length
    if found and not _content(file, found[-1]):  # its header was on the disk before its content was
        end = found.pop().start - _HEADER.size
    return found, end


def _header(content: bytes) -> tuple[int, bytes] | None:
    """Return length and digest out of a block's header, None if it is none."""
    if len(content) < _HEADER.size:
        return None
    magic, length, digest, check = _HEADER.unpack(content)
    valid = magic == _MAGIC and check == zlib.crc32(_HEADER.pack(magic, length, digest, 0))
    return (length, digest) if valid else None


def _content(file: BinaryIO, block: _Block) -> bytes:
    """Return a block's content, or nothing if its checksum differs."""
    file.seek(block.start)
    content = file.read(block.size)
    return content if sha256(content).digest() == block.digest else b""


def _read_running(path: Path) -> Iterator[Record]:
    if not path.is_file():
        return
    with path.open("rb") as file:
        for i, block in enumerate(_blocks(file, path)[0]):
            content = _content(file, block)
            if not content:
                raise _damaged(path, f"the checksum of block {i + 1} differs")
            try:
                yield record_from_bytes(content)
            except ValueError as error:
                raise _damaged(path, error) from error


def _read_old(out: Path) -> Iterator[Record]:
    for path in sorted((out / OLD_FOLDER).glob("*.parquet")):
        if not path.name.startswith(".tmp-"):
            try:
                yield record_from_bytes(path.read_bytes())
            except (OSError, ValueError) as error:
                raise _damaged(path, error) from error


def _read_merged(path: Path) -> Iterator[Record]:
    import pyarrow.parquet as pq

    if not path.is_file():
        return
    try:
        table = pq.read_table(path)
        head = json.loads(table.schema.metadata[b"cotune"])
        if head["format"] > _VALUES:
            raise RunError(f"{path} was written by a newer cotune; update cotune")
        if not seal_holds(head):
            raise ValueError("its checksum differs")
        exact = head["format"] == _VALUES
        names = {prefix: _names(prefix, head["classes"], exact) for prefix in "pe"}
        lists = {name: _arrays(table[name]) for name in ("id", *names["p"], *names["e"])}
        for i, row in enumerate(table.drop_columns(list(lists)).to_pylist()):
            record = Record(
                Cell(**{name: row[name] for name in Cell.__dataclass_fields__}),
                [str(identity) for identity in lists["id"][i]],
                _predictions([lists[name][i] for name in names["p"]], exact),
                row["seconds"],
                row["prepare_seconds"],
                emap=None
                if lists[names["e"][0]][i] is None
                else _predictions([lists[name][i] for name in names["e"]], exact),
                **{name: json.loads(row[name]) for name in _WORDS},
            )
            if record.about()["checksum"] != row["checksum"]:
                raise ValueError(f"the checksum of the cell {record.cell.key} differs")
            yield record
    except CotuneError:
        raise
    except Exception as error:  # pyarrow raises nearly anything where bytes are damaged
        raise _damaged(path, error) from error


def _write(out: Path, records: Sequence[Record]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = sorted(records, key=lambda record: record.cell.key)
    n_classes = records[0].proba.shape[1] if records else 0
    abouts = [record.about() for record in records]
    columns: dict[str, Any] = {
        name: [getattr(record.cell, name) for record in records] for name in Cell.__dataclass_fields__
    }
    columns |= {name: [about[name] for about in abouts] for name in ("seconds", "prepare_seconds")}
    columns |= {name: [to_json(about[name], indent=None) for about in abouts] for name in _WORDS}
    columns["checksum"] = [about["checksum"] for about in abouts]
    types = {"fold": pa.int32(), "seed": pa.int64(), "shots": pa.int32(), "draw": pa.int32()}
    types |= dict.fromkeys(("seconds", "prepare_seconds"), pa.float64())
    arrays = {name: pa.array(values, types.get(name, pa.string())) for name, values in columns.items()}
    arrays["id"] = pa.array([record.ids for record in records], pa.list_(pa.string()))
    exact = not all(is_probabilities(table) for r in records for table in (r.proba, r.emap) if table is not None)
    for prefix, tables in (("p", [r.proba for r in records]), ("e", [r.emap for r in records])):
        pack = _values if exact else _millionths
        packed = [None if table is None else pack(table) for table in tables]
        for k, name in enumerate(_names(prefix, n_classes, exact)):
            arrays[name] = _lists([None if one is None else one[k] for one in packed])
    head = sealed({"format": _VALUES if exact else _PROBABILITIES, "classes": n_classes})
    numbers = {
        f"{name}.list.element": "BYTE_STREAM_SPLIT" for prefix in "pe" for name in _names(prefix, n_classes, exact)
    }
    with atomic_path(out / FILE) as temporary:
        pq.write_table(
            pa.table(arrays).replace_schema_metadata({"cotune": to_json(head, indent=None)}),
            temporary,
            compression="zstd",
            compression_level=19,
            use_dictionary=["id.list.element", *columns],
            column_encoding=numbers,
            write_statistics=False,
        )


def _names(prefix: str, n_outputs: int, exact: bool) -> list[str]:
    """Return the columns of `n_outputs` values; of probabilities, of all but the last one and of the sum of all."""
    if exact:
        return [f"{prefix}{k}" for k in range(n_outputs)]
    return [*(f"{prefix}{k}" for k in range(n_outputs - 1)), f"{prefix}_sum"]


def _values(table: np.ndarray) -> np.ndarray:
    """Return values as they are kept, one row for each output."""
    return rounded(table).T


def _millionths(table: np.ndarray) -> np.ndarray:
    """Return probabilities as whole millionths, one row for each class but the last, and one for their sum.

    The sum is a million but for rounding, so that it takes next to no space, and the last class nothing.
    """
    whole = np.rint(table.astype(np.float64) * _ONE).T
    return np.concatenate([whole[:-1], whole.sum(axis=0, keepdims=True)])


def _predictions(columns: list[np.ndarray], exact: bool) -> np.ndarray:
    """Turn what :func:`_values` or :func:`_millionths` made into predictions again."""
    whole = np.stack(columns, axis=1).astype(np.float64)
    if exact:
        return whole
    whole[:, -1] -= whole[:, :-1].sum(axis=1)
    result: np.ndarray = (whole / _ONE).astype(np.float32).astype(np.float64)
    return result


def _lists(values: list[np.ndarray | None]) -> Any:
    """Return number lists as a column; NaN becomes null."""
    import pyarrow as pa

    lengths = [0 if value is None else len(value) for value in values]
    flat = np.concatenate([np.zeros(0), *(value for value in values if value is not None)])
    nan = np.isnan(flat)
    kind = np.float32 if any(value is not None and value.dtype == np.float32 for value in values) else np.int32
    numbers = pa.array(np.where(nan, 0, flat).astype(kind), mask=nan if nan.any() else None)
    offsets = pa.array(np.cumsum([0, *lengths]).astype(np.int32))
    absent = pa.array([value is None for value in values] or [], pa.bool_())
    return pa.ListArray.from_arrays(offsets, numbers, mask=absent)


def _arrays(column: Any) -> list[Any]:
    """Return a column of lists as arrays; nulls become None, or NaN within a list."""
    found: list[Any] = []
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=False)
        offsets = chunk.offsets.to_numpy()
        valid = chunk.is_valid().to_numpy(zero_copy_only=False)
        found += [
            values[low:high] if there else None
            for low, high, there in zip(offsets[:-1], offsets[1:], valid, strict=True)
        ]
    return found


def _remove_merged(out: Path) -> None:
    (out / RUNNING).unlink(missing_ok=True)
    for path in (out / OLD_FOLDER).glob("*.parquet"):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or holds files of somebody else
        (out / OLD_FOLDER).rmdir()


def _damaged(path: Path, reason: object) -> RunError:
    cause = " ".join(str(reason).split())[:200]
    return RunError(
        f"{path} is damaged ({cause}); restore it from a copy, or delete it and continue with --resume, "
        "which computes its cells again"
    )
