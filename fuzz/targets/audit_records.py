"""Records of decisions (`cotune audit`)."""

from __future__ import annotations

import json
from pathlib import Path

from cotune.decide.audit import read_records

WORDS = ('"record": "cotune decision"', '"format": 1', "\n", "{", "}", '"checksum"', "\\ud800", "[[[[", "null")


def seeds() -> list[bytes]:
    """Return files of records."""
    record = {"record": "cotune decision", "format": 1, "id": "a", "row": 1, "route": "act", "checksum": "0"}
    return [json.dumps(record).encode() + b"\n", (json.dumps(record) + "\n" + json.dumps({"record": 1})).encode()]


def read(data: bytes, folder: Path) -> None:
    """Read the records."""
    path = folder / "audit.jsonl"
    path.write_bytes(data)
    for _ in read_records(path):
        pass
