"""Posts tables: any file, DataFrame or data set folder becomes one plain form."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from cotune.data.cells import ColumnNames, PostsBuilder, clean_text, has_image, has_text, is_missing
from cotune.data.images import image_key
from cotune.data.sources import ImageFault, is_url
from cotune.data.tables import Chunk, read_chunks
from cotune.errors import DataError

__all__ = [
    "ColumnNames", "PostsHash", "PostsSource", "clean_text", "count_labels", "data_hash", "has_image", "has_text",
    "is_missing", "iter_posts", "read_posts",
]  # fmt: skip

PostsSource: TypeAlias = "str | os.PathLike[str] | pd.DataFrame"

_ALL_AT_ONCE = 2**62


def read_posts(
    source: PostsSource,
    *,
    columns: ColumnNames | None = None,
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
        builder = PostsBuilder(names, Path(base or "."), "the DataFrame")
    else:
        path = Path(source)
        chunks = list(read_chunks(path, astuple(names), _ALL_AT_ONCE if path.suffix != ".parquet" else 65536))
        chunk = _join(chunks)
        builder = PostsBuilder(names, _base(path, base), str(path))
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
    builder = PostsBuilder(names, _base(table, base), str(table))
    # Only tables with a header name all columns at the start; elsewhere the first label may come late.
    by_row = any(suffix.lower() in (".jsonl", ".ndjson") for suffix in table.suffixes)
    seen: list[str] = []
    for number, chunk in enumerate(read_chunks(table, astuple(names), chunk_size)):
        seen = chunk.columns
        if number == 0:
            builder.require(chunk.columns, labels=require_labels and not by_row)
            if not chunk.rows:
                raise DataError(f"{table} holds no posts; add at least one row")
        if chunk.rows:
            yield builder.build(chunk)
    builder.require(seen, labels=require_labels)


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
        name: [value for chunk in chunks for value in chunk.values.get(name, [None] * chunk.rows)] for name in wanted
    }
    return Chunk(columns, values, sum(chunk.rows for chunk in chunks))


def count_labels(posts: pd.DataFrame) -> dict[str, int]:
    """Return how many posts carry each label, in the labels' sorted order; unlabelled posts are left out."""
    return dict(sorted(Counter(label for label in posts["label"] if label is not None).items()))


class PostsHash:
    """A SHA-256 over ids, texts, labels, groups and the pictures' contents, fed in pieces.

    It does not depend on where the table or the pictures lie, nor on how the posts are cut into pieces; a picture
    that cannot be read counts with its name.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, posts: pd.DataFrame) -> None:
        """Add the next posts."""
        with ThreadPoolExecutor(max_workers=4) as pool:
            keys = pool.map(_content_key, posts["image"])
            for identity, text, label, group, key in zip(
                posts["id"], posts["text"], posts["label"], posts["group"], keys, strict=True
            ):
                for value in (identity, text, label, group, key):
                    self._add(value)

    def _add(self, value: str | None) -> None:
        raw = b"" if value is None else value.encode("utf-8", "surrogatepass")
        self._digest.update(f"{-1 if value is None else len(raw)}:".encode() + raw)

    def hexdigest(self) -> str:
        """Return the hash of all posts so far."""
        return self._digest.hexdigest()


def data_hash(posts: pd.DataFrame) -> str:
    """Return the :class:`PostsHash` of one table."""
    whole = PostsHash()
    whole.update(posts)
    return whole.hexdigest()


def _content_key(image: Any) -> str | None:
    if not has_image(image):
        return None
    try:
        return image_key(image)
    except ImageFault as fault:
        # Remote pictures are not fetched a second time: they and broken ones count with their names.
        return Path(image).name if isinstance(image, str) and not is_url(image) else f"{fault.kind} {image!r:.300}"
