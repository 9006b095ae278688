"""What the importers of raw data sets share: a report, file look-up, and the writing of a posts table."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from cotune.data.images.folders import ALLOW_OUTSIDE, RealPaths, is_below
from cotune.data.images.sources import MAX_BYTES
from cotune.errors import DataError, clip

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
)


@dataclass(frozen=True)
class Problem:
    """One thing in the raw data that is not as it should be.

    Attributes
    ----------
    kind : str
        Short class of the problem, the same for all of its kind ("missing image").
    reason : str
        What exactly is wrong.
    id : str or None
        The post, when it is known.
    line : int or None
        The line of the label or record file, when there is one.
    file : str or None
        The file concerned.
    """

    kind: str
    reason: str
    id: str | None = None
    line: int | None = None
    file: str | None = None


@dataclass
class ImportReport:
    """What an importer found and what it made of it.

    Attributes
    ----------
    dataset : str
        Name of the raw data set.
    source : str
        Where it lies.
    rule : str or None
        How labels were combined.
    lines : int
        Records read, good or bad.
    posts : int
        Posts in the table.
    labels : dict
        How many of them carry each label.
    unlabelled : int
        How many carry none.
    problems : list of Problem
        Records left out, each with the reason.
    notes : list of Problem
        Oddities that cost no post (another extension found, bytes that disagree with the name).
    conflicts : list of Problem
        Posts left out because text and image contradict each other.
    ties : list of Problem
        Posts left out because no label is the most common.
    left_by_balance : int
        Sound posts not drawn because of the wish for balance.
    """

    dataset: str
    source: str
    rule: str | None = None
    lines: int = 0
    posts: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    unlabelled: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    conflicts: list[Problem] = field(default_factory=list)
    ties: list[Problem] = field(default_factory=list)
    left_by_balance: int = 0

    def finish(self, frame: pd.DataFrame) -> None:
        """Count the posts and labels of the finished table."""
        self.posts = len(frame)
        labels = [label for label in frame["label"] if label is not None]
        self.labels = {name: labels.count(name) for name in sorted(set(labels))}
        self.unlabelled = len(frame) - len(labels)

    def count(self, kind: str) -> int:
        """Return how many problems and notes are of one kind."""
        return sum(problem.kind == kind for problem in [*self.problems, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        from dataclasses import asdict

        return asdict(self)


def find_folder(raw: Path, marker: str, dataset: str, layout: str) -> tuple[Path, Path]:
    """Return the folder that holds the file `marker` (in any letter case), in `raw` or one level down.

    Raises
    ------
    DataError
        When there is none, or more than one below `raw`.
    """
    if not raw.exists():
        raise DataError(f"{raw} does not exist; name the folder of the raw {dataset} data ({layout})")
    if not raw.is_dir():
        raise DataError(f"{raw} is a file; name the folder of the raw {dataset} data ({layout})")
    try:
        found = _holding(raw, marker)
        if not found:
            found = [hit for child in sorted(raw.iterdir()) if child.is_dir() for hit in _holding(child, marker)]
    except OSError as error:
        raise DataError(f"{raw} cannot be read: {error.strerror}") from error
    if not found:
        raise DataError(f"{raw} holds no {marker}; a raw {dataset} folder has {layout}")
    if len(found) > 1:
        raise DataError(f"{raw} holds {marker} in {', '.join(hit.parent.name for hit in found)}; name one of them")
    return found[0].parent, found[0]


def _holding(folder: Path, marker: str) -> list[Path]:
    return [child for child in folder.iterdir() if child.name.lower() == marker.lower() and child.is_file()]


class FileIndex:
    """The files of one folder, found by stem whatever their extension and leading zeros.

    Parameters
    ----------
    folder : pathlib.Path
        The folder; it may be missing, then it holds nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, list[str]] = {}
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 - thousands of Path objects would be waste
        except OSError:
            names = []
        for name in names:
            self._names.setdefault(bare(Path(name).stem), []).append(name)

    def find(self, stem: str, suffixes: tuple[str, ...], prefer: str = "") -> Path | None:
        """Return the file called `stem` with one of `suffixes`; the one called `prefer` first of all."""
        names = [name for name in self._names.get(bare(stem), []) if Path(name).suffix.lower() in suffixes]
        if not names:
            return None
        names.sort(
            key=lambda name: (
                name != prefer,
                Path(name).stem != stem,
                suffixes.index(Path(name).suffix.lower()),
            )
        )
        return self.folder / names[0]


def bare(identity: str) -> str:
    """Return an id in the form that is the same for ``42``, ``00042`` and ``" 42"``."""
    plain = identity.strip()
    return (plain.lstrip("0") or "0") if plain.isascii() and plain.isdigit() else plain


def endless_trouble(path: Path, most: int) -> str | None:
    """Return why a file is not read: it is, or leads to, a folder, device or pipe, or has more than `most` bytes.

    A device may never end, and opening a pipe may wait for ever. What cannot be looked at says so when it is read.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return "is a folder" if stat.S_ISDIR(found.st_mode) else "is a device or pipe"
    return f"{found.st_size // 2**20:,} MB, the limit is {most // 2**20} MB" if found.st_size > most else None


class RawFiles:
    """Tells which files of a raw data set are read, and reports those that are not.

    A folder of raw data comes from somebody else, as tables do: neither its links nor the paths in its records may
    lead out of it, unless the user says so.

    Parameters
    ----------
    raw : pathlib.Path
        The folder that the user has named.
    report : ImportReport
        Takes what is odd.
    allow_outside : bool
        Read what lies elsewhere too.
    """

    def __init__(self, raw: Path, report: ImportReport, *, allow_outside: bool = False) -> None:
        self.report = report
        self._raw = raw
        self._root = None if allow_outside else os.path.realpath(raw)
        self._real_paths = RealPaths()

    def trouble(self, path: Path, most: int) -> str | None:
        """Return why a file is not read: it lies outside, is no file, or has more than `most` bytes."""
        if self._root is not None and not is_below(self._real_paths.of(str(path)), self._root):
            return f"lies outside of {clip(str(self._raw))}; if you trust the raw data, {ALLOW_OUTSIDE} reads it"
        return endless_trouble(path, most)

    def image(self, path: Path, wanted: str, identity: str, line: int) -> str | None:
        """Return an image's path unless it cannot be used; whatever is odd about it goes into the report."""
        trouble = self._image_trouble(path)
        if trouble is not None:
            kind, reason = trouble
            (self.report.notes if kind == "other format" else self.report.problems).append(
                Problem(kind, reason, identity, line, path.name)
            )
            if kind != "other format":
                return None
        if path.name != wanted:
            reason = f"{wanted} is missing, {path.name} found"
            self.report.notes.append(Problem("other name", reason, identity, line, path.name))
        return str(path)

    def _image_trouble(self, path: Path) -> tuple[str, str] | None:
        """Return kind and reason when the file's first bytes show that its name or its content is wrong.

        The kind is "empty image", "unreadable image" or "other format"; an image of another format than its
        name says can be used all the same.
        """
        if (trouble := self.trouble(path, MAX_BYTES)) is not None:
            return "unreadable image", trouble
        try:
            with path.open("rb") as handle:
                head = handle.read(16)
        except OSError as error:
            return "unreadable image", f"cannot be opened: {error.strerror}"
        if not head:
            return "empty image", "holds 0 bytes"
        kind = sniff(head)
        named = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}.get(
            path.suffix.lower(), path.suffix[1:].upper()
        )
        if kind is None or kind == named:
            return None
        return "other format", f"holds {kind}, read by content"


def sniff(head: bytes) -> str | None:
    """Return the image format that a file's first bytes announce, None when they are not known."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    return next((kind for signature, kind in _SIGNATURES if head.startswith(signature)), None)


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    r"""Yield line numbers and lines without their end, ``\r\n`` or ``\n``."""
    try:
        with path.open("rb") as handle:
            for number, line in enumerate(handle, start=1):
                yield (
                    number,
                    line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n") if number == 1 else line.rstrip(b"\r\n"),
                )
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
