"""Cells of a table turned into the fields of posts."""

from __future__ import annotations

import datetime
import math
import numbers
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd

from cotune.data import row_errors
from cotune.data.chunks import Chunk, UnreadableCell
from cotune.data.image_cells import EXPECTED, is_pixels, plain_image
from cotune.data.inline import is_inline
from cotune.data.row_errors import RowError
from cotune.data.sources import file_url_path, is_url
from cotune.errors import DataError, clip, did_you_mean

_SURROGATE = re.compile("[\ud800-\udfff]")
_WHOLE = re.compile(r"[+-]?\d+\.0+")
# White space, control and format characters (zero-width ones, marks of direction, tags, soft hyphen), variation
# selectors and the fillers that Unicode gives no shape.
_VISIBLE = re.compile(
    "[^\\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


@dataclass(frozen=True)
class ColumnNames:
    """What the columns of a table are called."""

    id: str = "id"
    text: str = "text"
    image: str = "image"
    label: str = "label"
    group: str = "group"


def has_text(value: object) -> bool:
    """Tell whether a post's text has a character that can be seen: it is not missing, empty, or white space alone.

    Zero-width characters, variation selectors, soft hyphens and the like cannot be seen.
    """
    return isinstance(value, str) and _VISIBLE.search(value) is not None


def has_image(value: object) -> bool:
    """Tell whether a post names an image (which may still turn out to be missing or broken)."""
    return not is_missing(value) and not (isinstance(value, str | bytes) and not value.strip())


def label_name(value: object) -> str:
    """Return what a label is called: text without white space around it, whole numbers without a point.

    A column of integers with gaps comes out of pandas as 0.0 and 1.0; the labels are still 0 and 1.
    """
    label = clean_text(str(value).strip())
    # Digit by digit, as a whole number may have more of them than a float can tell apart.
    return str(int(label.partition(".")[0])) if len(label) < 400 and _WHOLE.fullmatch(label) else label


class _BadCellError(ValueError):
    """A cell that is not what its column is for."""


class PostsBuilder:
    """Turns raw chunks of one table into posts.

    Parameters
    ----------
    names : ColumnNames
        What the columns are called.
    base : Path
        Where relative image paths begin.
    where : str
        What the table is called in messages.
    in_memory : bool
        Whether it is an object of Python rather than a file.
    """

    def __init__(self, names: ColumnNames, base: Path, where: str, *, in_memory: bool = False) -> None:
        self.in_memory = in_memory
        self.names = names
        self.base = os.path.abspath(base)  # noqa: PTH100 - resolve() would follow links and ask the disk
        self.where = where
        self.rows_before = 0
        self.found: list[str] = []

    def require(self, found: list[str], *, labels: bool) -> None:
        """Refuse a table whose columns `found` lack what is needed, naming the flag that fixes it."""
        names = self.names
        if names.text not in found and names.image not in found:
            self._missing([("text", names.text), ("image", names.image)], found)
        for flag, name in (("text", names.text), ("image", names.image), ("label", names.label),
                           ("id", names.id), ("group", names.group)):  # fmt: skip
            renamed = name != flag
            if name not in found and (renamed or (flag == "label" and labels)):
                self._missing([(flag, name)], found)

    def _missing(self, wanted: list[tuple[str, str]], found: list[str]) -> None:
        shown = ", ".join(clip(name, 40) for name in found[:20])
        shown += f" and {len(found) - 20} more" if len(found) > 20 else ""
        wish = " and no ".join(f"{clip(name)!r}" for _, name in wanted)
        near = next((hint for _, name in wanted if (hint := did_you_mean(name, found))), "")
        python = f"columns=ColumnNames({', '.join(f'{flag}=...' for flag, _ in wanted)})"
        if self.in_memory:
            fix = f"rename a column (or read_posts(..., {python}))"
        else:
            fix = f"name another with {' or '.join(f'--{flag}-column' for flag, _ in wanted)} (in Python: {python})"
        raise DataError(f"{self.where} has no column {wish}{near}; it has: {shown or 'none'}; {fix}")

    def build(self, chunk: Chunk, keep: Sequence[int] | None = None) -> pd.DataFrame:
        """Return the posts of the next chunk, or of those of its rows that `keep` lists.

        A cell that cannot be read is empty, and its row has an error.
        """
        self.found = chunk.columns
        places = range(chunk.rows) if keep is None else keep
        rows = [self.rows_before + place + 1 for place in places]
        self.rows_before += chunk.rows
        nothing: list[Any] = [None] * chunk.rows
        wrong: dict[int, list[tuple[str, str]]] = {}
        convert: dict[str, Callable[[Any], Any]] = {
            "id": lambda value: _plain(value, "id"), "text": _text, "image": self._image,
            "label": _label, "group": lambda value: _plain(value, "group"),
        }  # fmt: skip
        columns: dict[str, Any] = {}
        for field, name in zip(convert, astuple(self.names), strict=True):
            given = chunk.values.get(name, nothing)
            cells = np.empty(len(rows), dtype=object)
            for i, place in enumerate(places):
                try:
                    cells[i] = convert[field](_single(given[place]))
                except _BadCellError as error:
                    wrong.setdefault(i, []).append((field, str(error)))
            columns[field] = pd.Series(cells, dtype=object)
        self._name(columns["id"], rows)
        errors = np.empty(len(rows), dtype=object)
        for i, found in wrong.items():
            errors[i] = RowError(tuple(field for field, _ in found), "; ".join(reason for _, reason in found))
        return pd.DataFrame(
            {**columns, "row": pd.Series(rows, dtype="int64"), row_errors.COLUMN: pd.Series(errors, dtype=object)}
        )

    def _name(self, ids: pd.Series[Any], rows: list[int]) -> None:
        """Make up the ids that are not given."""
        given = self.names.id in self.found
        for i, row in enumerate(rows):
            # An empty cell among given ids gets a name that no other post is likely to have.
            ids[i] = ids[i] or (f"row-{row}" if given else str(row - 1))

    def refuse_duplicate_ids(self, posts: pd.DataFrame) -> None:
        """Refuse posts of which two have the same id."""
        twice = posts.loc[posts["id"].duplicated(keep=False)]
        if twice.empty:
            return
        first = twice["id"].iloc[0]
        rows = twice.loc[twice["id"] == first, "row"].tolist()
        shown = ", ".join(map(str, rows[:5])) + ("..." if len(rows) > 5 else "")
        raise DataError(
            f"{self.where}: id {clip(first)!r} occurs in rows {shown} "
            f"({twice['id'].nunique()} ids occur more than once); make ids unique or remove the column"
        )

    def _image(self, value: Any) -> Any:
        if is_missing(value):
            return None
        try:
            plain = plain_image(value)
        except (OSError, ValueError, TypeError, RuntimeError) as error:  # a file that is closed, a tensor without data
            raise _BadCellError(
                f"the image is a {type(value).__name__} that cannot be read: {clip(str(error))}"
            ) from error
        if isinstance(plain, str):
            return self._path(plain.strip())
        if isinstance(plain, bytes):
            return plain or None
        if is_pixels(plain):
            return plain
        if is_missing(plain):
            return None
        raise _BadCellError(f"the image is {_kind(value)}, expected {EXPECTED}")

    def _path(self, value: str) -> str | None:
        if not value:
            return None
        if is_inline(value):
            return value
        if value.lower().startswith("file://"):
            value = file_url_path("file" + value[4:])
        elif is_url(value):
            return value  # whether it may be fetched is asked where images are read: a single row is no reason to stop
        if value.startswith(("~/", "~\\")):
            value = os.path.expanduser(value)  # noqa: PTH111
        try:
            os.fsencode(value)
        except UnicodeEncodeError:
            raise _BadCellError("the image path has half of a character, which no file name can hold") from None
        path = os.path.normpath(os.path.join(self.base, value))  # noqa: PTH118
        if "\\" in value and os.sep == "/" and not os.path.lexists(path):
            # Written on Windows.
            return os.path.normpath(os.path.join(self.base, value.replace("\\", "/")))  # noqa: PTH118
        return path


def _single(value: Any) -> Any:
    """Return the string of a list that holds it alone, and nothing for an empty list; anything else as it is."""
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype.kind in "OU"):
        if len(value) == 0:
            return None
        if len(value) == 1 and isinstance(value[0], str):
            return str(value[0])
    return value


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return clean_text(value)
    if is_missing(value):
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return clean_text(_decoded(bytes(value), "text"))
    if isinstance(value, numbers.Number | np.generic):
        return str(value)
    raise _BadCellError(f"the text is {_kind(value)}, expected a string")


def _plain(value: Any, what: str) -> str | None:
    if is_missing(value):
        return None
    if isinstance(value, bytes):  # numpy's too, which is a number by its other base
        value = _decoded(value, what)
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    # A day may tell posts and groups apart; as a class it is most likely the wrong column.
    days = isinstance(value, datetime.date | datetime.time | UUID | np.datetime64 | np.timedelta64)
    plain = isinstance(value, str | numbers.Number | np.generic)
    if (plain and not days) or (days and what != "label"):
        return clean_text(str(value).strip()) or None
    raise _BadCellError(f"the {what} is {_kind(value)}, expected a string or number")


def _label(value: Any) -> str | None:
    label = _plain(value, "label")
    return None if label is None else label_name(label)


def _decoded(value: bytes, what: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _BadCellError(f"the {what} is bytes that are not UTF-8 (byte {error.start + 1})") from error


def _kind(value: object) -> str:
    """Return what a cell is, in words, without printing it."""
    if isinstance(value, UnreadableCell):
        return f"a value that {value.reason}"
    name = "dictionary" if isinstance(value, dict) else "integer" if isinstance(value, int) else type(value).__name__
    if isinstance(value, list | tuple | set | dict):
        return f"a {name} of {len(value)} value{'' if len(value) == 1 else 's'}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def clean_text(text: str) -> str:
    """Return `text` in Unicode form NFC; halves of surrogate pairs are joined, lone ones become U+FFFD."""
    if text.isascii():
        return text
    if _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return unicodedata.normalize("NFC", text)


def is_missing(value: object) -> bool:
    """Tell whether a cell holds nothing: None, NaN, NaT or pandas' NA."""
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    return isinstance(value, float | np.floating) and math.isnan(value)
