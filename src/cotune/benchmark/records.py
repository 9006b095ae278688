"""The record of a finished cell, and its form in bytes."""

from __future__ import annotations

import io
import json
import platform
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np

from cotune._version import __version__
from cotune.benchmark.plan import Cell
from cotune.checksums import of_columns, seal_holds, sealed
from cotune.files import to_json

DIGITS = 6


@dataclass
class Record:
    """What is kept of a cell: ids, probabilities and figures, never a text or an image.

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

    def about(self) -> dict[str, Any]:
        """Return everything but ids and probabilities, with a checksum that covers those too."""
        tables = [self.proba] if self.emap is None else [self.proba, self.emap]
        columns = [column for table in tables for column in rounded(table).T.copy()]
        return sealed(
            {
                "cell": self.cell.to_dict(),
                "seconds": round(self.seconds, 3),
                "prepare_seconds": round(self.prepare_seconds, 3),
                "parameters": self.parameters,
                "history": [_rounded(row) for row in self.history],
                "encoders": self.encoders,
                "versions": self.versions,
                "content": of_columns([self.ids, *columns]),
            }
        )


def is_probabilities(table: np.ndarray) -> bool:
    """Tell whether predictions, shape (N, n_outputs), are probabilities: of several outputs, all within 0 and 1."""
    there = table[~np.isnan(table)]
    return table.shape[1] > 1 and bool(((there >= 0) & (there <= 1)).all())


def rounded(table: np.ndarray) -> np.ndarray:
    """Return predictions as they are kept, in single precision: probabilities to six digits, values as they are."""
    if not is_probabilities(table):
        return table.astype(np.float32)
    result: np.ndarray = (np.rint(table.astype(np.float64) * 10**DIGITS) / 10**DIGITS).astype(np.float32)
    return result


def record_to_bytes(record: Record) -> bytes:
    """Return a record as a small parquet file of its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {"id": pa.array(record.ids, pa.string())}
    for prefix, table in (("p", record.proba), ("e", record.emap)):
        if table is not None:
            columns |= {f"{prefix}{k}": column for k, column in enumerate(rounded(table).T)}
    about = {"cotune": to_json(record.about(), indent=None)}
    buffer = io.BytesIO()
    pq.write_table(
        pa.table(columns).replace_schema_metadata(about),
        buffer,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    )
    return buffer.getvalue()


def record_from_bytes(content: bytes) -> Record:
    """Read what :func:`record_to_bytes` made, and the files of single cells that older versions wrote.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(content))
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
    except Exception as error:  # pyarrow raises nearly anything where bytes are damaged
        raise ValueError(str(error)) from error


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
    return {key: round(value, DIGITS) if isinstance(value, float) else value for key, value in row.items()}
