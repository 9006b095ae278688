"""Published splits of a raw data set: which of its posts a paper trained on, chose settings on and scored.

Two layouts are in use for MVSA: files of line numbers (``train_1.txt``, ``val_1.txt``, ``test_1.txt``, ``train_2.txt``
...) beside a list of the posts (``*pairlist*.txt``, lines ``id,label,text,image``); and JSON lists (``train.json``,
``dev.json``, ``test.json``) of ``{"id", "text", "emotion_label"}``, in one folder or in one for each fold.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cotune.data.importers.base import endless_trouble
from cotune.errors import DataError, clip, listed

_PART = r"(?P<part>train|val|valid|validation|dev|test)"
_NUMBERED = re.compile(rf"{_PART}_(?P<fold>\d+)\.txt", re.I)
_JSON = re.compile(rf"{_PART}\.json", re.I)
_LIST = re.compile(r".*pair_?list.*\.(txt|csv)", re.I)
_LAYOUT = "train_1.txt … test_1.txt beside a pair list id,label,text,image, or train.json … test.json"
_WORDS = {"train": "train", "test": "test"}
_MOST_BYTES = 2**28


@dataclass
class PublishedSplits:
    """Splits as they were published.

    Attributes
    ----------
    columns : dict
        Name of a column, ``split`` or ``split_1`` and so on, to the part (train, validation, test) of each id.
    labels : dict
        Id to the label that was published with it.
    """

    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


def read_splits(folder: str | Path) -> PublishedSplits:
    """Read the published splits in a folder.

    Raises
    ------
    DataError
        If it has neither layout, a file cannot be read, or a post is in two parts of one split.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{clip(str(folder))} is no folder; --splits-from takes one with {_LAYOUT}")
    found: dict[str, dict[str, list[Path]]] = {}
    numbered = [(match, path) for path in sorted(folder.iterdir()) if (match := _NUMBERED.fullmatch(path.name))]
    for match, path in numbered:
        found.setdefault(match["fold"], {}).setdefault(_part(match["part"]), []).append(path)
    if found:
        return _splits(found, _by_line(folder, [path for _, path in numbered]))
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        if match := _JSON.fullmatch(path.name):
            name = "" if path.parent == folder else path.parent.name
            found.setdefault(name, {}).setdefault(_part(match["part"]), []).append(path)
    if not found:
        raise DataError(f"{clip(str(folder))} holds no published split; --splits-from takes a folder with {_LAYOUT}")
    return _splits(found, _from_json)


def _part(name: str) -> str:
    return _WORDS.get(name.lower(), "validation")


Reader = Callable[[Path], Iterable[tuple[str, str]]]


def _splits(found: dict[str, dict[str, list[Path]]], read: Reader) -> PublishedSplits:
    """Return the splits whose files were found, by fold and part; `read` yields ids and labels of a file."""
    result = PublishedSplits()
    folds = sorted(found, key=lambda name: [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", name)])
    for number, fold in enumerate(folds, 1):
        parts = found[fold]
        if not {"train", "test"} <= parts.keys():
            where = parts[next(iter(parts))][0].parent
            lacks = "test" if "train" in parts else "train"
            raise DataError(f"the split {fold or where.name!r} in {where} has no {lacks} part")
        column = result.columns.setdefault("split" if len(folds) == 1 else f"split_{number}", {})
        for part, paths in parts.items():
            for path in paths:
                for identity, label in read(path):
                    if column.setdefault(identity, part) != part:
                        also = column[identity]
                        raise DataError(f"{path} names the post {clip(identity)!r}, which is in the {also} part too")
                    result.labels[identity] = label
    return result


def _by_line(folder: Path, paths: list[Path]) -> Reader:
    """Return what reads files of line numbers into the list of posts that lies beside them."""
    lists = [path for path in sorted(folder.iterdir()) if _LIST.fullmatch(path.name)]
    if len(lists) != 1:
        what = f"{len(lists)} pair lists ({listed(path.name for path in lists)})" if lists else "no pair list"
        raise DataError(f"{folder} holds {what}; files of line numbers need one, with lines id,label,text,image")
    rows = [row for row in csv.reader(io.StringIO(_text(lists[0]).replace("\0", ""), newline="")) if row]
    if rows and rows[0][0].strip().lower() == "id":
        del rows[0]
    short = next((i for i, row in enumerate(rows, 1) if len(row) < 2), None)
    if short is not None:
        raise DataError(f"{lists[0]}, entry {short}: a line is id,label,text,image")
    numbers = {path: _numbers(path) for path in paths}
    every = {number for found in numbers.values() for number in found}
    # Files count from 0 or from 1; the one that fits is known by the ends, unless no file names either.
    first = 1 if 0 not in every and len(rows) in every else 0
    beyond = sorted(number for number in every if not first <= number < len(rows) + first)
    if beyond:
        raise DataError(f"{folder} names line {beyond[0]}, but {lists[0].name} has {len(rows):,} posts")

    def read(path: Path) -> Iterable[tuple[str, str]]:
        for number in numbers[path]:
            identity, label = rows[number - first][:2]
            yield identity.strip(), label.strip()

    return read


def _numbers(path: Path) -> list[int]:
    found = []
    for line, word in enumerate(_text(path).split(), 1):
        try:
            found.append(int(float(word)))  # numpy.savetxt writes 1.000e+00
        except (ValueError, OverflowError):
            raise DataError(f"{path}, entry {line}: {clip(word)!r} is no line number") from None
    return found


def _text(path: Path) -> str:
    if (trouble := endless_trouble(path, _MOST_BYTES)) is not None:
        raise DataError(f"{path} cannot be read: {trouble}")
    try:
        return path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _from_json(path: Path) -> Iterable[tuple[str, str]]:
    try:
        records = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(records, list):
        raise DataError(f"{path} is no list of posts; a published split is one of {{id, text, emotion_label}}")
    for i, record in enumerate(records, 1):
        if not isinstance(record, dict) or "id" not in record:
            raise DataError(f"{path}, entry {i}: a post has an id, and mostly text and emotion_label")
        yield str(record["id"]).strip(), str(record.get("emotion_label", "")).strip()
