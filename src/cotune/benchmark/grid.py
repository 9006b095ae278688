"""Grids of encoders: YAML files that name the text and image encoders whose pairs are to be compared."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cotune.errors import ConfigError, clip, did_you_mean
from cotune.files import parse_yaml, read_yaml

READY = ("bundled", "hub")
_KEYS = ("text", "image", "methods", "folds")


@dataclass(frozen=True)
class Grid:
    """The pairs of a grid, and what it says of methods and folds.

    Attributes
    ----------
    text, image : tuple of str
        Encoders; every pair of them is measured.
    methods : tuple of str or None
        Methods, if the file names them.
    folds : int or None
        Number of folds, if the file names it.
    """

    text: tuple[str, ...]
    image: tuple[str, ...]
    methods: tuple[str, ...] | None = None
    folds: int | None = None

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """All pairs of a text and an image encoder."""
        return tuple((text, image) for text in self.text for image in self.image)


def read_grid(source: str) -> Grid:
    """Read a grid: a YAML file, or one that comes with cotune by its name.

    Parameters
    ----------
    source : str
        A path, ``bundled`` or ``hub``.

    Raises
    ------
    ConfigError
        If there is no such grid, or it does not say what a grid must say.
    """
    if source in READY:
        text = (files("cotune.benchmark") / "grids" / f"{source}.yaml").read_text(encoding="utf-8")
        return _grid(parse_yaml(text, source), source)
    missing = f"there is no grid {source}{did_you_mean(source, READY)}; give a YAML file, or {' or '.join(READY)}"
    return _grid(read_yaml(Path(source).expanduser(), missing=missing), source)


def _grid(parsed: Any, where: str) -> Grid:
    if not isinstance(parsed, dict):
        raise ConfigError(f"{where} must hold `text:` and `image:` with lists of encoders")
    for key in parsed:
        if key not in _KEYS:
            near = did_you_mean(str(key), _KEYS)
            raise ConfigError(f"{where} has an unknown key {clip(repr(key))}{near}; known are: {', '.join(_KEYS)}")
    folds = parsed.get("folds")
    if folds is not None and (not isinstance(folds, int) or isinstance(folds, bool) or folds < 2):
        raise ConfigError(f"{where}: folds must be a number of at least 2, not {clip(repr(folds))}")
    methods = _names(parsed["methods"], where, "methods") if parsed.get("methods") is not None else None
    text, image = (_names(parsed.get(key), where, key) for key in ("text", "image"))
    return Grid(text, image, methods, folds)


def _names(value: Any, where: str, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise ConfigError(f"{where}: {key} must be a list of names, not {clip(repr(value))}")
    return tuple(dict.fromkeys(value))
