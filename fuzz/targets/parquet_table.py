"""Posts tables in Parquet: their headers, schemas and pages."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from targets._tables import read_both_ways

WORDS = ("PAR1", "text", "image", "label", "id", "huggingface", '"names"', "ClassLabel", "ARROW:schema")


def seeds() -> list[bytes]:
    """Return small tables of several types and encodings."""
    names = {"info": {"features": {"label": {"names": ["x", "y"], "_type": "ClassLabel"}}}}
    text = pa.table({"text": ["a", None, "b"], "label": ["x", "y", "x"]})
    numbers = pa.table({"text": ["a", "b"], "label": pa.array([0, 1], pa.int64())})
    odd = pa.table({
        "text": [b"a", b"\xff"], "image": [{"bytes": b"\x89PNG", "path": None}, {"bytes": None, "path": "a.png"}],
        "label": [["x"], ["x", "y"]], "group": pa.array([1, 2], pa.timestamp("ns")),
    })  # fmt: skip
    found = []
    for table, more in (
        (text, {}),
        (text, {"compression": "none", "use_dictionary": False}),
        (numbers.replace_schema_metadata({"huggingface": json.dumps(names)}), {}),
        (odd, {"store_schema": False, "compression": "none"}),
    ):
        buffer = io.BytesIO()
        pq.write_table(table, buffer, **more)
        found.append(buffer.getvalue())
    return found


def read(data: bytes, folder: Path) -> None:
    """Read the table."""
    read_both_ways(data, folder / "posts.parquet")
