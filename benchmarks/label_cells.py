"""Posts with labels of their fields, their folds, and trainings whose outputs are kept: what two scripts share.

`more_labels.py` trains and makes tables, `human_labels.py` reads the same cells. Posts with a class have the folds of
`cotune bench posts.csv --folds 10` (grouped, seed 42). Posts whose field labels contradict each other have no class:
each is put into the fold of its near-duplicates, else into one at random, is scored in that fold, and is trained on in
the others unless a near-duplicate of it is scored there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax

from cotune.benchmark.bench import computed
from cotune.benchmark.folds import cut_posts
from cotune.benchmark.methods import embed_rows
from cotune.benchmark.plan import Plan
from cotune.data.duplicates import near_duplicate_groups
from cotune.data.posts import read_posts
from cotune.files import atomic_path
from cotune.heads.contributions import contributions
from cotune.settings import FitConfig, make_config
from cotune.tasks import Task, make_task
from cotune.tasks.choose import task_of_posts
from cotune.training import distillation, soup
from cotune.training.build import open_encoders, prepare_posts
from cotune.training.features import Features
from cotune.training.members import member_config
from cotune.training.model_rows import output_rows
from cotune.training.trainer import Trained, Trainer
from cotune.training.training_data import TrainingData

FOLDS, SEED = 10, 42
FIELDS = ("text", "image")
PACKED = "cells.npz"
#: What only the training of a student reads.
_OF_TEACHING = ("apart", "taught")
_PATIENCE = 900  # seconds


@dataclass(frozen=True)
class LabelledPosts:
    """Posts, what people said of them, and where each is scored.

    Attributes
    ----------
    posts : DataFrame
        As :func:`cotune.data.posts.read_posts` gives it; ``label`` is missing where field labels contradict.
    fold : ndarray of int
        The fold each post is scored in, shape (N,).
    groups : ndarray of int
        Groups of near-duplicates, shape (N,).
    """

    posts: pd.DataFrame
    fold: np.ndarray
    groups: np.ndarray

    @cached_property
    def classes(self) -> Task:
        """The classes of posts as a single-label task."""
        return make_task("single-label", [label for label in self.posts["label"] if isinstance(label, str)])

    @cached_property
    def y(self) -> np.ndarray:
        """Class of every post, -1 for a contradiction, shape (N,)."""
        places = {name: i for i, name in enumerate(self.classes.outputs)}
        return np.asarray([places.get(label, -1) for label in self.posts["label"]], dtype=np.int64)

    @cached_property
    def marks(self) -> dict[str, np.ndarray]:
        """What people said of each field alone, as classes; by field, each of shape (N,)."""
        return {name: self.classes.encode(self.posts[f"label:{name}"].tolist()) for name in FIELDS}

    @property
    def n_folds(self) -> int:
        """How many folds there are."""
        return int(self.fold.max()) + 1

    def test(self, fold: int) -> np.ndarray:
        """Return the posts scored in a fold."""
        return np.flatnonzero(self.fold == fold)

    def train(self, fold: int, *, conflicts: bool, shots: int | None = None, draw: int = 0) -> np.ndarray:
        """Return the posts to train on where `fold` is scored.

        Parameters
        ----------
        fold : int
            What is kept apart.
        conflicts : bool
            Whether posts without a class are among them.
        shots, draw : int
            That many posts of each class alone, drawn as `cotune bench` draws them.
        """
        others = self.fold != fold
        rows = np.flatnonzero(others & (self.y >= 0))
        if shots is not None:
            chosen = []
            for label in range(len(self.classes.outputs)):
                random = np.random.default_rng([SEED, fold, draw, label])
                chosen.append(random.permutation(rows[self.y[rows] == label])[:shots])
            return np.sort(np.concatenate(chosen))
        if conflicts:
            near = np.isin(self.groups, self.groups[self.test(fold)])
            rows = np.sort(np.concatenate([rows, np.flatnonzero(others & (self.y < 0) & ~near)]))
        return rows


def read_labelled(table: Path, folds: Path, n_folds: int = FOLDS) -> LabelledPosts:
    """Read a table with the columns ``label:text`` and ``label:image``, and its folds; cut and keep them if need be.

    Posts come in the order of the folds' file, as cells name them by their place.
    """
    posts = read_posts(table)
    missing = [f"label:{name}" for name in FIELDS if f"label:{name}" not in posts]
    if missing:
        raise SystemExit(f"{table} has no column {missing[0]}; `cotune import mvsa --annotations` writes it")
    if not folds.exists():
        fold, groups = cut(posts, n_folds)
        with atomic_path(folds) as temporary:
            pd.DataFrame({"id": posts["id"], "fold": fold, "group": groups}).to_csv(temporary, index=False)
    kept = pd.read_csv(folds, dtype={"id": str})
    places = {str(identity): at for at, identity in enumerate(posts["id"])}
    if places.keys() != set(kept["id"]) or len(kept) != len(posts):
        raise SystemExit(f"{folds} holds folds of other posts; name another folder")
    posts = posts.iloc[[places[identity] for identity in kept["id"]]].reset_index(drop=True)
    return LabelledPosts(posts, kept["fold"].to_numpy(), kept["group"].to_numpy())


def cut(posts: pd.DataFrame, n_folds: int = FOLDS) -> tuple[np.ndarray, np.ndarray]:
    """Return each post's fold and its group of near-duplicates, both of shape (N,)."""
    named = posts["label"].notna().to_numpy()
    config = FitConfig(task="single-label")
    plain = posts.drop(columns=[name for name in posts if str(name).startswith("label:")])
    plan = Plan(("joint",), ((config.text_encoder, config.image_encoder),), n_folds, fold_seed=SEED, fit=config)
    folds = cut_posts(plain[named].reset_index(drop=True), plan)
    if len(folds.ids) != named.sum():
        raise SystemExit(f"posts that cannot be read: {folds.left_out}; leave them out of the table")
    fold = np.full(len(posts), -1, dtype=np.int64)
    fold[named] = folds.fold
    groups = near_duplicate_groups(plain)
    random = np.random.default_rng(SEED)
    of_group = {int(group): int(at) for group, at in zip(groups[named][::-1], fold[named][::-1], strict=True)}
    for at in np.flatnonzero(~named):
        fold[at] = of_group.setdefault(int(groups[at]), int(random.integers(n_folds)))
    return fold, groups


@dataclass(frozen=True)
class Cell:
    """One training, or what takes several of one fold.

    Attributes
    ----------
    row : str
        What is done, ``plain``, ``few``, ``taught``, ``distilled`` or ``soup``, and whether field labels are learned
        from, as in ``distilled-annotated``; ``plain`` and ``annotated`` are the plain rows.
    fold : int
        What is kept apart and scored.
    seed : int
        Of the training, or of the first of several.
    shots, draw : int
        Posts of each class to train on, None for all; which draw of them.
    members, member : int
        How many members there are, and which of them this is.
    """

    row: str
    fold: int
    seed: int = SEED
    shots: int | None = None
    draw: int = 0
    members: int = 0
    member: int | None = None

    @property
    def key(self) -> str:
        """A name for the cell's file."""
        few = [] if self.shots is None else [f"{self.shots}d{self.draw}"]
        some = [] if not self.members else [f"{self.members}members"]
        one = [] if self.member is None else [f"member{self.member}"]
        return "-".join([self.row, f"fold{self.fold}", f"seed{self.seed}", *few, *some, *one])

    @property
    def kind(self) -> str:
        """What is done: the row without what it learns from."""
        return self.row.split("-")[0] if "-" in self.row else "single"

    @property
    def annotated(self) -> bool:
        """Whether it learns from the labels of fields."""
        return self.row.endswith("annotated")

    @property
    def needs(self) -> list[Cell]:
        """The cells whose outputs it learns from."""
        if self.kind != "distilled":
            return []
        own = replace(self, row=self.row.replace("distilled", "taught"))
        return [replace(own, member=i) for i in range(self.members)]


@dataclass
class Lab:
    """All that trainings share in a process: posts, encoders, and what is computed of the posts once."""

    labelled: LabelledPosts
    config: FitConfig
    folder: CellFolder
    until: float = math.inf

    @cached_property
    def features(self) -> Features:
        """The prepared posts, with all stored that a training reads."""
        features = prepare_posts(self.labelled.posts, open_encoders(self.config), self.config)
        if len(features.faults):
            raise SystemExit(f"{len(features.faults)} images cannot be read, the first: {features.faults}")
        return computed(features, self.config)

    def data(self, cell: Cell) -> tuple[TrainingData, Task]:
        """Return what a cell is trained on, and its task."""
        found, task = self.labelled, self.task(cell.annotated)
        rows = found.train(cell.fold, conflicts=cell.annotated, shots=cell.shots, draw=cell.draw)
        return TrainingData(self.features, found.y, rows, learned=self._learned if cell.annotated else None), task

    @cached_property
    def _annotated(self) -> Task:
        return task_of_posts(self.labelled.posts, self.settings(Cell("annotated", 0)))

    @cached_property
    def _learned(self) -> np.ndarray | None:
        return self._annotated.learned(self._annotated.complete(self.labelled.posts))

    def task(self, annotated: bool) -> Task:
        """Return the task of posts' classes, or that of their fields' labels as well, by the rule of Xu and Mao."""
        return self._annotated if annotated else self.labelled.classes

    def settings(self, cell: Cell) -> FitConfig:
        """Return the settings of a cell's training."""
        named = {"task": "annotated", "rule": "xu-mao"} if cell.annotated else {"task": "single-label"}
        return self.config.model_copy(update={"seed": cell.seed, **named})

    def train(self, cell: Cell) -> dict[str, np.ndarray]:
        """Train a cell and return the outputs of the posts it scores, as :meth:`outputs` gives them.

        A member that teaches gives ``apart`` and ``taught`` as well: positions of the training posts that it was
        trained without, and its outputs for them.
        """
        (data, task), config, groups = self.data(cell), self.settings(cell), self.labelled.groups
        if cell.kind in ("single", "few"):
            return self.outputs(Trainer(data, task, config).fit(), task, cell)
        if cell.kind == "soup":
            rest, chosen_on = soup.keep_apart(data, task, groups=groups, seed=config.seed)
            found = soup.soup(soup.soup_members(rest, task, config, cell.members), task, chosen_on)
            return self.outputs(found.trained, task, cell)
        if cell.kind == "distilled":
            taught, n = np.zeros((len(data.targets), task.n_outputs)), np.zeros((len(data.targets), 1))
            for part in self.folder.wait_for(cell.needs, self.until):
                taught[part["apart"]] += softmax(part["taught"], axis=1)
                n[part["apart"]] += 1
            if not n[data.rows].all():
                raise ValueError("its members left out training posts; delete their cells")
            taught = np.where(n, taught / np.maximum(n, 1), np.nan)
            return self.outputs(distillation.student(data, task, config, taught), task, cell)
        assert cell.member is not None
        parts = distillation.cut_parts(data, task, cell.members, groups=groups, seed=config.seed)
        apart = parts == cell.member % (parts.max() + 1)
        own = member_config(config, cell.member)
        trained = Trainer(replace(data, rows=data.rows[~apart]), task, own).fit()
        found = output_rows(trained.model, self.features, data.rows[apart], trained.source)
        return self.outputs(trained, task, cell) | {"apart": data.rows[apart], "taught": found}

    def outputs(self, trained: Trained, task: Task, cell: Cell) -> dict[str, np.ndarray]:
        """Return a model's outputs of the posts that a cell scores.

        Returns
        -------
        dict
            ``rows``, positions (n,); ``all``, ``text``, ``image``, outputs with everything present and with one field
            alone, (n, n_outputs); ``pull``, today's conflict score (n,).
        """
        rows, head = self.labelled.test(cell.fold), trained.model.head
        embedded = embed_rows(trained.model, self.features, rows, trained.source)
        found = {"rows": rows.astype(np.int32)}
        with torch.inference_mode():
            for name in ("all", *FIELDS):
                left = torch.tensor([name in ("all", field) for field in head.fields], device=embedded.present.device)
                outputs = head(embedded.with_present(embedded.present & left))
                found[name] = outputs.float().cpu().numpy()
            found["pull"] = contributions(head, task, embedded).conflict().float().cpu().numpy()
        return found


class CellFolder:
    """Outputs of finished cells, a small file each.

    Parameters
    ----------
    folder : Path
        Where they lie; made when absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, cell: Cell) -> Path:
        """Return the file of a cell."""
        return self.folder / f"{cell.key}.npz"

    @cached_property
    def packed(self) -> dict[str, dict[str, np.ndarray]]:
        """What :meth:`pack` wrote, by the cells' keys."""
        found: dict[str, dict[str, np.ndarray]] = {}
        if (self.folder / PACKED).exists():
            with np.load(self.folder / PACKED, allow_pickle=False) as kept:
                for name in kept.files:
                    key, part = name.rsplit("/", 1)
                    found.setdefault(key, {})[part] = kept[name]
        return found

    def has(self, cell: Cell) -> bool:
        """Tell whether a cell is finished."""
        return cell.key in self.packed or self.path(cell).exists()

    def load(self, cell: Cell) -> dict[str, np.ndarray]:
        """Return what is kept of a finished cell."""
        if cell.key in self.packed:
            return self.packed[cell.key]
        with np.load(self.path(cell), allow_pickle=False) as found:
            return dict(found)

    def every(self) -> dict[str, dict[str, np.ndarray]]:
        """Return all finished cells by their keys."""
        files = sorted(path for path in self.folder.glob("*.npz") if path.name != PACKED)
        found = dict(self.packed)
        for path in files:
            with np.load(path, allow_pickle=False) as cell:
                found[path.stem] = dict(cell)
        return found

    def pack(self, out: Path) -> None:
        """Write one file with all that tables read, as half-precision numbers: small enough for a repository."""
        parts = {
            f"{key}/{name}": array.astype(np.float16) if array.dtype.kind == "f" and array.ndim else array
            for key, cell in self.every().items()
            for name, array in cell.items()
            if name not in _OF_TEACHING
        }
        out.mkdir(parents=True, exist_ok=True)
        with atomic_path(out / PACKED) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **parts)

    def keep(self, cell: Cell, found: Mapping[str, Any], **figures: float) -> None:
        """Keep the outputs of a cell; a file is there in whole or not at all."""
        if not all(np.isfinite(array).all() for array in found.values()):
            raise ValueError(f"{cell.key}: outputs that are no numbers")
        with atomic_path(self.path(cell)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **found, **{name: np.float32(value) for name, value in figures.items()})

    def wait_for(self, cells: Sequence[Cell], until: float) -> list[dict[str, np.ndarray]]:
        """Return what is kept of cells that were begun before, perhaps by other processes, once they are finished."""
        until = min(until, time.time() + _PATIENCE)
        while not (done := all(self.path(cell).exists() for cell in cells)) and time.time() < until:
            time.sleep(1)
        if done:
            return [self.load(cell) for cell in cells]
        raise ValueError(f"no {' nor '.join(c.key for c in cells if not self.path(c).exists())}")


def setup(table: Path, out: Path, settings: Mapping[str, Any], until: float) -> Lab:
    """Return what trainings share in a process; encoders are open, and what they compute once is on disk."""
    lab = Lab(read_labelled(table, out / "folds.csv"), make_config(dict(settings)), CellFolder(out), until)
    lab.features  # noqa: B018
    return lab


def train(lab: Lab, cell: Cell) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Train a cell, unless the time is over."""
    if time.time() > lab.until:
        raise TimeoutError("not begun, as the time is over")
    return lab.train(cell), {}
