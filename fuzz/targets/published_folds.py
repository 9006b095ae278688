"""Folds that a paper published (`bench --folds-from`)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cotune.data.posts import read_posts
from cotune.data.published_folds import read_published_folds

WORDS = ("id", "fold", "split", "split_1", "train", "test", "val", "dev", ",", "\n", "a", "b", "c", "d")
_POSTS = read_posts(pd.DataFrame({"id": list("abcd"), "text": list("uvwx"), "label": list("xyxy")}))


def seeds() -> list[bytes]:
    """Return files of folds."""
    return [
        b"id,fold\na,1\nb,2\nc,1\nd,2\n",
        b"id,split\na,train\nb,test\nc,val\nd,train\n",
        b"id,split_1,split_2\na,train,test\nb,test,train\nc,train,\nd,dev,train\n",
    ]


def read(data: bytes, folder: Path) -> None:
    """Read the file."""
    path = folder / "folds.csv"
    path.write_bytes(data)
    read_published_folds(_POSTS, "posts.csv", str(path))
