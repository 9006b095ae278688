"""The demo posts that ship with the package: real tweets beside real emoji images, paired by a seeded draw.

`scripts/make_demo_posts.py` makes them and says how; `data/LICENSES.md` names the sources.
"""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from cotune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def demo_posts_path() -> Path:
    """Return the path of the demo posts table; its images lie beside it.

    Raises
    ------
    DataError
        When the table is not there as a plain file, for instance because the package runs out of a zip file.
    """
    path = Path(str(files("cotune.demo") / "data" / "posts.csv"))
    if not path.is_file():
        raise DataError(f"{path}: the demo posts are missing; install cotune as a plain folder with pip")
    return path


def read_demo_posts() -> pd.DataFrame:
    """Return the demo posts in the form of :func:`cotune.data.posts.read_posts`, with a column `split`.

    Returns
    -------
    pandas.DataFrame
        `split` is ``train`` or ``test``; the two share neither tweets nor emoji.
    """
    from cotune.data.posts import read_posts

    path = demo_posts_path()
    posts = read_posts(path, require_labels=True)
    # `read_posts` keeps rows and their order but only the columns it knows.
    with path.open(encoding="utf-8", newline="") as file:
        split = [row["split"] for row in csv.DictReader(file)]
    if len(split) != len(posts):
        raise DataError(f"{path}: the table was changed; install cotune again")
    return posts.assign(split=split)
