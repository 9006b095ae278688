"""What cannot be run by an engine is remembered beside where its graph would be, so that it is tried once."""

from __future__ import annotations

from pathlib import Path

from cotune.errors import CotuneError
from cotune.files import read_json, write_json

_FAILED = "failed.json"


def failure(folder: Path) -> str | None:
    """Return why what is kept in a folder cannot be exported; None if nothing is known against it."""
    path = folder / _FAILED
    return str(read_json(path).get("reason", "")) if path.is_file() else None


def remember_failure(folder: Path, reason: str) -> None:
    """Write down why; a cache that cannot be written to remembers nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _FAILED, {"reason": reason})
    except (CotuneError, OSError):
        return
