"""Which posts are used, and in which fold each of them is scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cotune.benchmark.plan import Plan
from cotune.checksums import of_columns, seal_holds, sealed
from cotune.data.duplicates import fingerprints, near_duplicates
from cotune.data.kinds import FIELD_KINDS
from cotune.data.published_folds import TEST, TRAIN, UNUSED, WATCH, PublishedFolds
from cotune.data.splits import make_folds
from cotune.data.tables.cells import FIELD_LABEL, field_labels
from cotune.data.tables.row_errors import has_row_error
from cotune.errors import DataError, RunError
from cotune.files import atomic_path
from cotune.report.numbers import plural
from cotune.tasks import Task, restore_task, task_of_posts
from cotune.tasks.choose import annotates

FILE = "folds.parquet"
_ROLE = "role_"
_OF_PAPERS = ("accuracy", "weighted_f1")
OnImage = Callable[[int, int], None]


@dataclass(frozen=True)
class Folds:
    """The posts of a benchmark, each with its class and the fold in which it is scored.

    Attributes
    ----------
    ids : ndarray of str
        Ids of the posts that are used.
    targets : ndarray
        What is to be predicted of them, as numbers.
    task : Task
        What the targets mean.
    fold : ndarray of int
        The fold each post is scored in.
    groups : ndarray of int
        Groups of near-duplicates; every post its own under the protocol ``paper``.
    left_out : dict
        How many posts are not used, by reason.
    seed : int
        Seed of folds and draws.
    labels : tuple of str
        The labels as the table has them, where they are more than names of classes.
    field_labels : dict of tuple
        The annotators' labels of each field, where the task learns from them.
    roles : ndarray or None
        Of published folds, what each post does in each (see :class:`~cotune.data.published_folds.PublishedFolds`),
        shape (posts, folds). Otherwise a post is trained on wherever it is not scored.
    """

    ids: np.ndarray
    targets: np.ndarray
    task: Task
    fold: np.ndarray
    groups: np.ndarray
    left_out: dict[str, int]
    seed: int
    labels: tuple[str | None, ...] = ()
    roles: np.ndarray | None = None
    field_labels: dict[str, tuple[str | None, ...]] = field(default_factory=dict)

    @property
    def n_folds(self) -> int:
        """How many folds there are."""
        return int(self.fold.max()) + 1 if self.roles is None else self.roles.shape[1]

    @property
    def table_scores(self) -> tuple[str, ...]:
        """The scores that tables show, the main one first; of published folds those that papers report as well."""
        names = self.task.table_scores
        more = () if self.roles is None else tuple(n for n in _OF_PAPERS if n in self.task.scores and n not in names)
        return names + more

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of what is predicted."""
        return self.task.outputs

    def test(self, fold: int) -> np.ndarray:
        """Return the positions of the posts scored in `fold`."""
        return np.flatnonzero(self.fold == fold)

    def train(self, fold: int, shots: int | None = None, draw: int = 0) -> np.ndarray:
        """Return the posts to train on for `fold`.

        With `shots`, that many of each class are drawn (all of a class that has fewer). Larger draws of the
        same number contain the smaller ones.
        """
        rows = np.flatnonzero(self.fold != fold if self.roles is None else self.roles[:, fold] == TRAIN)
        unscored = ~self.task.scored(self.targets[rows])
        if unscored.any():  # what is known of the fields of a near-duplicate is known of a post that is scored
            rows = rows[~(unscored & np.isin(self.groups[rows], self.groups[self.test(fold)]))]
        if shots is None:
            return rows
        rows = rows[self.task.scored(self.targets[rows])]
        strata = self.task.strata(self.targets)
        chosen = []
        for label in range(int(strata.max()) + 1):
            mine = rows[strata[rows] == label]
            random = np.random.default_rng([self.seed, fold, draw, label])
            chosen.append(random.permutation(mine)[:shots])
        return np.sort(np.concatenate(chosen))

    def most_shots(self) -> int:
        """Return the smallest number of posts per class that is no different from all."""
        strata, scored = self.task.strata(self.targets), self.task.scored(self.targets)
        rows = [self.train(fold) for fold in range(self.n_folds)]
        return int(max(np.bincount(strata[at[scored[at]]]).max() for at in rows))

    def watched(self, fold: int) -> np.ndarray:
        """Return the posts that the publishers of `fold` chose settings on, or stopped by; none otherwise."""
        return np.flatnonzero(np.zeros(0) if self.roles is None else self.roles[:, fold] == WATCH)

    def test_over_train(self) -> float:
        """Return the mean number of posts scored in a fold, over that of posts trained on."""
        test, train = (np.mean([len(f(i)) for i in range(self.n_folds)]) for f in (self.test, self.train))
        return float(test / train)

    def duplicated(self) -> int:
        """Return how many posts are scored by models that were trained on a near-duplicate of them."""
        found = 0
        for fold in range(self.n_folds):
            found += int(np.isin(self.groups[self.test(fold)], self.groups[self.train(fold)]).sum())
        return found

    def scored(self) -> Folds:
        """Return the posts that any fold scores; published folds need not score all."""
        if (self.fold >= 0).all():
            return self
        at = np.flatnonzero(self.fold >= 0)
        return replace(
            self, ids=self.ids[at], targets=self.targets[at], fold=self.fold[at], groups=self.groups[at],
            labels=tuple(self.labels[i] for i in at) if self.labels else (),
            roles=None if self.roles is None else self.roles[at],
            field_labels={name: tuple(labels[i] for i in at) for name, labels in self.field_labels.items()},
        )  # fmt: skip

    def learned(self) -> np.ndarray | None:
        """Return what the loss reads of every post, None if it is their targets."""
        return self.task.learned(self.labelled_posts()) if self.field_labels else None

    def labelled_posts(self) -> pd.DataFrame:
        """Return the labels of posts and of their fields as a posts table has them."""
        cells = {"label": list(self.labels), **self.field_labels}
        return pd.DataFrame(cells, dtype=object).assign(row=np.arange(1, len(self.ids) + 1))

    def save(self, path: Path) -> None:
        """Write ids, labels, folds and groups as parquet, atomically."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        about = sealed(
            {
                "classes": list(self.classes),
                **({} if self._by_class else {"task": {"name": self.task.name, "settings": self.task.settings()}}),
                "left_out": self.left_out,
                "seed": self.seed,
                "content": self._content(),
            }
        )
        columns = {"id": self.ids.astype(str), "label": self._labels(), "fold": self.fold, "group": self.groups}
        if self.roles is not None:
            columns |= {f"{_ROLE}{i}": self.roles[:, i] for i in range(self.n_folds)}
        columns |= {name: list(labels) for name, labels in self.field_labels.items()}
        table = pa.table(columns)
        with atomic_path(path) as temporary:
            pq.write_table(table.replace_schema_metadata({"cotune": json.dumps(about)}), temporary, compression="zstd")

    @property
    def _by_class(self) -> bool:
        return self.task.name == "single-label"

    def _labels(self) -> Any:
        """Return the labels as they are saved: numbers of classes, or text."""
        if self._by_class:
            return self.targets
        return list(self.labels)

    def _content(self) -> str:
        numbers = [np.asarray(column, dtype=np.int64) for column in (self.fold, self.groups)]
        labels = np.asarray(self.targets, dtype=np.int64) if self._by_class else self._labels()
        numbers += [] if self.roles is None else [column.astype(np.int64) for column in self.roles.T]
        further = [["" if cell is None else cell for cell in cells] for cells in self.field_labels.values()]
        return of_columns([[str(identity) for identity in self.ids], _told_apart(labels), *numbers, *further])

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
            fold, group = (table[name].to_numpy(zero_copy_only=False).astype(np.int64) for name in ("fold", "group"))
            ids = np.asarray(table["id"].to_pylist(), dtype=object)
            saved = about.get("task", {"name": "single-label", "settings": {"classes": about["classes"]}})
            task = restore_task(saved)
            labels = table["label"].to_numpy(zero_copy_only=False)
            targets = task.encode(labels.tolist()) if "task" in about else labels.astype(np.int64)
            left_out, seed = dict(about["left_out"]), int(about["seed"])
            names = [name for name in table.column_names if name.startswith(_ROLE)]
            parts = [table[name].to_numpy(zero_copy_only=False).astype(np.int8) for name in names]
            marked = [name for name in table.column_names if name.startswith(FIELD_LABEL)]
            field_labels = {name: tuple(table[name].to_pylist()) for name in marked}
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise RunError(f"{path} cannot be read ({fault}); begin again in another folder") from fault
        text = tuple(labels.tolist()) if "task" in about else ()
        roles = np.stack(parts, axis=1) if parts else None
        folds = cls(ids, targets, task, fold, group, left_out, seed, text, roles, field_labels)
        if not seal_holds(about) or about.get("content", folds._content()) != folds._content():
            raise RunError(f"{path} cannot be read (its checksum differs); begin again in another folder")
        return folds


def cut_posts(
    posts: pd.DataFrame,
    plan: Plan,
    *,
    task: Task | None = None,
    allow_remote: bool = False,
    on_image: OnImage | None = None,
) -> Folds:
    """Leave out what cannot be used, and share out the rest among folds; the labels set the task, unless it is given.

    Raises
    ------
    DataError
        If posts lack labels, all have the same one, or a label is too rare for that many folds.
    """
    columns = list(field_labels(posts).values()) if annotates(posts, plan.fit) else []
    labelled = posts[["label", *columns]].notna().any(axis=1).to_numpy()
    if not labelled.any():
        raise DataError("the posts have no labels; fill the `label` column, or name it with --label-column")
    fields = [field for field in plan.fit.read_fields() if field.name in posts]
    kinds = {field.name: field.kind for field in fields}
    marks = {
        name: fingerprints(posts[name], allow_remote=allow_remote, progress=on_image)
        for name, kind in kinds.items()
        if kind == "image"
    }
    named = {
        name: np.asarray([FIELD_KINDS[kind].has(v) for v in posts[name]], dtype=bool) for name, kind in kinds.items()
    }
    broken = {
        name: named[name] & ~np.asarray([mark is not None and mark.readable for mark in found], dtype=bool)
        for name, found in marks.items()
    }
    nothing = np.zeros(len(posts), dtype=bool)
    faulty = np.any([*broken.values(), nothing], axis=0)
    bad = has_row_error(posts)
    labelled = labelled & ~bad
    empty = ~np.any([*(there & ~broken.get(name, nothing) for name, there in named.items()), nothing], axis=0)
    skipped = faulty & ~empty if plan.fit.bad_images == "skip" else nothing
    use = labelled & ~empty & ~skipped
    left_out = {
        **({"an unreadable cell": int(bad.sum())} if bad.any() else {}),
        "no label": int((~labelled & ~bad).sum()),
        "unreadable image": int((labelled & skipped).sum()),
        f"neither {' nor '.join(kinds)}": int((labelled & empty).sum()),
    }
    if not use.any():
        raise DataError(f"no post can be used ({_told(left_out)}); see `cotune check`")
    kept = posts[use].reset_index(drop=True)
    task = task_of_posts(kept, plan.fit) if task is None else task
    kept = task.complete(kept)
    for row, label in zip(kept["row"], kept["label"], strict=True):
        if label is not None and (problem := task.problem(label)) is not None:
            raise DataError(f"the post of row {row} has the label {label!r}, which {problem}")
    targets = task.encode(kept["label"].tolist())
    groups = np.arange(len(kept), dtype=np.int64)
    if plan.protocol != "paper":
        known = {name: [mark for mark, yes in zip(found, use, strict=True) if yes] for name, found in marks.items()}
        groups = near_duplicates(kept, [field for field in fields if field.kind in plan.group_by], known)
    roles = None
    scored = task.scored(targets)
    strata = task.strata(targets[scored])
    fold = np.full(len(kept), -1, dtype=np.int64)
    if plan.published is not None:
        roles = plan.published.roles[use].copy()
        roles[~scored[:, None] & (roles == TEST)] = UNUSED
        fold[scored] = _published(roles[scored], strata, plan.published)
    else:
        by_name = task.target_type == "multiclass"
        fold[scored] = _made(kept["label"][scored] if by_name else strata, groups[scored], plan)
    ids = kept["id"].astype(str).to_numpy(dtype=object)
    labels = () if task.name == "single-label" else tuple(kept["label"])
    found = {name: tuple(kept[name]) for name in columns}
    return Folds(ids, targets, task, fold, groups, left_out, plan.fold_seed, labels, roles, found)


def _told_apart(labels: Any) -> Any:
    """Return labels as text alone; a post without one has an empty label."""
    return ["" if label is None else label for label in labels] if isinstance(labels, list) else labels


def _made(labels: Any, groups: np.ndarray, plan: Plan) -> np.ndarray:
    """Return the fold in which each post is scored, as the plan's protocol cuts them."""
    own = groups if plan.protocol == "grouped" else None
    tests = make_folds(labels, n_folds=plan.folds, protocol=plan.protocol, seed=plan.fold_seed, groups=own)
    fold = np.full(len(groups), -1, dtype=np.int64)
    for i, rows in enumerate(tests):
        fold[rows] = i
    return fold


def _published(roles: np.ndarray, strata: np.ndarray, published: PublishedFolds) -> np.ndarray:
    """Return the fold in which each post is scored, -1 for none, once every fold can be trained and scored."""
    for name, role in zip(published.names, roles.T, strict=True):
        if not (role == TEST).any():
            raise DataError(f"the fold {name!r} scores none of the posts that can be used; see `cotune check`")
        if len(set(strata[role == TRAIN].tolist())) < 2:
            raise DataError(f"the fold {name!r} is left with posts of one label to train on; see `cotune check`")
    return np.where((roles == TEST).any(axis=1), (roles == TEST).argmax(axis=1), -1).astype(np.int64)


def posts_of(posts: pd.DataFrame, folds: Folds) -> pd.DataFrame:
    """Return the posts that `folds` uses, in its order."""
    places = {str(identity): i for i, identity in enumerate(posts["id"])}
    return posts.iloc[[places[str(identity)] for identity in folds.ids]].reset_index(drop=True)


def told_left_out(folds: Folds) -> str | None:
    """Return one line that says how many posts are left out, and why; None when all are used."""
    n = sum(folds.left_out.values())
    return f"note: {plural(n, 'post is', 'posts are')} left out ({_told(folds.left_out)})" if n else None


def _told(left_out: dict[str, int]) -> str:
    return ", ".join(f"{n:,} with {reason}" for reason, n in left_out.items() if n)
