"""Exports of strangers: `export.json`, sealed as it should be."""

from __future__ import annotations

import json
from pathlib import Path

from targets._sealed import sealed_again

from cotune.export.package import ABOUT, open_export
from cotune.ownership import EXPORT

WORDS = ('"reads"', '"inputs"', '"task"', '"fields"', '"checksums"', '"name"', '"settings"', '"classes"', '"kind"',
         '"columns"', '"format"', "single-label", "regression", "annotated", "multi-label", "../", "null", "[]", "{}", "-1")  # fmt: skip


def seeds() -> list[bytes]:
    """Return what exports of several tasks say."""
    tasks = (
        {"name": "single-label", "settings": {"classes": ["x", "y"]}},
        {"name": "multi-label", "settings": {"classes": ["x", "y", "z"]}},
        {"name": "regression", "settings": {"mean": 0.5, "scale": 2.0}},
    )
    fields = [
        {"name": "text", "kind": "text", "columns": ["text"]},
        {"name": "table", "kind": "table", "columns": ["a", "b"]},
    ]
    return [
        json.dumps(
            {**EXPORT.mark(), "format": 1, "cotune": "0.1.0", "reads": ["text"], "inputs": {}, "task": task,
             "fields": fields, "checksums": {}}
        ).encode()
        for task in tasks
    ]  # fmt: skip


def read(data: bytes, folder: Path) -> None:
    """Open the export."""
    sealed = sealed_again(data)
    (folder / ABOUT).write_bytes(data if sealed is None else sealed)
    export = open_export(folder)
    list(export.reads)
    export.graph("onnx")
