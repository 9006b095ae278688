"""What the targets of posts tables share."""

from __future__ import annotations

from pathlib import Path

from cotune.data.images.load import describe, is_url
from cotune.data.posts import iter_posts, read_posts
from cotune.data.tables.cells import has_image
from cotune.errors import CotuneError

_PIECE = 3


def read_both_ways(data: bytes, path: Path) -> None:
    """Read posts at once and in pieces of a few rows; the rows, and their errors, have to be the same."""
    path.write_bytes(data)
    try:
        whole = read_posts(path)
    except CotuneError:
        for _ in iter_posts(path, _PIECE):  # may accept what is only wrong as a whole; it must not crash either
            pass
        raise
    pieces = [row for piece in iter_posts(path, _PIECE) for row in piece.to_dict("records")]
    rows = whole.to_dict("records")
    if len(rows) != len(pieces):
        raise AssertionError(f"{len(rows)} posts at once, {len(pieces)} in pieces")
    for one, other in zip(rows, pieces, strict=True):
        differing = [key for key in one if repr(one[key]) != repr(other.get(key))]
        if differing:
            raise AssertionError(f"row {one['row']}: {differing} differ between whole and pieces")
        if has_image(one["image"]):
            describe(one["image"])
            is_url(one["image"])
