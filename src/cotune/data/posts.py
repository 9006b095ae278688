"""Posts tables: any file, DataFrame or data set folder becomes one plain form."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from cotune.data.images.load import image_key
from cotune.data.images.sources import ImageFault, is_url
from cotune.data.kinds import FIELD_KINDS
from cotune.data.tables.builder import ColumnNames, PostsBuilder
from cotune.data.tables.cells import clean_text, field_labels, has_image, has_text, is_missing
from cotune.data.tables.read import Chunk, arrow_chunks, is_stdin, join_chunks, read_chunks, table_name
from cotune.data.tables.where import SPLIT, RowFilter, Where
from cotune.errors import DataError, NoPostsError, clip
from cotune.fields import DEFAULT_FIELDS, Field

__all__ = [
    "ColumnNames", "PostsHash", "PostsSource", "clean_text", "count_labels", "data_hash", "field_labels", "has_image",
    "has_text", "input_hashes", "is_arrow", "is_missing", "iter_posts", "read_posts",
]  # fmt: skip

Tell: TypeAlias = Callable[[str], None]
PostsSource: TypeAlias = "str | os.PathLike[str] | pd.DataFrame | Any"

_ALL_AT_ONCE = 2**62


def read_posts(
    source: PostsSource,
    *,
    columns: ColumnNames | None = None,
    require_labels: bool = False,
    base: str | os.PathLike[str] | None = None,
    where: Where | None = None,
    kind: str | None = None,
    allow_outside: bool | None = None,
    tell: Tell | None = None,
) -> pd.DataFrame:
    """Read a posts table into one plain form.

    Parameters
    ----------
    source : path, pandas.DataFrame or Arrow table
        A .csv, .tsv, .jsonl, .ndjson, .json (each also .gz), .parquet or .xlsx file, a folder written by Hugging
        Face `datasets`, ``-`` for standard input, a DataFrame, or a table of Arrow, polars or the like.
    columns : ColumnNames, optional
        What the columns are called, if not `id`, `text`, `image`, `label`, `group`.
    require_labels : bool
        Refuse a table without a label column (single posts may still lack theirs).
    base : path, optional
        Where relative image paths begin, a folder or its URL; by default the table's folder (DataFrame and standard
        input: the working directory).
    where : mapping, optional
        Which rows to read: from a column to its value or values, as in ``{"split": "train"}``. A row has to fit in
        every column.
    kind : str, optional
        How to read a file ("csv"), instead of what its name suggests.
    allow_outside : bool, optional
        Whether images may lie outside of `base`; by default only those that a DataFrame or Arrow table names, as paths
        in a file may come from anybody. Folders of raw data that ``cotune import`` has read are allowed too. A row
        that names another has an `error`.
    tell : callable, optional
        Takes notes on the table as a whole, such as a column `split` that is not used.

    Returns
    -------
    pandas.DataFrame
        `id`, `text`, `image`, `label`, `group` as objects (None for nothing), `row`, counted from 1, and `error`, a
        :class:`~cotune.data.tables.row_errors.RowError` where a cell could not be read. Where the table has labels of
        single fields (`label:text`, or `label:text:1` and so on for each annotator), there is a column `label:text`
        with the annotators' labels joined by `|`.

    Raises
    ------
    DataError
        When the table cannot be read, lacks a column, holds an id twice, or has no row that is asked for.
    """
    names = columns or ColumnNames()
    picked = RowFilter(where, count_split=tell is not None and SPLIT not in names.columns())
    wanted = list(dict.fromkeys([*names.columns(), *picked.columns]))
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        chunk = join_chunks(
            list(read_chunks(path, wanted, _ALL_AT_ONCE if path.suffix != ".parquet" else 65536, kind=kind))
        )
        builder = PostsBuilder(names, _base(path, base), table_name(path), allow_outside=bool(allow_outside))
    elif isinstance(source, pd.DataFrame) or is_arrow(source):
        framed = isinstance(source, pd.DataFrame)
        chunk = _frame_chunk(source, wanted) if framed else join_chunks(list(arrow_chunks(source, wanted)))
        builder = PostsBuilder(
            names, Path(base or "."), f"the {'DataFrame' if framed else 'Arrow table'}", in_memory=True,
            allow_outside=allow_outside is not False,
        )  # fmt: skip
    else:
        raise DataError(f"a posts table is a path, a DataFrame or an Arrow table, not {type(source).__name__}")
    picked.refuse_unknown_columns(builder.where, chunk.columns)
    builder.require(chunk.columns, labels=require_labels)
    if not chunk.rows:
        raise NoPostsError(f"{builder.where} holds no posts; add at least one row")
    keep = picked.keep(chunk)
    picked.refuse_nothing(builder.where)
    posts = builder.build(chunk, keep)
    builder.refuse_duplicate_ids(posts)
    _tell_notes(picked.split_note(), names.unread_labels(chunk.columns), tell=tell)
    return posts


def iter_posts(
    path: str | os.PathLike[str],
    chunk_size: int,
    *,
    columns: ColumnNames | None = None,
    require_labels: bool = False,
    base: str | os.PathLike[str] | None = None,
    where: Where | None = None,
    kind: str | None = None,
    allow_outside: bool = False,
    tell: Tell | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield a posts table in pieces of at most `chunk_size` rows, holding no more than that in memory.

    The parameters are those of :func:`read_posts`; `row` and made-up ids run on from piece to piece. Ids that
    occur twice are let through, as telling would take all of them in memory: `row` keeps posts apart. A .json
    file is read whole. Notes come at the end.
    """
    if chunk_size < 1:
        raise DataError(f"chunk_size must be at least 1, not {chunk_size}")
    names = columns or ColumnNames()
    table = Path(path)
    builder = PostsBuilder(names, _base(table, base), table_name(table), allow_outside=allow_outside)
    picked = RowFilter(where, count_split=tell is not None and SPLIT not in names.columns())
    seen: list[str] = []
    by_row = False
    for number, chunk in enumerate(
        read_chunks(table, list(dict.fromkeys([*names.columns(), *picked.columns])), chunk_size, kind=kind)
    ):
        seen = chunk.columns
        if number == 0:
            # Only tables with a header name all columns at the start; elsewhere the first label may come late.
            by_row = chunk.by_row
            if not by_row:
                picked.refuse_unknown_columns(builder.where, seen)
            builder.require(seen, labels=require_labels and not by_row)
            if not chunk.rows:
                raise NoPostsError(f"{builder.where} holds no posts; add at least one row")
        if chunk.rows:
            keep = picked.keep(chunk)
            posts = builder.build(chunk, keep)
            if len(posts):
                yield posts
    picked.refuse_unknown_columns(builder.where, seen)
    builder.require(seen, labels=require_labels)
    picked.refuse_nothing(builder.where)
    _tell_notes(picked.split_note(), names.unread_labels(seen), tell=tell)


def is_arrow(source: object) -> bool:
    """Tell whether `source` is a table of Arrow or can be handed over as one, as those of polars can."""
    return hasattr(source, "__arrow_c_stream__") and not isinstance(source, pd.DataFrame)


def _tell_notes(*notes: str | None, tell: Tell | None) -> None:
    for note in notes:
        if tell is not None and note is not None:
            tell(note)


def _base(path: Path, base: str | os.PathLike[str] | None) -> Path | str:
    if base is not None:
        return base if isinstance(base, str) and is_url(base) else Path(base)
    return Path() if is_stdin(path) else path if path.is_dir() else path.parent


def _frame_chunk(frame: pd.DataFrame, wanted: Sequence[str]) -> Chunk:
    columns = [str(name) for name in frame.columns]
    values = {}
    for name in wanted:
        if columns.count(name) > 1:
            raise DataError(f"the DataFrame has {columns.count(name)} columns called {clip(name)!r}; keep one")
        if name in columns:
            values[name] = list(frame.iloc[:, columns.index(name)])
    return Chunk(columns, values, len(frame))


def count_labels(posts: pd.DataFrame) -> dict[str, int]:
    """Return how many posts carry each label, in the labels' sorted order; unlabelled posts are left out."""
    return dict(sorted(Counter(label for label in posts["label"] if label is not None).items()))


class PostsHash:
    """A SHA-256 over ids, fields, labels, groups and the images' contents, fed in pieces.

    It does not depend on where the table or the images lie, nor on how the posts are cut into pieces; an image that
    cannot be read counts with its name.

    Parameters
    ----------
    fields : tuple of Field
        What the posts have.
    known : mapping, optional
        Content keys of images that have been read already, by path.
    """

    def __init__(self, fields: tuple[Field, ...] = DEFAULT_FIELDS, known: Mapping[str, str] | None = None) -> None:
        self._digest = hashlib.sha256()
        self._fields = fields
        self._known = known or {}

    def update(self, posts: pd.DataFrame) -> None:
        """Add the next posts."""
        with ThreadPoolExecutor(max_workers=4) as pool:
            before: list[Iterable[str | None]] = [posts["id"]]
            after: list[Iterable[str | None]] = [posts["label"], posts["group"]]
            after += [posts[name] for name in field_labels(posts).values()]
            for field in (field for field in self._fields if field.name in posts):
                if field.kind == "image":
                    after.append(pool.map(self._content_key, posts[field.name]))
                else:
                    before.append(map(FIELD_KINDS[field.kind].hashed, posts[field.name]))
            for row in zip(*before, *after, strict=True):
                for value in row:
                    self._add(value)

    def _content_key(self, image: Any) -> str | None:
        known = self._known.get(image) if isinstance(image, str) else None
        return known or _content_key(image)

    def _add(self, value: str | None) -> None:
        raw = b"" if value is None else value.encode("utf-8", "surrogatepass")
        self._digest.update(f"{-1 if value is None else len(raw)}:".encode() + raw)

    def hexdigest(self) -> str:
        """Return the hash of all posts so far."""
        return self._digest.hexdigest()


def data_hash(
    posts: pd.DataFrame, fields: tuple[Field, ...] = DEFAULT_FIELDS, known: Mapping[str, str] | None = None
) -> str:
    """Return the :class:`PostsHash` of one table."""
    whole = PostsHash(fields, known)
    whole.update(posts)
    return whole.hexdigest()


def input_hashes(posts: pd.DataFrame, fields: Iterable[Field]) -> dict[str, list[str | None]]:
    """Return a SHA-256 of what each post has in every field, None for nothing; of images, of their content."""
    found = {}
    for field in (field for field in fields if field.name in posts):
        hashed = _content_key if field.kind == "image" else FIELD_KINDS[field.kind].hashed
        found[field.name] = [
            None if value is None else hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
            for value in map(hashed, posts[field.name])
        ]
    return found


def _content_key(image: Any) -> str | None:
    if not has_image(image):
        return None
    try:
        return image_key(image)
    except ImageFault as fault:
        # Remote images are not fetched a second time: they and broken ones count with their names.
        return Path(image).name if isinstance(image, str) and not is_url(image) else f"{fault.kind} {image!r:.300}"
