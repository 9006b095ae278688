"""Further tables whose posts join those to train on: they teach, and are never held out or scored.

A column ``also`` names the table that a post comes from; posts of the main table have nothing there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cotune.data.duplicates import Fingerprint, near_duplicates
from cotune.data.kinds import FIELD_KINDS
from cotune.data.posts import read_posts
from cotune.data.tables.builder import ColumnNames
from cotune.errors import DataError
from cotune.fields import Field

ALSO = "also"
Fingerprints = Mapping[str, Sequence[Fingerprint | None]]


def with_also(
    posts: pd.DataFrame,
    tables: Sequence[str],
    columns: ColumnNames,
    *,
    main: Path | None = None,
    weight: float = 1.0,
    allow_outside: bool = False,
) -> pd.DataFrame:
    """Return the posts together with those of further tables, told apart by a column ``also``.

    Parameters
    ----------
    posts : DataFrame
        The main table, as :func:`cotune.data.posts.read_posts` gives it.
    tables : sequence of str
        Files that may lack columns of fields and labels, as long as they have one of each.
    columns : ColumnNames
        What the columns are called, in all tables.
    main : path, optional
        The main table's file, which cannot join itself.
    weight : float
        How much a post of these tables counts in training, where one of the main table counts 1.
    allow_outside : bool
        Whether images of these tables may lie outside of their folders.

    Raises
    ------
    DataError
        If a table cannot be read, is given twice, or has no column of a field or none of labels.
    """
    seen = {} if main is None else {os.path.realpath(main): "is the posts table itself"}
    parts = [posts.assign(also=None)]
    for name in tables:
        place = os.path.realpath(name)
        if place in seen:
            raise DataError(f"--also {name} {seen[place]}; its posts would count twice: leave it out")
        seen[place] = "is given twice"
        found = read_posts(name, columns=replace(columns, partial=True), allow_outside=allow_outside)
        short = Path(name).name
        rows = pd.Series([f"{row} of {short}" for row in found["row"]], index=found.index, dtype=object)
        parts.append(found.assign(row=rows, also=name))
    names = list(dict.fromkeys(column for part in parts for column in part.columns))
    whole = pd.DataFrame(
        {name: [cell for part in parts for cell in (part[name] if name in part else [None] * len(part))]
         for name in names}, dtype=object,
    )  # fmt: skip
    if weight != 1 or "weight" in posts:
        own = posts["weight"] if "weight" in posts else np.ones(len(posts))
        whole["weight"] = np.concatenate([own, np.full(len(whole) - len(posts), weight)]).astype(float)
    whole.attrs = dict(posts.attrs)
    return whole


def is_own(posts: pd.DataFrame) -> np.ndarray:
    """Return which posts are of the main table, shape (N,)."""
    return posts[ALSO].isna().to_numpy() if ALSO in posts else np.ones(len(posts), dtype=bool)


def own_posts(posts: pd.DataFrame) -> pd.DataFrame:
    """Return the posts of the main table."""
    return posts[is_own(posts)].reset_index(drop=True) if ALSO in posts else posts


def repeated_in(
    held: tuple[pd.DataFrame, Fingerprints],
    others: tuple[pd.DataFrame, Fingerprints],
    fields: Sequence[Field],
    *,
    allow_remote: bool = False,
) -> np.ndarray:
    """Return which of some posts are near-duplicates of held-out ones, by the fields that their table has.

    Parameters
    ----------
    held, others : (DataFrame, mapping)
        Posts, and the fingerprints of their images by field, where those are known.
    fields : sequence of Field
        What the posts have.
    allow_remote : bool
        Whether images may be fetched by URL.

    Returns
    -------
    ndarray of bool
        One for each of `others`. A text that is the same is enough where the table has no image.
    """
    found = np.zeros(len(others[0]), dtype=bool)
    for table in others[0][ALSO].unique():
        at = np.flatnonzero((others[0][ALSO] == table).to_numpy())
        theirs = others[0].iloc[at]
        has = [field for field in fields if any(map(FIELD_KINDS[field.kind].has, theirs[field.name]))]
        known = {
            field.name: [*held[1][field.name], *(others[1][field.name][int(i)] for i in at)]
            for field in has
            if field.name in held[1] and field.name in others[1]
        }
        both = pd.concat([held[0], theirs], ignore_index=True)
        groups = near_duplicates(both, has, known, allow_remote=allow_remote)
        found[at] = np.isin(groups[len(held[0]) :], groups[: len(held[0])])
    return found
