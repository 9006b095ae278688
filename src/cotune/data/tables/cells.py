"""Cells of a table turned into texts, images, numbers and labels."""

from __future__ import annotations

import datetime
import math
import numbers
import os
import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd

from cotune.data.images.cells import EXPECTED, is_pixels, plain_image
from cotune.data.images.folders import ImageFolders
from cotune.data.images.inline import is_inline
from cotune.data.images.sources import file_url_path, is_url
from cotune.data.kinds import FIELD_KINDS, BadCellError, FieldKind
from cotune.data.normal_forms import normalized
from cotune.data.tables.chunks import UnreadableCell
from cotune.errors import clip
from cotune.report.numbers import plural

_SURROGATE = re.compile("[\ud800-\udfff]")
_WHOLE = re.compile(r"[+-]?\d+\.0+")
# White space, control and format characters (zero-width ones, marks of direction, tags, soft hyphen), variation
# selectors and the fillers that Unicode gives no shape.
_VISIBLE = re.compile(
    "[^\\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)

MOST_TEXT = 2**25
"""Longer texts, in characters, are errors of their row: cutting one into tokens takes a hundred times its memory."""

LABEL_SEPARATOR = "|"
"""Stands between the labels of a post that has several; alone for a post with none of the labels."""

FIELD_LABEL = "label:"
"""Begins the columns of posts that hold the labels of single fields, as in ``label:text``."""

KEPT = "column:"
"""Begins the columns of posts that hold further columns of the table as they are."""

_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


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


class _TextKind(FieldKind):
    def read(self, cells: Mapping[str, Any], base: str) -> str | None:
        return _text(single_cell(next(iter(cells.values()))))

    def has(self, value: Any) -> bool:
        return has_text(value)

    def hashed(self, value: Any) -> str | None:
        return None if value is None else str(value)


class _ImageKind(FieldKind):
    def read(self, cells: Mapping[str, Any], base: str) -> Any:
        return _image(single_cell(next(iter(cells.values()))), base)

    def has(self, value: Any) -> bool:
        return has_image(value)


class _TableKind(FieldKind):
    def read(self, cells: Mapping[str, Any], base: str) -> dict[str, Any] | None:
        found = {column: _table_cell(single_cell(value), column) for column, value in cells.items()}
        return None if all(value is None for value in found.values()) else found

    def has(self, value: Any) -> bool:
        return value is not None


FIELD_KINDS.add("text", _TextKind())
FIELD_KINDS.add("image", _ImageKind())
FIELD_KINDS.add("table", _TableKind())


def confined_image(folders: ImageFolders, read: Callable[[Mapping[str, Any]], Any], cells: Mapping[str, Any]) -> Any:
    """Return the image that `read` finds in the cells, if it lies in one of the folders.

    Raises
    ------
    BadCellError
        If it lies elsewhere.
    """
    image = read(cells)
    if isinstance(image, str) and (why := folders.refusal(image)) is not None:
        raise BadCellError(why)
    return image


def _table_cell(value: Any, column: str) -> Any:
    """Return a number or category; None for nothing."""
    if isinstance(value, list | tuple | set | dict | bytes | bytearray | memoryview | np.ndarray | UnreadableCell):
        raise BadCellError(f"the column {clip(column, 40)!r} holds {_kind(value)}, expected a number or a category")
    return None if _is_blank(value) else value


def _is_blank(value: Any) -> bool:
    return is_missing(value) or (isinstance(value, str) and not value.strip())


def single_cell(value: Any) -> Any:
    """Return the string of a list that holds it alone, and nothing for an empty list; anything else as it is."""
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype.kind in "OU"):
        if len(value) == 0:
            return None
        if len(value) == 1 and isinstance(value[0], str):
            return str(value[0])
    return value


def _image(value: Any, base: str) -> Any:
    if is_missing(value):
        return None
    try:
        plain = plain_image(value)
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # a file that is closed, a tensor without data
        raise BadCellError(f"the image is a {type(value).__name__} that cannot be read: {clip(str(error))}") from error
    if isinstance(plain, str):
        return _path(plain.strip(), base)
    if isinstance(plain, bytes):
        return plain or None
    if is_pixels(plain):
        return plain
    if is_missing(plain):
        return None
    raise BadCellError(f"the image is {_kind(value)}, expected {EXPECTED}")


def _path(value: str, base: str) -> str | None:
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
        raise BadCellError("the image path has half of a character, which no file name can hold") from None
    if is_url(base) and not os.path.isabs(value):  # noqa: PTH117
        scheme, _, rest = base.partition("://")
        host, _, folder = rest.partition("/")  # which no `..` leaves
        return f"{scheme}://{host}{posixpath.normpath(f'/{folder}/{value}'.replace(chr(92), '/'))}"
    path = os.path.normpath(os.path.join(base, value))  # noqa: PTH118
    if "\\" in value and os.sep == "/" and not os.path.lexists(path):
        # Written on Windows.
        return os.path.normpath(os.path.join(base, value.replace("\\", "/")))  # noqa: PTH118
    return path


def _text(value: Any) -> str | None:
    if isinstance(value, str | bytes | bytearray | memoryview) and len(value) > MOST_TEXT:
        raise BadCellError(f"the text has {len(value):,} characters, the limit is {MOST_TEXT:,}")
    if isinstance(value, str):
        return clean_text(value)
    if is_missing(value):
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return clean_text(_decoded(bytes(value), "text"))
    if isinstance(value, numbers.Number | np.generic):
        return str(value)
    raise BadCellError(f"the text is {_kind(value)}, expected a string")


def plain_cell(value: Any, what: str) -> str | None:
    """Return a cell as an id, a label or a group is named; None for nothing.

    Raises
    ------
    BadCellError
        If it is no string or number.
    """
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
    raise BadCellError(f"the {what} is {_kind(value)}, expected a string or number")


def read_label(cells: Mapping[str, Any]) -> str | None:
    """Return the label in one cell; several in a list are joined, as multi-label tables have them."""
    value = next(iter(cells.values()))
    if isinstance(value, list | tuple | set) or (isinstance(value, np.ndarray) and value.ndim == 1):
        names = [_one_label(part) for part in (sorted(value) if isinstance(value, set) else value)]
        return LABEL_SEPARATOR.join(name for name in names if name is not None) or LABEL_SEPARATOR
    return _one_label(value)


def read_votes(cells: Mapping[str, Any]) -> str | None:
    """Return the labels that annotators gave one field, joined; None where none gave any."""
    each = (read_label({column: value}) for column, value in cells.items() if not _is_blank(value))
    names = [name.strip() for votes in each if votes is not None for name in votes.split(LABEL_SEPARATOR)]
    return LABEL_SEPARATOR.join(label_name(name) for name in names if name) or None


def field_labels(posts: pd.DataFrame) -> dict[str, str]:
    """Return the columns of labels of fields that hold any, by field."""
    names = [str(name) for name in posts.columns if str(name).startswith(FIELD_LABEL)]
    return {name.removeprefix(FIELD_LABEL): name for name in names if posts[name].notna().any()}


def _one_label(value: Any) -> str | None:
    label = plain_cell(value, "label")
    return None if label is None else label_name(label)


def read_flags(cells: Mapping[str, Any]) -> str | None:
    """Return the labels whose columns hold 1, joined; None where all cells are empty."""
    if all(_is_blank(value) for value in cells.values()):
        return None
    found = []
    for name, value in cells.items():
        if LABEL_SEPARATOR in name:
            raise BadCellError(f"the label column {clip(name, 40)!r} has {LABEL_SEPARATOR} in its name; rename it")
        flag = _FLAGS.get(str(value).strip().lower().removesuffix(".0"))
        if flag is None:
            raise BadCellError(f"the label column {clip(name, 40)!r} holds {clip(str(value), 40)!r}, expected 0 or 1")
        if flag:
            found.append(name)
    return LABEL_SEPARATOR.join(found) or LABEL_SEPARATOR


def _decoded(value: bytes, what: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadCellError(f"the {what} is bytes that are not UTF-8 (byte {error.start + 1})") from error


def _kind(value: object) -> str:
    """Return what a cell is, in words, without printing it."""
    if isinstance(value, UnreadableCell):
        return f"a value that {value.reason}"
    name = "dictionary" if isinstance(value, dict) else "integer" if isinstance(value, int) else type(value).__name__
    if isinstance(value, list | tuple | set | dict):
        return f"a {name} of {plural(len(value), 'value')}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def clean_text(text: str) -> str:
    """Return `text` in Unicode form NFC; halves of surrogate pairs are joined, lone ones become U+FFFD."""
    if text.isascii():
        return text
    if _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return normalized(text, "NFC")


def is_missing(value: object) -> bool:
    """Tell whether a cell holds nothing: None, NaN, NaT or pandas' NA."""
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    return isinstance(value, float | np.floating) and math.isnan(value)
