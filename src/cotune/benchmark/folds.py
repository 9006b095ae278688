"""Which posts are used, and in which fold each of them is scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cotune.benchmark.plan import Plan
from cotune.checksums import of_columns, seal_holds, sealed
from cotune.data.duplicates import fingerprints, near_duplicate_groups
from cotune.data.posts import has_image, has_text
from cotune.data.row_errors import has_row_error
from cotune.data.splits import make_folds
from cotune.errors import DataError, RunError, listed
from cotune.files import atomic_path

FILE = "folds.parquet"
OnPicture = Callable[[int, int], None]


@dataclass(frozen=True)
class Folds:
    """The posts of a benchmark, each with its class and the fold in which it is scored.

    Attributes
    ----------
    ids : ndarray of str
        Ids of the posts that are used.
    labels : ndarray of int
        Their classes.
    classes : tuple of str
        Class names.
    fold : ndarray of int
        The fold each post is scored in.
    groups : ndarray of int
        Groups of near-duplicates; every post its own under the protocol ``paper``.
    left_out : dict
        How many posts are not used, by reason.
    seed : int
        Seed of folds and draws.
    """

    ids: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    fold: np.ndarray
    groups: np.ndarray
    left_out: dict[str, int]
    seed: int

    def test(self, fold: int) -> np.ndarray:
        """Return the positions of the posts scored in `fold`."""
        return np.flatnonzero(self.fold == fold)

    def train(self, fold: int, shots: int | None = None, draw: int = 0) -> np.ndarray:
        """Return the posts to train on for `fold`.

        With `shots`, that many of each class are drawn (all of a class that has fewer). Larger draws of the
        same number contain the smaller ones.
        """
        rows = np.flatnonzero(self.fold != fold)
        if shots is None:
            return rows
        chosen = []
        for label in range(len(self.classes)):
            mine = rows[self.labels[rows] == label]
            random = np.random.default_rng([self.seed, fold, draw, label])
            chosen.append(random.permutation(mine)[:shots])
        return np.sort(np.concatenate(chosen))

    def most_shots(self) -> int:
        """Return the smallest number of posts per class that is no different from all."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return int(
            max((counts - np.bincount(self.labels[self.test(f)], minlength=len(counts))).max() for f in set(self.fold))
        )

    def save(self, path: Path) -> None:
        """Write ids, classes, folds and groups as parquet, atomically."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        about = sealed(
            {"classes": list(self.classes), "left_out": self.left_out, "seed": self.seed, "content": self._content()}
        )
        table = pa.table({"id": self.ids.astype(str), "label": self.labels, "fold": self.fold, "group": self.groups})
        with atomic_path(path) as temporary:
            pq.write_table(table.replace_schema_metadata({"cotune": json.dumps(about)}), temporary, compression="zstd")

    def _content(self) -> str:
        numbers = (np.asarray(column, dtype=np.int64) for column in (self.labels, self.fold, self.groups))
        return of_columns([[str(identity) for identity in self.ids], *numbers])

    @classmethod
    def load(cls, path: Path) -> Folds:
        """Read what :meth:`save` wrote.

        Raises
        ------
        RunError
            If the file is missing or damaged.
        """
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
            about = json.loads(table.schema.metadata[b"cotune"])
            columns = {name: table[name].to_numpy(zero_copy_only=False) for name in ("label", "fold", "group")}
            ids = np.asarray(table["id"].to_pylist(), dtype=object)
            classes, left_out, seed = tuple(about["classes"]), dict(about["left_out"]), int(about["seed"])
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise RunError(f"{path} cannot be read ({fault}); begin again in another folder") from fault
        label, fold, group = (columns[name].astype(np.int64) for name in ("label", "fold", "group"))
        folds = cls(ids, label, classes, fold, group, left_out, seed)
        if not seal_holds(about) or about.get("content", folds._content()) != folds._content():
            raise RunError(f"{path} cannot be read (its checksum differs); begin again in another folder")
        return folds


def cut_posts(
    posts: pd.DataFrame, plan: Plan, *, allow_remote: bool = False, on_picture: OnPicture | None = None
) -> Folds:
    """Leave out what cannot be used, and share out the rest among folds.

    Raises
    ------
    DataError
        If posts lack labels, all have the same one, or a label is too rare for that many folds.
    """
    if "label" not in posts or posts["label"].isna().all():
        raise DataError("the posts have no labels; fill the `label` column, or name it with --label-column")
    marks = fingerprints(posts["image"], allow_remote=allow_remote, progress=on_picture)
    named = np.asarray([has_image(image) for image in posts["image"]])
    broken = named & ~np.asarray([mark is not None and mark.readable for mark in marks], dtype=bool)
    bad = has_row_error(posts)
    labelled = posts["label"].notna().to_numpy() & ~bad
    words = np.asarray([has_text(text) for text in posts["text"]])
    empty = ~words & (~named | broken)
    skipped = broken & ~empty if plan.fit.bad_images == "skip" else np.zeros(len(posts), dtype=bool)
    use = labelled & ~empty & ~skipped
    left_out = {
        **({"an unreadable cell": int(bad.sum())} if bad.any() else {}),
        "no label": int((~labelled & ~bad).sum()),
        "unreadable image": int((labelled & skipped).sum()),
        "neither text nor image": int((labelled & empty).sum()),
    }
    if not use.any():
        raise DataError(f"no post can be used ({_told(left_out)}); see `cotune check`")
    kept = posts[use].reset_index(drop=True)
    classes = _classes(kept)
    grouped = plan.protocol == "grouped"
    groups = np.arange(len(kept), dtype=np.int64)
    if grouped:
        hashes = [mark for mark, yes in zip(marks, use, strict=True) if yes]
        groups = near_duplicate_groups(kept, by=plan.group_by, hashes=hashes)
    tests = make_folds(
        kept, n_folds=plan.folds, protocol=plan.protocol, seed=plan.fold_seed, groups=groups if grouped else None
    )
    fold = np.full(len(kept), -1, dtype=np.int64)
    for i, rows in enumerate(tests):
        fold[rows] = i
    labels = kept["label"].astype(str).map({label: i for i, label in enumerate(classes)}).to_numpy(dtype=np.int64)
    ids = kept["id"].astype(str).to_numpy(dtype=object)
    return Folds(ids, labels, classes, fold, groups, left_out, plan.fold_seed)


def posts_of(posts: pd.DataFrame, folds: Folds) -> pd.DataFrame:
    """Return the posts that `folds` uses, in its order."""
    places = {str(identity): i for i, identity in enumerate(posts["id"])}
    return posts.iloc[[places[str(identity)] for identity in folds.ids]].reset_index(drop=True)


def told_left_out(folds: Folds) -> str | None:
    """Return one line that says how many posts are left out, and why; None when all are used."""
    n = sum(folds.left_out.values())
    return f"note: {n:,} {'post is' if n == 1 else 'posts are'} left out ({_told(folds.left_out)})" if n else None


def _told(left_out: dict[str, int]) -> str:
    return ", ".join(f"{n:,} with {reason}" for reason, n in left_out.items() if n)


def _classes(posts: pd.DataFrame) -> tuple[str, ...]:
    names: set[Any] = {str(label) for label in posts["label"]}
    if len(names) == 1:
        raise DataError(
            f"all {len(posts):,} posts have the label {listed(names, quote=True)}; a benchmark needs at least two"
        )
    try:
        return tuple(sorted(names, key=float))  # 2 before 10
    except ValueError:
        return tuple(sorted(names))
