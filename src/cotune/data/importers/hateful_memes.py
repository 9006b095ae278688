"""The raw Hateful Memes folder in any of the shapes in which it goes around."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from cotune.data.importers.base import (
    IMAGE_SUFFIXES,
    FileIndex,
    ImportReport,
    Problem,
    RawFiles,
    bare,
    find_folder,
    numbered_lines,
)
from cotune.data.posts import clean_text
from cotune.errors import ConfigError, DataError, clip, did_you_mean, listed
from cotune.report.numbers import plural

SPLITS = ("train", "dev_seen", "dev_unseen", "test_seen", "test_unseen", "dev", "test")
_LAYOUT = "train.jsonl, dev_seen.jsonl and a folder img/"
_WITHHELD = (None, -1, "-1", "")


def import_hateful_memes(
    raw: str | Path, *, splits: Sequence[str] = ("train", "dev_seen"), allow_outside: bool = False
) -> tuple[pd.DataFrame, ImportReport]:
    """Turn a raw Hateful Memes folder into posts; nothing is copied.

    Lines that cannot be read and posts whose image is missing are left out and listed. A post that an
    earlier line or split already brought counts once.

    Parameters
    ----------
    raw : path
        The folder with the .jsonl files and `img/`, or the one above it.
    splits : sequence of str
        The files to read, without their ending, in this order.
    allow_outside : bool
        Take images too that lie outside of the folder.

    Returns
    -------
    posts : pandas.DataFrame
        `id` (five digits), `text`, `image` (absolute paths), `label` ("0", "1" or None) and `split`.
    report : ImportReport
        Counts, and every record left out with its reason.
    """
    wanted = list(dict.fromkeys(split.strip().removesuffix(".jsonl") for split in splits if split.strip()))
    if not wanted:
        raise ConfigError("--splits names no split; the usual ones are train,dev_seen")
    folder = _folder(Path(raw), wanted)
    report = ImportReport("Hateful Memes", str(raw))
    reader = _Reader(folder.absolute(), RawFiles(Path(raw), report, allow_outside=allow_outside))
    for split in wanted:
        reader.read(split)
    if not reader.records:
        raise DataError(
            f"{folder}: of {plural(report.lines, 'line')} none gives a whole post; it should have {_LAYOUT}"
        )
    frame = pd.DataFrame(reader.records, columns=["id", "text", "image", "label", "split"], dtype=object)
    frame = frame.astype(object).where(frame.notna(), None)
    report.finish(frame)
    return frame, report


def _folder(raw: Path, wanted: Sequence[str]) -> Path:
    """Return the folder that holds the data set: by the first split that is asked for, or by any other."""
    try:
        return find_folder(raw, f"{wanted[0]}.jsonl", "Hateful Memes", _LAYOUT)[0]
    except DataError:
        for split in dict.fromkeys([*wanted, *SPLITS]):  # then the split is missing, not the data set
            with suppress(DataError):
                return find_folder(raw, f"{split}.jsonl", "Hateful Memes", _LAYOUT)[0]
        raise


class _Reader:
    """Reads splits one after the other and remembers which posts it has seen."""

    def __init__(self, folder: Path, raw: RawFiles) -> None:
        self.folder = folder
        self.report = raw.report
        self._raw = raw
        self.records: list[tuple[str, str | None, str, str | None, str]] = []
        self._seen: dict[str, str] = {}
        self._indexes: dict[Path, FileIndex] = {}

    def read(self, split: str) -> None:
        path = self.folder / f"{split}.jsonl"
        if not path.is_file():
            there = sorted(file.stem for file in self.folder.glob("*.jsonl"))
            raise DataError(
                f"{self.folder} holds no {clip(path.name)}{did_you_mean(split, there)}; "
                f"splits there: {listed(there) or 'none'}"
            )
        for number, line in numbered_lines(path):
            if line.strip():
                self.report.lines += 1
                self._line(line, split, number)

    def _line(self, line: bytes, split: str, number: int) -> None:
        file = f"{split}.jsonl"
        identity: str | None = None
        try:
            record = _record(line)
            identity = _identity(record)
            text, label = _text(record), _label(record)
        except ValueError as error:
            self.report.problems.append(Problem("bad line", str(error), identity, number, file))
            return
        key = bare(identity)
        if key in self._seen:
            before = self._seen[key]
            kind = "duplicate id" if before == split else "id in two splits"
            reason = f"the id came before in {before}.jsonl; the first counts"
            self.report.problems.append(Problem(kind, reason, identity, number, file))
            return
        image = self._picture(record, identity, number, split)
        if image is None:
            return
        self._seen[key] = split
        if text is None:
            self.report.notes.append(Problem("missing text", "no text", identity, number, file))
        self.records.append((identity, text, image, label, split))

    def _picture(self, record: dict[str, Any], identity: str, number: int, split: str) -> str | None:
        named = record.get("img") or record.get("image") or f"img/{identity}.png"
        if not isinstance(named, str) or "\x00" in named:
            named = f"img/{identity}.png"
        named = named.strip().replace("\\", "/")
        wanted = Path(named).name
        place = self.folder / named
        path: Path | None = place if _is_file(place) else None
        if path is None:
            for folder in (place.parent, self.folder / "img"):
                path = path or self._index(folder).find(Path(wanted).stem, IMAGE_SUFFIXES, prefer=wanted)
            path = path or self._index(self.folder / "img").find(identity, IMAGE_SUFFIXES)
        if path is None:
            reason = f"no such file, nor one with another extension ({split}.jsonl)"
            self.report.problems.append(Problem("missing image", reason, identity, number, named[:200]))
            return None
        return self._raw.image(path, wanted, identity, number)

    def _index(self, folder: Path) -> FileIndex:
        if folder not in self._indexes:
            self._indexes[folder] = FileIndex(folder)
        return self._indexes[folder]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long to exist
        return False


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError(f"holds {type(record).__name__}, expected an object")
    return record


def _identity(record: dict[str, Any]) -> str:
    value = record.get("id")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError("no usable id" if value is None else f"{str(value)[:50]!r} is no usable id")
    # Mirrors write 1235 or "01235" for the same meme; the images carry five digits.
    plain = bare(clean_text(str(value)))
    return plain.zfill(5) if plain.isascii() and plain.isdigit() else plain


def _text(record: dict[str, Any]) -> str | None:
    text = record.get("text")
    if text is None or isinstance(text, str):
        return None if text is None else clean_text(text)
    raise ValueError(f"the text is a {type(text).__name__}, expected a string")


def _label(record: dict[str, Any]) -> str | None:
    value = record.get("label")
    if isinstance(value, list | dict):
        raise ValueError(f"the label is a {type(value).__name__}, expected 0 or 1")
    if value in _WITHHELD:
        return None
    label = {"0": "0", "1": "1", "0.0": "0", "1.0": "1", "False": "0", "True": "1"}.get(str(value).strip())
    if label is None:
        raise ValueError(f"the label {str(value)[:50]!r} is neither 0 nor 1")
    return label
