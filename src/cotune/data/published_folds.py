"""Folds as somebody published them: a `fold` column, or one `split` column for each fold."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.tables.cells import is_missing, label_name
from cotune.data.tables.read import KINDS, is_stdin, read_chunks, table_name
from cotune.errors import DataError, clip, did_you_mean, listed

UNUSED, TRAIN, WATCH, TEST = range(4)
_SPLITS = ((TRAIN, r"train(ing)?"), (WATCH, r"(val|valid|validation|dev|development)"), (TEST, r"test(ing)?"))
_MOST_FOLDS, _CHUNK, _SHOWN = 100, 5_000, 5


@dataclass(frozen=True)
class PublishedFolds:
    """What each post does in each fold.

    Attributes
    ----------
    names : tuple of str
        What the folds are called.
    roles : ndarray of int8
        Shape (posts, folds): `UNUSED`, `TRAIN`, `WATCH` (what early stopping may watch, and nothing else) or `TEST`.
    source : str
        Where they come from.
    notes : tuple of str
        What a user should know of them.
    """

    names: tuple[str, ...]
    roles: np.ndarray
    source: str
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A hash that tells these folds from others of the same posts."""
        return hashlib.sha256(repr(self.names).encode() + np.ascontiguousarray(self.roles).tobytes()).hexdigest()


def read_published_folds(
    posts: pd.DataFrame, table: str | Path, source: str, *, kind: str | None = None
) -> PublishedFolds:
    """Read which post is trained on, watched and scored in which fold.

    Parameters
    ----------
    posts : DataFrame
        The posts, as :func:`cotune.data.posts.read_posts` read them from `table`.
    table : path
        Where they come from.
    source : str
        A table with the columns `id` and `fold` or `split`, or names of columns of `table`, with commas. A column whose
        values are train, validation (val, dev) and test makes one fold; the values of any other are folds, each
        scored once and trained on otherwise.
    kind : str, optional
        How `table` is read, instead of what its name suggests.

    Raises
    ------
    DataError
        If columns are missing, a post is named twice or not at all, is scored twice, or a fold scores or trains
        on no post.
    """
    path = Path(source)
    if path.suffix.lower() in KINDS or path.is_file():
        columns, notes = _by_id(posts, path)
    else:
        columns, notes = _by_row(posts, Path(table), [name.strip() for name in source.split(",")], kind), []
    names, parts = [], []
    for name, values in columns.items():
        found = _roles(name, values, posts)
        names += found[0]
        parts.append(found[1])
    roles = np.concatenate(parts, axis=1)
    twice = np.flatnonzero((roles == TEST).sum(axis=1) > 1)
    if len(twice):
        raise DataError(
            f"{clip(source)} scores {len(twice):,} of the posts more than once ({_rows(posts, twice)}); each post "
            "may be in the test part of one fold"
        )
    for fold, role in zip(names, roles.T, strict=True):
        for wanted, what in ((TEST, "scores"), (TRAIN, "trains on")):
            if not (role == wanted).any():
                raise DataError(f"the fold {clip(fold)!r} of {clip(source)} {what} none of the posts")
    if len(names) > _MOST_FOLDS:
        raise DataError(f"{clip(source)} makes {len(names):,} folds; more than {_MOST_FOLDS} are likely another column")
    return PublishedFolds(tuple(names), roles, source, tuple(notes))


def _by_row(posts: pd.DataFrame, table: Path, names: Sequence[str], kind: str | None) -> dict[str, list[str]]:
    """Return columns of the posts table, for the posts that were read from it."""
    if is_stdin(table):
        raise DataError("columns of standard input cannot be read twice; give --folds-from a file with id and fold")
    found = _read(table, names, kind)
    at = posts["row"].to_numpy() - 1
    return {name: [found[name][i] for i in at] for name in names}


def _by_id(posts: pd.DataFrame, path: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Return the columns of a table of folds, for the posts by their ids."""
    there = next(read_chunks(path, [], 1)).columns
    names = [name for name in there if name == "fold" or re.fullmatch(r"split([_-]?\w+)?", name)]
    if "id" not in there or not names:
        raise DataError(
            f"{table_name(path)} needs a column 'id' and one called 'fold' or 'split'; it has: "
            f"{listed(there) or 'none'}"
        )
    found = _read(path, ["id", *names], None)
    place: dict[str, int] = {}
    for i, identity in enumerate(found["id"]):
        if identity in place:
            raise DataError(f"{table_name(path)} names the post {clip(identity)!r} twice, in row {i + 1} again")
        place[identity] = i
    ids = posts["id"].astype(str).tolist()
    missing = [i for i, identity in enumerate(ids) if identity not in place]
    if missing:
        raise DataError(
            f"{table_name(path)} misses {len(missing):,} of the {len(ids):,} posts ({_rows(posts, missing)}, such as "
            f"{ids[missing[0]]!r}); add them, or leave them out of the posts table"
        )
    others = len(place) - len(set(ids))
    notes = [f"{others:,} of the ids in {table_name(path)} are not among the posts"] if others else []
    return {name: [found[name][place[identity]] for identity in ids] for name in names}, notes


def _read(path: Path, names: Sequence[str], kind: str | None) -> dict[str, list[str]]:
    """Return whole columns as text, "" for an empty cell."""
    found: dict[str, list[str]] = {name: [] for name in names}
    columns: list[str] = []
    for chunk in read_chunks(path, names, _CHUNK, kind=kind):
        columns = chunk.columns
        for name in names:
            cells: Sequence[Any] = chunk.values.get(name, [None] * chunk.rows)
            found[name] += ["" if is_missing(cell) else label_name(cell).strip() for cell in cells]
    for name in names:
        if name not in columns:
            raise DataError(
                f"{table_name(path)} has no column {clip(name)!r}{did_you_mean(name, columns)}; it has: "
                f"{listed(columns) or 'none'}"
            )
    return found


def _roles(name: str, values: Sequence[str], posts: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    """Return the folds that a column makes, and the roles of the posts in them."""
    distinct = sorted(set(values) - {""}, key=_natural)
    split = {value: _split(value) for value in distinct}
    if distinct and all(role is not None for role in split.values()):
        # A split may leave posts out; they take no part in this fold.
        return [name], np.asarray([[split.get(value, UNUSED)] for value in values], dtype=np.int8)
    empty = [i for i, value in enumerate(values) if not value]
    if empty:
        raise DataError(
            f"the column {clip(name)!r} gives no fold for {len(empty):,} of the posts ({_rows(posts, empty)}); fill "
            "it, or leave these posts out"
        )
    if len(distinct) < 2:
        raise DataError(
            f"the column {clip(name)!r} holds {listed(distinct, quote=True) or 'nothing'}; folds need two values at "
            "least, a split train and test"
        )
    if len(distinct) > _MOST_FOLDS:
        raise DataError(
            f"the column {clip(name)!r} holds {len(distinct):,} different values, which are likely no folds (at most "
            f"{_MOST_FOLDS})"
        )
    folds = np.full((len(values), len(distinct)), TRAIN, dtype=np.int8)
    place = {value: i for i, value in enumerate(distinct)}
    folds[np.arange(len(values)), [place[value] for value in values]] = TEST
    return distinct, folds


def _split(value: str) -> int | None:
    for role, words in _SPLITS:
        if re.fullmatch(rf"{words}([_ -]\w+)?", value.lower()):
            return role
    return None


def _natural(value: str) -> tuple[tuple[bool, int, str], ...]:
    """Return what sorts fold 10 after fold 9."""
    parts: Iterator[str] = (part for part in re.split(r"(\d+)", value) if part)
    return tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts)


def _rows(posts: pd.DataFrame, at: Sequence[int] | np.ndarray) -> str:
    rows = posts["row"].iloc[list(at[:_SHOWN])].tolist()
    more = f" and {len(at) - _SHOWN:,} more" if len(at) > _SHOWN else ""
    return f"row{'' if len(at) == 1 else 's'} {', '.join(map(str, rows))}{more}"
