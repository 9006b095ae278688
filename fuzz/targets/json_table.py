"""Posts tables of JSON: an array, columns, or an object a line."""

from __future__ import annotations

from pathlib import Path

from targets._tables import read_both_ways

WORDS = ('{"', '":', '","', "[", "]", "null", "true", "NaN", "1e999", '"text"', '"image"', '"label"', '"id"',
         '"group"', '"label:text"', "\\ud800", "\\u0000", "\n", "999999999999999999999")  # fmt: skip


def seeds() -> list[bytes]:
    """Return tables of each layout."""
    return [
        b'{"id": "1", "text": "a day", "image": "a.png", "label": "x"}\n{"id": "2", "text": null, "label": "y"}\n',
        b'{"text": ["a"], "label": ["x", "y"]}\n\n{"text": 3, "label": 1.0, "later": {"a": [1]}}\n',
        b'[{"text": "a", "label": true}, {"text": "b", "label": false, "label:text": "x|y"}]',
        b'{"text": ["a", "b"], "label": [0, 1]}',
        b'{"text": "\\ud83d\\ude00 \\ud800", "image": "data:image/png;base64,iVBORw0KGgo="}\n',
    ]


def read(data: bytes, folder: Path) -> None:
    """Read the table, as an array if it looks like one."""
    read_both_ways(data, folder / ("posts.json" if data[:1] == b"[" else "posts.jsonl"))
