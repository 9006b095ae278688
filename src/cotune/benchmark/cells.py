"""The record of a finished cell: one small file that appears whole or not at all."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from cotune._version import __version__
from cotune.benchmark.plan import Cell
from cotune.checksums import of_columns, seal_holds, sealed
from cotune.errors import RunError
from cotune.files import atomic_path, to_json

FOLDER = "cells"
_DIGITS = 6


@dataclass
class Record:
    """What is kept of a cell: ids, probabilities and figures, never a text or a picture.

    Attributes
    ----------
    cell : Cell
        Which one.
    ids : list of str
        Ids of the scored posts.
    proba : ndarray
        Their class probabilities, shape (N, n_classes).
    seconds : float
        Time to train and to score, without what is shared by cells.
    prepare_seconds : float
        Time that this cell spent on what others then shared: pixels, activations, embeddings.
    parameters : dict
        Numbers of parameters.
    history : list of dict
        One entry per epoch.
    emap : ndarray or None
        Probabilities of the additive projection.
    encoders : dict
        Fingerprints of the pretrained encoders.
    versions : dict
        Versions of what computed it.
    """

    cell: Cell
    ids: list[str]
    proba: np.ndarray
    seconds: float = 0.0
    prepare_seconds: float = 0.0
    parameters: dict[str, int] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    emap: np.ndarray | None = None
    encoders: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def record_path(out: Path, cell: Cell) -> Path:
    """Return where a cell's record lies."""
    return out / FOLDER / f"{cell.key}.parquet"


def write_record(out: Path, record: Record) -> Path:
    """Write a cell's record, atomically, and return its place."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {"id": pa.array(record.ids, pa.string())}
    for prefix, table in (("p", record.proba), ("e", record.emap)):
        if table is not None:
            rounded = np.round(table, _DIGITS).astype(np.float32)
            columns |= {f"{prefix}{k}": rounded[:, k] for k in range(rounded.shape[1])}
    about = {
        "cell": record.cell.to_dict(),
        "seconds": round(record.seconds, 3),
        "prepare_seconds": round(record.prepare_seconds, 3),
        "parameters": record.parameters,
        "history": [_rounded(row) for row in record.history],
        "encoders": record.encoders,
        "versions": record.versions,
        "content": of_columns([record.ids, *list(columns.values())[1:]]),
    }
    table = pa.table(columns).replace_schema_metadata({"cotune": to_json(sealed(about), indent=None)})
    path = record_path(out, record.cell)
    with atomic_path(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=9,
            use_dictionary=False,
            write_statistics=False,
        )
    return path


def read_record(path: Path) -> Record:
    """Read a cell's record.

    Raises
    ------
    RunError
        If it is damaged.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[b"cotune"])
        if not seal_holds(about):
            raise ValueError("its checksum differs")
        ids = table["id"].to_pylist()
        columns = [table[name].to_numpy() for name in table.column_names if name != "id"]
        if "content" in about and about["content"] != of_columns([ids, *columns]):
            raise ValueError("the checksum of its columns differs")
        return Record(
            Cell(**about["cell"]),
            ids,
            _columns(table, "p"),
            about["seconds"],
            about["prepare_seconds"],
            about["parameters"],
            about["history"],
            _columns(table, "e") if "e0" in table.column_names else None,
            about["encoders"],
            about["versions"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise RunError(
            f"{path} is damaged ({str(fault)[:200]}); delete it and continue with --resume, which computes it again"
        ) from fault


def read_records(out: Path) -> Iterator[Record]:
    """Yield the records of all finished cells."""
    for path in sorted((out / FOLDER).glob("*.parquet")):
        if not path.name.startswith(".tmp-"):
            yield read_record(path)


def clean(out: Path) -> None:
    """Remove what a killed process left unfinished."""
    for path in (out / FOLDER).glob(".tmp-*"):
        path.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Return the versions that decide results."""
    found = {"cotune": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "timm", "scikit-learn", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # pragma: no cover - all of them are needed
            continue
    return found


def _columns(table: Any, prefix: str) -> np.ndarray:
    names = [name for name in table.column_names if name.startswith(prefix) and name[1:].isdigit()]
    names.sort(key=lambda name: int(name[1:]))
    return np.column_stack([table[name].to_numpy() for name in names]).astype(np.float64)


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, _DIGITS) if isinstance(value, float) else value for key, value in row.items()}
