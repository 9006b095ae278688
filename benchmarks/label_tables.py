"""Finished cells made models again, and compared: what `more_labels.py` and `human_labels.py` share of their tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from label_cells import FIELDS, Cell, CellFolder, Lab
from scipy.special import log_softmax, logsumexp

from cotune.benchmark import read_results
from cotune.benchmark.compare import BOOTSTRAP, corrected_t_test, paired_test, scored
from cotune.metrics import Estimate, paired_p
from cotune.metrics.intervals import percentile_interval, resamples
from cotune.metrics.scores import ScoreSheet
from cotune.tasks import Task

VIEWS = ("all", *FIELDS)
Floats = np.ndarray


@dataclass(frozen=True)
class Model:
    """What one or several trainings of a kind say of all posts, out of fold.

    Attributes
    ----------
    title : str
        What tables call it.
    task : Task
        What its outputs mean.
    outputs : dict of str to ndarray
        By what is present (all, text, image): outputs, shape (S, N, n_outputs) for S trainings whose scores are
        averaged; NaN for posts of other folds.
    pull : ndarray
        Today's conflict score, shape (S, N).
    folds : tuple of int
        The folds that are finished.
    seconds : float
        Mean time of a fold, all its trainings together.
    """

    title: str
    task: Task
    outputs: dict[str, Floats]
    pull: Floats
    folds: tuple[int, ...]
    seconds: float

    def predictions(self, view: str = "all") -> Floats:
        """Return what the task predicts, shape (S, N, n_predictions)."""
        found = self.outputs[view]
        made = self.task.predictions(torch.from_numpy(found.reshape(-1, found.shape[-1])).double()).numpy()
        return np.asarray(made.reshape(*found.shape[:-1], -1))

    @cached_property
    def classes(self) -> Floats:
        """Class probabilities with everything present, shape (S, N, C)."""
        return np.stack([self.task.of_classes(table) for table in self.predictions()])

    def of_field(self, field: str, view: str) -> Floats:
        """Return probabilities of a field's label, those of the class where the model knows no labels of fields."""
        found = self.predictions(view)
        parts = getattr(self.task, "parts", None)
        if parts is None:
            return found
        return np.stack([parts(table)[field] for table in found])

    def conflict(self) -> Floats | None:
        """Return the probability of a contradiction, shape (S, N); None where the model has none."""
        found = getattr(self.task, "conflict", None)
        return None if found is None else np.stack([found(table) for table in self.predictions()])

    def mean(self, title: str) -> Model:
        """Return the model that predicts the mean of the trainings' probabilities of their outputs."""
        outputs = {
            view: (logsumexp(log_softmax(found, axis=-1), axis=0) - np.log(len(found)))[None]
            for view, found in self.outputs.items()
        }
        pull = self.pull.mean(axis=0, keepdims=True)
        return replace(self, title=title, outputs=outputs, pull=pull, seconds=self.seconds * len(self.pull))

    def first(self, n: int) -> Model:
        """Return the first trainings alone."""
        return replace(self, outputs={view: found[:n] for view, found in self.outputs.items()}, pull=self.pull[:n])


def gathered(lab: Lab, title: str, trainings: Sequence[Callable[[int], Cell]]) -> Model | None:
    """Return the model of some trainings, each a function of the fold; None while no fold has all of them."""
    folder: CellFolder = lab.folder
    of_fold = {fold: [make(fold) for make in trainings] for fold in range(lab.labelled.n_folds)}
    whole = tuple(fold for fold, cells in of_fold.items() if all(folder.has(cell) for cell in cells))
    if not whole:
        return None
    task = lab.task(of_fold[whole[0]][0].annotated)
    shape = (len(trainings), len(lab.labelled.posts))
    outputs = {view: np.full((*shape, task.n_outputs), np.nan) for view in VIEWS}
    pull, seconds = np.full(shape, np.nan), []
    for fold in whole:
        for i, cell in enumerate(of_fold[fold]):
            found = folder.load(cell)
            for view in VIEWS:
                outputs[view][i, found["rows"]] = found[view].astype(float)
            pull[i, found["rows"]] = found["pull"]
            seconds.append(float(found["seconds"]))
    return Model(title, task, outputs, pull, whole, float(np.mean(seconds)))


def of_seeds(lab: Lab, row: str, seeds: Sequence[int], title: str) -> Model | None:
    """Return the model of the seeds of a row of single trainings that are finished, of as many folds as the first."""
    found = None
    for n in range(1, len(seeds) + 1):
        more = gathered(lab, title, [lambda fold, seed=seed: Cell(row, fold, seed) for seed in seeds[:n]])
        if more is None or (found is not None and more.folds != found.folds):
            break
        found = more
    return found


def of_members(lab: Lab, row: str, members: int, title: str) -> Model | None:
    """Return the model of a student or a soup, or of the members that teach."""
    numbers = range(members) if row.startswith("taught") else [None]
    return gathered(lab, title, [lambda fold, i=i: Cell(row, fold, members=members, member=i) for i in numbers])


def mixed(lab: Lab, models: Sequence[Model], title: str) -> Model:
    """Return the mean of the class probabilities of all trainings of some models, of any tasks."""
    outputs = {}
    for view in VIEWS:
        each = [model.task.of_classes(table) for model in models for table in model.predictions(view)]
        outputs[view] = np.log(np.mean(each, axis=0))[None]
    folds = tuple(sorted(set.intersection(*(set(model.folds) for model in models))))
    seconds = sum(model.seconds * len(model.pull) for model in models)
    return Model(title, lab.labelled.classes, outputs, np.full((1, len(lab.labelled.y)), np.nan), folds, seconds)


def kept_records(lab: Lab, folder: Path, title: str) -> Model | None:
    """Return `joint` of the results folder of `cotune bench`; None where it holds other posts or folds."""
    if not folder.exists():
        return None
    found, posts = read_results(folder), lab.labelled
    places = {str(identity): i for i, identity in enumerate(posts.posts["id"])}
    at = np.asarray([places.get(str(identity), -1) for identity in found.folds.ids])
    if (at < 0).any() or not np.array_equal(posts.fold[at], found.folds.fold):
        return None
    row = next(row for key, row in found.rows.items() if key.method == "joint")
    outputs = np.full((len(row.proba), len(posts.y), row.proba.shape[2]), np.nan)
    outputs[:, at] = np.log(row.proba)
    views, pull = dict.fromkeys(VIEWS, outputs), np.full(outputs.shape[:2], np.nan)
    return Model(title, posts.classes, views, pull, tuple(range(posts.n_folds)), row.mean("seconds"))


@dataclass(frozen=True)
class Compared:
    """Scores of a model on the posts with a class, and how it differs from another: itself minus the other."""

    scores: dict[str, Estimate]
    difference: Any = None
    fold_difference: float = float("nan")
    fold_p: float = float("nan")


def compared(lab: Lab, classes: Floats, folds: Sequence[int], other: tuple[Floats, Sequence[int]] | None) -> Compared:
    """Score class probabilities of shape (S, N, C), and test them against another model's on their common folds.

    Over posts by a paired bootstrap, over folds by the corrected resampled t-test.
    """
    found, task = lab.labelled, lab.labelled.classes
    shared = sorted(folds if other is None else set(folds) & set(other[1]))
    at = np.flatnonzero(np.isin(found.fold, shared) & (found.y >= 0))

    def resampled() -> Iterator[Floats]:
        return resamples(len(at), BOOTSTRAP, 0)

    def drawn(tables: Floats, names: Sequence[str]) -> tuple[dict[str, Estimate], Floats]:
        return scored(task, found.y[at], tables[:, at], resampled, names)

    scores, own = drawn(classes, ("auc", "accuracy", "weighted_f1"))
    if other is None:
        return Compared(scores)
    theirs = drawn(other[0], ("auc",))[1]
    difference = paired_test(task, found.y[at], (classes[:, at], own), (other[0][:, at], theirs))
    gaps = np.asarray([_auc(lab, classes, fold) - _auc(lab, other[0], fold) for fold in shared])
    ratio = 1 / (found.n_folds - 1)
    return Compared(scores, difference, float(gaps.mean()), corrected_t_test(gaps, ratio))


def _auc(lab: Lab, classes: Floats, fold: int) -> float:
    found, task = lab.labelled, lab.labelled.classes
    at = np.flatnonzero((found.fold == fold) & (found.y >= 0))
    return float(np.mean([task.score(found.y[at], task.normalised(table[at]))["auc"] for table in classes]))


def main_table(lab: Lab, models: Sequence[Model], against: Model | None) -> list[str]:
    """Return the rows of a table of models, each tested against one of them."""
    name = "" if against is None else against.title
    head = ["model", "folds", "AUC", "accuracy", "weighted F1", f"AUC minus {name}", "p, posts", "p, folds", "s a fold"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for model in models:
        other = None if against is None or model is against else (against.classes, against.folds)
        found = compared(lab, model.classes, model.folds, other)
        cells = [model.title, str(len(model.folds)), *map(written, found.scores.values())]
        if found.difference is None:
            cells += [""] * 3
        else:
            cells += [signed(found.difference), p_value(found.difference.p), p_value(found.fold_p)]
        lines.append(f"| {' | '.join([*cells, f'{model.seconds:.1f}'])} |")
    return lines


@dataclass(frozen=True)
class Drawn:
    """A score with its interval, and what it is in each resample."""

    estimate: Estimate
    draws: Floats

    def minus(self, other: Drawn) -> tuple[Estimate, float]:
        """Return the difference on the same resamples, with interval and p-value."""
        gap = self.draws - other.draws
        gap = gap[~np.isnan(gap)]
        value = self.estimate.value - other.estimate.value
        return Estimate(value, *percentile_interval(gap, 0.95)), paired_p(gap)


def draw_scores(n: int, scores: Sequence[Callable[[Floats], Floats]]) -> Drawn:
    """Return the mean of scores, each a function of counts of shape (B, n), over `n` posts."""
    once = np.ones((1, n))
    value = float(np.mean([score(once)[0] for score in scores]))
    draws = np.concatenate(
        [np.mean([score(block) for score in scores], axis=0) for block in resamples(n, BOOTSTRAP, 0)]
    )
    return Drawn(Estimate(value, *percentile_interval(draws[~np.isnan(draws)], 0.95)), draws)


def auc_of(truth: Floats, tables: Floats) -> Drawn:
    """Return the AUC (macro one-vs-rest) of class probabilities (S, n, C), or of scores (S, n), the mean over S."""
    two = tables if tables.ndim == 3 else np.stack([-tables, tables], axis=2)
    return draw_scores(len(truth), [ScoreSheet(truth, table).auc for table in two])


def accuracy_of(truth: Floats, tables: Floats) -> Drawn:
    """Return the accuracy of class probabilities (S, n, C), the mean over S."""
    return draw_scores(len(truth), [ScoreSheet(truth, table).accuracy for table in tables])


def first_of(truth: Floats, tables: Floats, n: int = 50) -> Drawn:
    """Return how many of the first `n` posts by scores (S, N) are true, as a part, the mean over S."""

    def score(order: Floats, counts: Floats) -> Floats:
        drawn = counts[:, order]
        # A post that was drawn several times counts as often, until `n` are together.
        taken = np.diff(np.minimum(drawn.cumsum(axis=1), n), axis=1, prepend=0)
        return np.asarray((taken * truth[order]).sum(axis=1) / n)

    orders = [np.argsort(-table, kind="stable") for table in tables]
    return draw_scores(len(truth), [lambda counts, order=order: score(order, counts) for order in orders])


def written(estimate: Estimate, digits: int = 4) -> str:
    """Return a score with its interval."""
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"


def signed(found: Any) -> str:
    """Return a difference with its interval."""
    value = found.difference if hasattr(found, "difference") else found.value
    return f"{value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def p_value(p: float) -> str:
    """Return a p-value with three digits."""
    return "<.001" if p < 0.001 else f"{p:.3f}"
