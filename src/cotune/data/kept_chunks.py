"""Finished chunks of a table, kept in a folder until the whole is done, so that what was stopped can be resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from json import loads
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cotune._version import __version__
from cotune.data.predictions import predictions_writer
from cotune.errors import CotuneError
from cotune.files import read_json, real_path, remove, to_json, write_json
from cotune.ownership import Kind

_KEY = "key.json"
_SHOWN = 40  # characters of a value that is named in a message


class KeptChunks:
    """Finished chunks of a command that may be stopped.

    Parameters
    ----------
    folder : Path
        Where they are kept.
    key : mapping
        What they depend on, by the names that a user knows; what was kept under another key is not used.
    kind : Kind
        What they are chunks of.
    """

    #: All files in the folder that may be deleted.
    files: tuple[str, ...] = (_KEY, "chunk-*.jsonl", ".tmp-*")

    def __init__(self, folder: Path, key: Mapping[str, Any], kind: Kind) -> None:
        self.folder = folder
        self.key = {**{name: str(value) for name, value in key.items()}, **kind.mark()}
        # Chunks of a process that still writes under another key have other names.
        self._tag = hashlib.blake2b(to_json(self.key).encode("utf-8", "replace"), digest_size=4).hexdigest()

    def begin(self) -> None:
        """Remove what was kept under another key, and write down this one."""
        if self.folder.is_dir() and read_kept(self.folder / _KEY) != self.key:
            self.remove()
        if not (self.folder / _KEY).is_file():
            write_json(self.folder / _KEY, self.key)

    def differences(self) -> list[str]:
        """Return what differs between the key of what is kept and this one; empty if nothing is kept."""
        before = read_kept(self.folder / _KEY)
        if not isinstance(before, dict) or not any(self.folder.glob("chunk-*.jsonl")):
            return []
        found = []
        for name in dict.fromkeys([*self.key, *before]):
            old, new = str(before.get(name)), str(self.key.get(name))
            if old != new:
                found.append(f"{name} ({old}, now {new})" if max(len(old), len(new)) <= _SHOWN else name)
        return found

    def chunk(self, number: int) -> Path:
        """Return the file of a chunk."""
        return self.folder / f"chunk-{number:06}-{self._tag}.jsonl"

    def chunks(self) -> list[Path]:
        """Return the files of all finished chunks, in order."""
        return sorted(self.folder.glob(f"chunk-*-{self._tag}.jsonl"))

    def write(self, number: int, frame: pd.DataFrame, texts: Collection[str]) -> None:
        """Keep a finished chunk."""
        self.begin()
        with predictions_writer(self.chunk(number), list(frame.columns), texts) as write:
            write(frame)

    def read(self, number: int, columns: Sequence[str], texts: Collection[str]) -> pd.DataFrame | None:
        """Return a chunk as it was written; None if it is not there, or damaged.

        Parameters
        ----------
        number : int
            Which one, counted from 0.
        columns : sequence of str
            The table's columns.
        texts : collection of str
            Those that hold text; the others hold numbers.
        """
        try:
            rows = [loads(line) for line in self.chunk(number).read_text(encoding="utf-8").split("\n") if line]
            table = {
                name: np.asarray([row[name] for row in rows], dtype=object)
                if name in texts
                else pd.to_numeric(pd.Series([row[name] for row in rows], dtype=object))
                for name in columns
            }
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return pd.DataFrame(table, columns=list(columns))

    def remove(self) -> None:
        """Delete what was kept, and the folder once it is empty."""
        for pattern in self.files:
            for path in self.folder.glob(pattern):
                remove(path)
        with suppress(OSError):
            self.folder.rmdir()


def read_kept(path: Path) -> Any:
    """Return the JSON in a file; None if there is none, or it is damaged."""
    try:
        return read_json(path)
    except CotuneError:
        return None


def table_key(posts: Path) -> dict[str, Any]:
    """Return what tells a posts table's file or folder, and that it was not changed, for :class:`KeptChunks`."""
    files = sorted(path for path in ([posts] if not posts.is_dir() else posts.rglob("*")) if path.is_file())
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return {"version": __version__, "posts": real_path(posts), "content of the posts table": stamps}
