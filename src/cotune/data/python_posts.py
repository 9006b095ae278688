"""Posts that a Python user passes, as every part of cotune takes them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from cotune.data.posts import ColumnNames, is_arrow, read_posts
from cotune.errors import CotuneError, DataError
from cotune.fields import DEFAULT_FIELDS, Field


def posts_from(x: Any, fields: tuple[Field, ...] = DEFAULT_FIELDS) -> pd.DataFrame:
    """Turn what a Python user passes (DataFrame, Arrow table, list of dicts, one dict) into posts.

    Raises
    ------
    DataError
        If it is none of these or lacks both `text` and `image`.
    """
    if isinstance(x, dict):
        x = [x]
    if not isinstance(x, pd.DataFrame) and not is_arrow(x):
        rows = list(x) if isinstance(x, list | tuple) else None
        if rows is None or not all(isinstance(row, dict) for row in rows):
            names = " and ".join(f"`{field.name}`" for field in fields)
            raise DataError(
                f"posts are a DataFrame or a list of dicts with {names}, or an Arrow table, not {type(x).__name__}"
            )
        x = pd.DataFrame({key: pd.Series([row.get(key) for row in rows], dtype=object) for key in _keys(rows)})
    if hasattr(x, "__len__") and not len(x):
        raise DataError("there are no posts")
    try:
        return read_posts(x, columns=ColumnNames(fields=fields))
    except CotuneError:
        raise
    except (TypeError, ValueError) as fault:
        raise DataError(f"the posts cannot be read: {fault}") from fault


def _keys(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))
