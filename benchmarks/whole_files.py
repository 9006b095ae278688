"""Whether files are whole, and what counts of their content: for checks of what a killed process leaves behind."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import sqlite3
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from cotune.checksums import damage
from cotune.data.store import ArrayStore, store_settings
from cotune.files import read_json, to_json

#: Names that say themselves that a file is not finished, locks, and what SQLite rolls back by.
UNFINISHED = re.compile(r"\.tmp-.*|lock|\.?[\w.-]*\.lock|.*-(journal|wal|shm)")
#: What may differ between two results that are the same: times, the folder, and the command line, which ``--resume`` is
#: added to.
TIMES = {"seconds", "prepare_seconds", "posts_per_second", "created", "folder", "command"}
#: Not compared: the database that ``trials.csv`` is made of, and pages with times, made of files that are compared.
_NOT_COMPARED = {"search.db", "report.html"}
#: Of a store of the cache that nothing was put into yet.
_MAY_BE_EMPTY = {"data.bin", "index.sqlite"}
_SEALS = {"checksum", "checksums"}


def files_of(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder in order; those that are named as unfinished are left out."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and ".locks" not in parts and not any(UNFINISHED.fullmatch(part) for part in parts):
            yield path


def leftovers(folder: Path) -> list[str]:
    """Return the temporary files and folders below a folder."""
    found = [path.relative_to(folder) for path in sorted(folder.rglob(".tmp-*"))]
    return [path.as_posix() for path in found if not any(part.startswith(".tmp-") for part in path.parts[:-1])]


def damaged_files(folder: Path) -> list[str]:
    """Return what is wrong with files that have their final names; empty if all are whole."""
    wrong = []
    for path in files_of(folder):
        reason = _reason(lambda path=path: _open(path))
        if reason is not None:
            wrong.append(f"{path.relative_to(folder).as_posix()}: {reason}")
    for path, check in _folders(folder):
        reason = _reason(check)
        if reason is not None:
            wrong.append(f"{path.relative_to(folder).as_posix()}/: {reason}")
    return wrong


def _reason(check: Callable[[], object]) -> str | None:
    try:
        check()
    except Exception as error:  # whatever a reader raises is the finding
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None


def _folders(folder: Path) -> Iterator[tuple[Path, Callable[[], object]]]:
    """Yield the folders that are something as a whole, and what opens them."""
    from cotune.benchmark import predictions
    from cotune.export.package import is_export, open_export
    from cotune.run import load_run

    for path in [folder, *sorted(p for p in folder.rglob("*") if p.is_dir())]:
        if any(UNFINISHED.fullmatch(part) for part in path.relative_to(folder).parts):
            continue
        if (path / "store.json").is_file():
            yield path, lambda path=path: _read_store(path)
        if (path / predictions.RUNNING).is_file() or (path / predictions.FILE).is_file():
            yield path, lambda path=path: predictions.read(path)
        if is_export(path):
            yield path, lambda path=path: open_export(path)
        elif (path / "config.json").is_file() and (path / "labels.json").is_file():
            yield path, lambda path=path: load_run(path)
        if path.name == "checkpoint" and (path / "state.json").is_file():
            yield path, lambda path=path: _refuse_damage(path)


def _read_store(folder: Path) -> None:
    made = store_settings(folder)
    store = ArrayStore(folder, dtype=str(made["dtype"]), row_shape=made["row_shape"])  # type: ignore[arg-type]
    for key in list(store._places):
        store.get(key)


def _refuse_damage(checkpoint: Path) -> None:
    for name, what in damage(checkpoint, read_json(checkpoint / "state.json")["files"]):
        raise ValueError(f"{name} {what}")


def _open(path: Path) -> None:
    """Read a file to its end; raise where it has none."""
    name = path.name
    if path.stat().st_size == 0 and name not in _MAY_BE_EMPTY:
        raise ValueError("empty")
    kind = path.suffix
    if kind == ".gz":
        with gzip.open(path) as file:
            file.read()
    elif kind == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif kind == ".jsonl":
        for line in _lines(path):
            json.loads(line)
    elif kind in (".csv", ".tsv"):
        widths = {len(row) for row in csv.reader(_lines(path), delimiter="\t" if kind == ".tsv" else ",")}
        if len(widths) != 1:
            raise ValueError(f"rows of {sorted(widths)} cells")
    elif kind == ".yaml":
        yaml.safe_load(path.read_text(encoding="utf-8"))
    elif kind == ".html":
        if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
            raise ValueError("no end")
    elif kind == ".safetensors":
        from safetensors.numpy import load_file

        load_file(path)
    elif kind == ".parquet":
        import pyarrow.parquet as pq

        pq.read_table(path)
    elif kind == ".xlsx":
        with zipfile.ZipFile(path) as book:
            if (bad := book.testzip()) is not None:
                raise ValueError(f"{bad} is damaged")
    elif kind in (".db", ".sqlite"):
        with closing(sqlite3.connect(path)) as base:
            (found,) = base.execute("PRAGMA integrity_check").fetchone()
            if found != "ok":
                raise ValueError(found)
    elif kind == ".onnx":
        import onnx

        onnx.checker.check_model(str(path))


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        raise ValueError("no line end at the end")
    return text.splitlines()


# ---- what counts of a result -------------------------------------------------------------------------------


def result_of(out: Path) -> dict[str, str]:
    """Return a hash of what counts of each file of a result: byte for byte, but for times.

    Times are left out of JSON, tables and workbooks, and so are checksums of files that hold times. Of a benchmark's
    cells all but times count. ``report.html`` and the database of a search are compared by the files beside them, made
    of the same.
    """
    if out.is_file():
        return {"": _hash(_counts(out))}
    found = {}
    for path in files_of(out):
        name = path.relative_to(out).as_posix()
        if path.name not in _NOT_COMPARED:
            found[name] = _hash(_counts(path))
    return found


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _counts(path: Path) -> bytes:
    if path.name == "predictions.parquet":  # the cells of a benchmark
        from cotune.benchmark import predictions

        return repr([_cell(record) for record in predictions.read(path.parent)]).encode()
    if path.suffix == ".json":
        return to_json(without_times(read_json(path))).encode()
    if path.suffix == ".csv":
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        kept = [i for i, name in enumerate(rows[0]) if name not in TIMES]
        return repr([[row[i] for i in kept] for row in rows]).encode()
    if path.suffix == ".xlsx":
        with zipfile.ZipFile(path) as book:  # but for when it was made
            names = sorted(name for name in book.namelist() if not name.startswith("docProps/"))
            return repr([(name, book.read(name)) for name in names]).encode()
    return path.read_bytes()


def _cell(record: Any) -> tuple[Any, ...]:
    emap = None if record.emap is None else record.emap.tobytes()
    return (record.cell, record.ids, record.proba.tobytes(), emap, record.parameters,
            without_times(record.history), record.encoders)  # fmt: skip


def without_times(value: Any) -> Any:
    """Return a value of JSON without times, and without checksums of files that hold times."""
    if isinstance(value, Mapping):
        kept = {key: without_times(item) for key, item in value.items() if key not in TIMES | _SEALS}
        sums = value.get("checksums")
        if isinstance(sums, Mapping):
            kept["checksums"] = {key: item for key, item in sums.items() if Path(key).suffix != ".json"}
        return kept
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return value
