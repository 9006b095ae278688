"""Posts tables: any file, DataFrame or data set folder becomes one plain form."""

from __future__ import annotations

import hashlib
import math
import numbers
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from cotune.data.images import image_key
from cotune.data.sources import ImageFault, file_url_path, is_url
from cotune.data.tables import Chunk, read_chunks
from cotune.errors import DataError, did_you_mean

PostsSource: TypeAlias = "str | os.PathLike[str] | pd.DataFrame"

_SURROGATE = re.compile("[\ud800-\udfff]")
_WHOLE = re.compile(r"[+-]?\d+\.0+")
_ALL_AT_ONCE = 2**62


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


def read_posts(
    source: PostsSource,
    *,
    columns: ColumnNames | None = None,
    allow_remote: bool = False,
    require_labels: bool = False,
    base: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Read a posts table into one plain form.

    Parameters
    ----------
    source : path or pandas.DataFrame
        A .csv, .tsv, .jsonl, .ndjson, .json (each also .gz) or .parquet file, a folder written by Hugging
        Face `datasets`, or a DataFrame.
    columns : ColumnNames, optional
        What the columns are called, if not `id`, `text`, `image`, `label`, `group`.
    allow_remote : bool
        Let image cells be URLs.
    require_labels : bool
        Refuse a table without a label column (single posts may still lack theirs).
    base : path, optional
        Where relative image paths begin; by default the table's folder (DataFrame: the working directory).

    Returns
    -------
    pandas.DataFrame
        `id`, `text`, `image`, `label`, `group` as objects (None for nothing) and `row`, counted from 1.

    Raises
    ------
    DataError
        When the table cannot be read, lacks a column or holds an id twice.
    """
    names = columns or ColumnNames()
    if isinstance(source, pd.DataFrame):
        chunk = _frame_chunk(source, names)
        builder = _Builder(names, allow_remote, Path(base or "."), "the DataFrame")
    else:
        path = Path(source)
        chunks = list(read_chunks(path, astuple(names), _ALL_AT_ONCE if path.suffix != ".parquet" else 65536))
        chunk = _join(chunks)
        builder = _Builder(names, allow_remote, _base(path, base), str(path))
    builder.require(chunk.columns, labels=require_labels)
    posts = builder.build(chunk)
    if posts.empty:
        raise DataError(f"{builder.where} holds no posts; add at least one row")
    builder.refuse_duplicate_ids(posts)
    return posts


def iter_posts(
    path: str | os.PathLike[str],
    chunk_size: int,
    *,
    columns: ColumnNames | None = None,
    allow_remote: bool = False,
    require_labels: bool = False,
    base: str | os.PathLike[str] | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield a posts table in pieces of at most `chunk_size` rows, holding no more than that in memory.

    The parameters are those of :func:`read_posts`; `row` and made-up ids run on from piece to piece. Ids that
    occur twice are let through, as telling would take all of them in memory: `row` keeps posts apart. A .json
    file is read whole.
    """
    if chunk_size < 1:
        raise DataError(f"chunk_size must be at least 1, not {chunk_size}")
    names = columns or ColumnNames()
    table = Path(path)
    builder = _Builder(names, allow_remote, _base(table, base), str(table))
    for number, chunk in enumerate(read_chunks(table, astuple(names), chunk_size)):
        if number == 0:
            builder.require(chunk.columns, labels=require_labels)
            if not chunk.rows:
                raise DataError(f"{table} holds no posts; add at least one row")
        if chunk.rows:
            yield builder.build(chunk)


def _base(path: Path, base: str | os.PathLike[str] | None) -> Path:
    return Path(base) if base is not None else path if path.is_dir() else path.parent


def _frame_chunk(frame: pd.DataFrame, names: ColumnNames) -> Chunk:
    columns = [str(name) for name in frame.columns]
    values = {}
    for name in astuple(names):
        if columns.count(name) > 1:
            raise DataError(f"the DataFrame has {columns.count(name)} columns called {name!r}; keep one")
        if name in columns:
            values[name] = list(frame.iloc[:, columns.index(name)])
    return Chunk(columns, values, len(frame))


def _join(chunks: Sequence[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    columns = list(dict.fromkeys(name for chunk in chunks for name in chunk.columns))
    wanted = list(dict.fromkeys(name for chunk in chunks for name in chunk.values))
    values = {
        name: [value for chunk in chunks for value in chunk.values.get(name, [None] * chunk.rows)]
        for name in wanted
    }
    return Chunk(columns, values, sum(chunk.rows for chunk in chunks))


class _Builder:
    """Turns raw chunks of one table into posts."""

    def __init__(self, names: ColumnNames, allow_remote: bool, base: Path, where: str) -> None:
        self.names = names
        self.allow_remote = allow_remote
        self.base = os.path.abspath(base)  # noqa: PTH100 - resolve() would follow links and ask the disk
        self.where = where
        self.rows_before = 0
        self.found: list[str] = []

    def require(self, found: list[str], *, labels: bool) -> None:
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
        raise DataError(
            f"{self.where}, row {row}: the {what} is a {type(value).__name__}, expected a string or number"
        )

    def _id(self, value: Any, row: int) -> str:
        # An empty cell among given ids gets a name that no other post is likely to have.
        given = self.names.id in self.found
        return self._plain(value, row, "id") or (f"row-{row}" if given else str(row - 1))

    def _label(self, value: Any, row: int) -> str | None:
        label = self._plain(value, row, "label")
        # A column of integers with gaps comes out of pandas as 0.0 and 1.0; the labels are still 0 and 1.
        return str(int(float(label))) if label is not None and _WHOLE.fullmatch(label) else label

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
            if not self.allow_remote:
                raise DataError(
                    f"{self.where}, row {row}: the image {value[:200]!r} is a URL; "
                    "allow fetching it with --allow-remote"
                )
            return value
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


def count_labels(posts: pd.DataFrame) -> dict[str, int]:
    """Return how many posts carry each label, in the labels' sorted order; unlabelled posts are left out."""
    return dict(sorted(Counter(label for label in posts["label"] if label is not None).items()))


def data_hash(posts: pd.DataFrame) -> str:
    """Return a SHA-256 over ids, texts, labels, groups and the pictures' contents.

    It does not depend on where the table or the pictures lie; a picture that cannot be read counts with its
    name.
    """
    digest = hashlib.sha256()

    def add(value: str | None) -> None:
        raw = b"" if value is None else value.encode("utf-8", "surrogatepass")
        digest.update(f"{-1 if value is None else len(raw)}:".encode() + raw)

    with ThreadPoolExecutor(max_workers=4) as pool:
        keys = pool.map(_content_key, posts["image"])
        for identity, text, label, group, key in zip(
            posts["id"], posts["text"], posts["label"], posts["group"], keys, strict=True
        ):
            for value in (identity, text, label, group, key):
                add(value)
    return digest.hexdigest()


def _content_key(image: Any) -> str | None:
    if not has_image(image):
        return None
    try:
        return image_key(image)
    except ImageFault as fault:
        # Remote pictures are not fetched a second time: they and broken ones count with their names.
        return (
            Path(image).name
            if isinstance(image, str) and not is_url(image)
            else f"{fault.kind} {image!r:.300}"
        )
