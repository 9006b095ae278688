"""Grids of encoders (`bench --grid`)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from cotune.benchmark.grid import READY, read_grid

WORDS = ("text:", "image:", "methods:", "folds:", "- ", "bundled:", "hf:", "[", "]", "{", "}", "&a", "*a", "<<: *a", "? ",
         "!!binary", "!!set", "!!timestamp 2001-01-01", "0x7f", "1:30", ".nan")  # fmt: skip


def seeds() -> list[bytes]:
    """Return the grids that come with the package, and a small one."""
    shipped = [(files("cotune.benchmark") / "grids" / f"{name}.yaml").read_bytes() for name in READY]
    return [*shipped, b"text: [hf:a/b, bundled:c]\nimage: [timm:d]\nmethods: [joint]\nfolds: 3\n"]


def read(data: bytes, folder: Path) -> None:
    """Read the grid."""
    path = folder / "grid.yaml"
    path.write_bytes(data)
    assert read_grid(str(path)).pairs
