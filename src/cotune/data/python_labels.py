"""Labels as Python has them: which types are allowed, and what they are called in tables and files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.tables.cells import LABEL_SEPARATOR, is_missing, label_name
from cotune.errors import DataError, clip
from cotune.report.numbers import plural

ALLOWED = "text, whole numbers, or True and False"
_KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool, np.bool_),
    "int": (int, np.integer),
    "float": (float, np.floating),
    "str": (str,),
}


def label_kind(labels: Sequence[Any]) -> str | None:
    """Return the name of the labels' type, None if they are of several or of another; whole and broken numbers mix."""
    kinds = {_kind(label) for label in labels}
    if kinds == {"int", "float"}:
        return "float"
    return kinds.pop() if len(kinds) == 1 else None


def _kind(label: object) -> str | None:
    return next((name for name, types in _KINDS.items() if isinstance(label, types)), None)


def checked_labels(y: Any, n_posts: int) -> np.ndarray:
    """Return the labels `y` of `n_posts` posts as an array.

    Raises
    ------
    DataError
        If there is not one for each post, one is missing, they are of a type that a file could not give back, or
        they are quantities rather than classes.
    """
    labels = _listed(y)
    if labels is None or len(labels) != n_posts:
        raise DataError(
            f"y has the shape {np.shape(y) if labels is None else (len(labels),)}, but X holds "
            f"{plural(n_posts, 'post')}"
        )
    for position, label in enumerate(labels):
        if is_missing(label):
            raise DataError(f"y has no label at position {position}")
        if isinstance(label, str) and not label.strip():
            raise DataError(f"y holds an empty text at position {position}, which a table would read as no label")
        if _kind(label) is None:
            raise DataError(
                f"y holds a label of the type {type(label).__name__} at position {position}; labels are {ALLOWED}: "
                "convert them, for example with str()"
            )
        if _kind(label) == "float" and not float(label).is_integer():
            raise DataError(
                f"y holds {float(label):g} at position {position}: numbers with fractions look like a quantity, which "
                "JointRegressor learns; cut them into classes (pandas.cut), or convert them to text if each number is "
                "a class"
            )
    if label_kind(labels) is None:
        kinds = sorted({type(label).__name__ for label in labels})
        raise DataError(f"y holds labels of types that cannot be sorted together ({', '.join(kinds)}); use one type")
    return np.asarray(labels)


def labels_with_gaps(y: Any, n_posts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of those of `n_posts` posts that have one, and which posts these are, shape (N,).

    Raises
    ------
    DataError
        As :func:`checked_labels`, of the labels that there are.
    """
    labels = _listed(y)
    if labels is None or len(labels) != n_posts:
        return checked_labels(y, n_posts), np.ones(n_posts, dtype=bool)
    has = [not (is_missing(label) or (isinstance(label, str) and not label.strip())) for label in labels]
    known = [label for label, there in zip(labels, has, strict=True) if there]
    return checked_labels(known, len(known)) if known else np.empty(0, dtype=str), np.asarray(has, dtype=bool)


def indicator_labels(y: Any, n_posts: int) -> tuple[list[str], list[str]] | None:
    """Return the names of several labels and what each post has of them as text, of a table of 0 and 1.

    Returns
    -------
    tuple of list of str, or None
        The labels, by a DataFrame's columns or by number, and one text for each post; None if `y` is no table.

    Raises
    ------
    DataError
        If it has another length, or holds something else than 0 and 1.
    """
    if hasattr(y, "detach"):
        y = y.detach().cpu().numpy()
    if hasattr(y, "toarray"):  # sparse
        y = y.toarray()
    if isinstance(y, list | tuple) and y and all(isinstance(row, list | set | frozenset) for row in y):
        parts = [
            [label_name(label) for label in (sorted(row) if isinstance(row, set | frozenset) else row)] for row in y
        ]
        if not all(name in ("0", "1") for row in parts for name in row):
            _check_length(len(y), n_posts)
            known = sorted({name for row in parts for name in row})
            _refuse_separators(known)
            return known, [LABEL_SEPARATOR.join(row) or LABEL_SEPARATOR for row in parts]
        y = np.asarray(y)
    if not isinstance(y, pd.DataFrame) and not (isinstance(y, np.ndarray) and y.ndim == 2):
        return None
    names = [label_name(name) for name in y.columns] if isinstance(y, pd.DataFrame) else [*map(str, range(y.shape[1]))]
    _refuse_separators(names)
    table = np.asarray(y)
    _check_length(len(table), n_posts)
    wrong = np.argwhere(~np.isin(table, (0, 1)))
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"y holds {table[row, column]!r} at position {row}, {names[column]!r}; a table of labels holds 0 and 1"
        )
    texts = [
        LABEL_SEPARATOR.join(names[at] for at in np.flatnonzero(row)) or LABEL_SEPARATOR for row in table.astype(bool)
    ]
    return names, texts


def _refuse_separators(names: Sequence[str]) -> None:
    wrong = next((name for name in names if LABEL_SEPARATOR in name), None)
    if wrong is not None:
        raise DataError(f"the label {clip(wrong, 60)!r} holds {LABEL_SEPARATOR}, which separates labels; rename it")


def checked_numbers(y: Any, n_posts: int) -> list[float]:
    """Return the numbers `y` of `n_posts` posts.

    Raises
    ------
    DataError
        If there is not one for each post, or one is no finite number.
    """
    found = _listed(y)
    _check_length(-1 if found is None else len(found), n_posts)
    numbers = []
    for position, value in enumerate(found or []):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"y holds {clip(repr(value), 40)} at position {position}, expected a finite number")
        numbers.append(number)
    return numbers


def _check_length(found: int, n_posts: int) -> None:
    if found != n_posts:
        raise DataError(f"y holds {plural(found, 'label')}, but X holds {plural(n_posts, 'post')}")


def _listed(y: Any) -> list[Any] | None:
    """Return the labels one by one, None for what has more dimensions than one."""
    if hasattr(y, "detach"):
        y = y.detach().cpu().numpy()
    if isinstance(y, pd.DataFrame | str | bytes) or (isinstance(y, np.ndarray) and y.ndim != 1):
        return None
    if hasattr(y, "to_pylist"):  # Arrow
        return list(y.to_pylist())
    try:
        return list(y)
    except TypeError:
        return None


def label_names(labels: Sequence[Any] | np.ndarray) -> dict[Any, str]:
    """Return what each of some different labels is called in tables.

    Raises
    ------
    DataError
        If two have the same name.
    """
    names: dict[Any, str] = {}
    first: dict[str, Any] = {}
    for label in labels:
        name = label_name(label)
        if name in first:
            raise DataError(
                f"y holds the labels {_shown(first[name])} and {_shown(label)}, which a table could not tell apart "
                f"(both are read as {clip(name, 60)!r}); rename one of them"
            )
        names[label], first[name] = name, label
    return names


def _shown(label: object) -> str:
    # Letters that look the same are told apart by their numbers.
    return ascii(clip(str(label), 60)) if isinstance(label, str) else str(label)
