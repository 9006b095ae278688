"""Spaces of settings to search (`tune --space`)."""

from __future__ import annotations

from pathlib import Path

from cotune.settings import FitConfig
from cotune.tuning.space import default_space, make_space, read_space

WORDS = ("low: ", "high: ", "log: true", "step: ", "lr-head", "width", "fusion", "tune", "epochs", "batch-size", "dropout",
         "1e-400", ".inf", ".nan", "99999999999999999999", "[", "]", "{", "}", "null", "&a", "*a", "top", "frozen")  # fmt: skip
_CONFIG = FitConfig()


def seeds() -> list[bytes]:
    """Return spaces."""
    return [
        default_space(_CONFIG).yaml().encode(),
        b"lr-head: {low: 0.0001, high: 0.001, log: true}\nwidth: [64, 128]\n",
        b"tune: [top, joint]\ntext-top: {low: 1, high: 3}\nepochs: {low: 2, high: 6, step: 2}\n",
    ]


def read(data: bytes, folder: Path) -> None:
    """Read the space; written as a file it has to be the same one."""
    path = folder / "space.yaml"
    path.write_bytes(data)
    space = read_space(path, _CONFIG)
    if make_space(space.plain(), _CONFIG).plain() != space.plain():
        raise AssertionError("a space that is another one once it was written")
    space.within(_CONFIG)
    space.most_epochs(_CONFIG)
