"""Cells of a table turned into the fields of posts."""

from __future__ import annotations

import math
import numbers
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.sources import file_url_path, is_url
from cotune.data.tables import Chunk
from cotune.errors import DataError, did_you_mean

_SURROGATE = re.compile("[\ud800-\udfff]")
_WHOLE = re.compile(r"[+-]?\d+\.0+")


@dataclass(frozen=True)
class ColumnNames:
    """What the columns of a table are called."""

    id: str = "id"
    text: str = "text"
    image: str = "image"
    label: str = "label"
    group: str = "group"


def has_text(value: object) -> bool:
    """Tell whether a post's text says anything: neither missing nor empty nor only white space."""
    return isinstance(value, str) and bool(value.strip())


def has_image(value: object) -> bool:
    """Tell whether a post names a picture (which may still turn out to be missing or broken)."""
    return not is_missing(value) and not (isinstance(value, str | bytes) and not value.strip())


def label_name(value: object) -> str:
    """Return what a label is called: text without white space around it, whole numbers without a point.

    A column of integers with gaps comes out of pandas as 0.0 and 1.0; the labels are still 0 and 1.
    """
    label = clean_text(str(value).strip())
    return str(int(float(label))) if _WHOLE.fullmatch(label) else label


class PostsBuilder:
    """Turns raw chunks of one table into posts."""

    def __init__(self, names: ColumnNames, base: Path, where: str) -> None:
        self.names = names
        self.base = os.path.abspath(base)  # noqa: PTH100 - resolve() would follow links and ask the disk
        self.where = where
        self.rows_before = 0
        self.found: list[str] = []

    def require(self, found: list[str], *, labels: bool) -> None:
        """Refuse a table whose columns `found` lack what is needed, naming the flag that mends it."""
        names = self.names
        if names.text not in found and names.image not in found:
            self._missing([("text", names.text), ("image", names.image)], found)
        for flag, name in (("text", names.text), ("image", names.image), ("label", names.label),
                           ("id", names.id), ("group", names.group)):  # fmt: skip
            renamed = name != flag
            if name not in found and (renamed or (flag == "label" and labels)):
                self._missing([(flag, name)], found)

    def _missing(self, wanted: list[tuple[str, str]], found: list[str]) -> None:
        shown = ", ".join(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")
        wish = " and no ".join(f"{name!r}" for _, name in wanted)
        near = next((hint for _, name in wanted if (hint := did_you_mean(name, found))), "")
        flags = " or ".join(f"--{flag}-column" for flag, _ in wanted)
        raise DataError(
            f"{self.where} has no column {wish}{near}; it has: {shown or 'none'}; name another with {flags}"
        )

    def build(self, chunk: Chunk) -> pd.DataFrame:
        """Return the posts of the next chunk."""
        self.found = chunk.columns
        rows = range(self.rows_before + 1, self.rows_before + chunk.rows + 1)
        self.rows_before += chunk.rows
        nothing: list[Any] = [None] * chunk.rows

        def column(name: str, convert: Any) -> pd.Series[Any]:
            cells = np.empty(chunk.rows, dtype=object)
            for i, (value, row) in enumerate(zip(chunk.values.get(name, nothing), rows, strict=True)):
                cells[i] = convert(value, row)
            return pd.Series(cells, dtype=object)

        return pd.DataFrame(
            {
                "id": column(self.names.id, self._id),
                "text": column(self.names.text, self._text),
                "image": column(self.names.image, self._image),
                "label": column(self.names.label, self._label),
                "group": column(self.names.group, lambda value, row: self._plain(value, row, "group")),
                "row": pd.Series(rows, dtype="int64"),
            }
        )

    def refuse_duplicate_ids(self, posts: pd.DataFrame) -> None:
        """Refuse posts of which two have the same id."""
        twice = posts.loc[posts["id"].duplicated(keep=False)]
        if twice.empty:
            return
        first = twice["id"].iloc[0]
        rows = twice.loc[twice["id"] == first, "row"].tolist()
        shown = ", ".join(map(str, rows[:5])) + ("..." if len(rows) > 5 else "")
        raise DataError(
            f"{self.where}: id {first!r} occurs in rows {shown} "
            f"({twice['id'].nunique()} ids occur more than once); make ids unique or remove the column"
        )

    def _text(self, value: Any, row: int) -> str | None:
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{self.where}, row {row}: the text is bytes that are not UTF-8") from error
        if isinstance(value, str):
            return clean_text(value)
        if is_missing(value):
            return None
        if isinstance(value, numbers.Number | np.generic):
            return str(value)
        raise DataError(f"{self.where}, row {row}: the text is a {type(value).__name__}, expected a string")

    def _plain(self, value: Any, row: int, what: str) -> str | None:
        if is_missing(value):
            return None
        if isinstance(value, float | np.floating) and float(value).is_integer():
            value = int(value)
        if isinstance(value, str | numbers.Number | np.generic):
            return clean_text(str(value).strip()) or None
        raise DataError(f"{self.where}, row {row}: the {what} is a {type(value).__name__}, expected a string or number")

    def _id(self, value: Any, row: int) -> str:
        # An empty cell among given ids gets a name that no other post is likely to have.
        given = self.names.id in self.found
        return self._plain(value, row, "id") or (f"row-{row}" if given else str(row - 1))

    def _label(self, value: Any, row: int) -> str | None:
        label = self._plain(value, row, "label")
        return None if label is None else label_name(label)

    def _image(self, value: Any, row: int) -> Any:
        if isinstance(value, dict) and {"bytes", "path"} & value.keys():  # an image of Hugging Face datasets
            value = value.get("bytes") or value.get("path")
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, str):
            return self._path(value.strip(), row)
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value) or None
        if isinstance(value, np.ndarray) or (hasattr(value, "getbands") and hasattr(value, "size")):
            return value
        if is_missing(value):
            return None
        raise DataError(
            f"{self.where}, row {row}: the image is a {type(value).__name__}, "
            "expected a path, bytes, PIL image or array"
        )

    def _path(self, value: str, row: int) -> str | None:
        if not value:
            return None
        if value.lower().startswith("file://"):
            value = file_url_path("file" + value[4:])
        elif is_url(value):
            return (
                value  # whether it may be fetched is asked where pictures are read: a single row is no reason to stop
            )
        if value.startswith(("~/", "~\\")):
            value = os.path.expanduser(value)  # noqa: PTH111
        path = os.path.normpath(os.path.join(self.base, value))  # noqa: PTH118
        if "\\" in value and os.sep == "/" and not os.path.lexists(path):
            # Written on Windows.
            return os.path.normpath(os.path.join(self.base, value.replace("\\", "/")))  # noqa: PTH118
        return path


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
