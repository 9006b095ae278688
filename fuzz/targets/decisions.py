"""Decisions of a review (`--labels-from`), read and applied to posts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cotune.data.decisions import apply_decisions, read_decisions
from cotune.data.posts import read_posts

WORDS = ("id", "row", "label", "decision", "given", "keep", "change", "exclude", ",", "\n", "1", "2", "x", "y", '"')
_POSTS = read_posts(pd.DataFrame({"id": list("abc"), "text": list("uvw"), "label": ["x", "y", "x"]}))


def seeds() -> list[bytes]:
    """Return files of decisions."""
    return [
        b"id,row,label,decision,given\na,1,y,change,x\nb,2,,keep,y\nc,3,,exclude,x\n",
        b"row,label\n1,y\n3,y\n",
        b"id;label;decision\na;;exclude\n",
        b"id,row,label,decision,given\n,1,y,change,\n,2,x,change,y\n",
    ]


def read(data: bytes, folder: Path) -> None:
    """Read the file, and apply what it says."""
    path = folder / "decisions.csv"
    path.write_bytes(data)
    decisions = read_decisions(path)
    for partial in (True, False):
        apply_decisions(_POSTS, decisions, partial=partial)
