"""Finished cells gathered into rows; everything here comes from the saved predictions alone."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cotune.benchmark import predictions, results_store
from cotune.benchmark.folds import FILE as FOLDS
from cotune.benchmark.folds import Folds
from cotune.benchmark.methods import METHODS
from cotune.benchmark.plan import Cell, short_name
from cotune.benchmark.records import Record
from cotune.errors import RunError


@dataclass(frozen=True, order=True)
class RowKey:
    """What a row of the table is about: a method and the encoders it used."""

    method: str
    text: str
    image: str

    @classmethod
    def of(cls, cell: Cell) -> RowKey:
        """Return the row that a cell belongs to."""
        return cls(cell.method, cell.text, cell.image)

    @property
    def title(self) -> str:
        """The method's title, or its name if it is registered no longer."""
        return METHODS[self.method].title if self.method in METHODS else self.method

    @property
    def encoders(self) -> str:
        """The encoders' short names."""
        return " + ".join(dict.fromkeys(short_name(name) for name in (self.text, self.image) if name))


@dataclass
class Row:
    """All predictions of one row, brought into the order of the posts.

    Attributes
    ----------
    key : RowKey
        Which row.
    proba : ndarray
        Probabilities or values, shape (seeds, posts, outputs); NaN where a fold is not done. Those of labels of fields
        are in `records` alone: a method need not give any.
    emap : ndarray or None
        The additive projection's predictions in the same form.
    records : list of Record
        What it was gathered from.
    seeds : list of int
        Seeds of training.
    """

    key: RowKey
    proba: np.ndarray
    emap: np.ndarray | None
    records: list[Record]
    seeds: list[int]

    @property
    def complete(self) -> bool:
        """Whether every post has been scored with every seed."""
        return not bool(np.isnan(self.proba).any())

    def folds_done(self, folds: Folds) -> int:
        """Return how many folds are scored with every seed, whether or not their score is defined."""
        done = ~np.isnan(self.proba).any(axis=(0, 2))
        return sum(bool(done[folds.test(fold)].all()) for fold in range(folds.n_folds))

    def fold_aucs(self, folds: Folds, *, emap: bool = False) -> np.ndarray:
        """Return the main score of each fold, mean over seeds, shape (folds,); NaN for a fold not done.

        With `emap`, shape (folds, 2): before and after the projection, on the posts it was computed for.
        """
        n_folds = folds.n_folds
        result = np.full((n_folds, 2) if emap else n_folds, np.nan)
        for fold in range(n_folds):
            test = folds.test(fold)
            if not emap:
                scores = [_score(folds, test, proba) for proba in self.proba]
                result[fold] = np.mean(scores)
                continue
            assert self.emap is not None
            here = test[~np.isnan(self.emap[:, test]).any(axis=(0, 2))]
            if len(here):
                result[fold] = [
                    np.mean([_score(folds, here, table) for table in tables]) for tables in (self.proba, self.emap)
                ]
        return result

    def mean(self, what: str) -> float:
        """Return the mean of ``seconds`` or of a number of parameters over the cells; NaN if unknown."""
        if what == "seconds":
            return float(np.mean([record.seconds for record in self.records]))
        known = [record.parameters[what] for record in self.records if what in record.parameters]
        return float(np.mean(known)) if known else float("nan")


@dataclass
class Results:
    """All that a results folder holds.

    Attributes
    ----------
    settings : dict
        Protocol, folds, data hash, settings of training.
    folds : Folds
        The posts.
    rows : dict
        Rows of the whole training part, by key, methods in the registry's order.
    shots : dict
        ``(key, shots, draw)`` to the AUC of each fold, mean over seeds.
    failures : dict
        Reasons of the cells that failed last.
    asked : list of str
        Methods that were asked for.
    seconds : float
        Total compute time, shared preparation included.
    versions : dict
        Of the libraries that computed it.
    test_over_train : float
        Mean number of posts scored in a fold, over that of posts trained on.
    duplicated : int or None
        Of published folds: how many posts are scored by models trained on a near-duplicate of them.
    """

    settings: dict[str, Any]
    folds: Folds
    rows: dict[RowKey, Row]
    shots: dict[tuple[RowKey, int, int], np.ndarray] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    test_over_train: float = math.nan
    duplicated: int | None = None

    def not_run(self) -> dict[str, str]:
        """Return the methods that were asked for and have no cell at all, with the reason."""
        there = {key.method for key in self.rows} | {key.method for key, _, _ in self.shots}
        found = {}
        for name in self.asked:
            if name not in there:
                clip = name in METHODS and METHODS[name].encoders == "clip"
                found[name] = "not run: needs --clip MODEL" if clip else "not run"
        return found


def read_results(out: str | Path) -> Results:
    """Read a results folder.

    Raises
    ------
    RunError
        If it is none, holds no finished cell, or mixes cells of different pretrained weights.
    """
    out = Path(out)
    stored = results_store.read_settings(out)
    whole = Folds.load(out / FOLDS)
    folds = whole.scored()
    grouped: dict[tuple[RowKey, int | None, int], list[Record]] = defaultdict(list)
    marks: dict[tuple[str, str], tuple[str, str]] = {}
    seconds, versions = 0.0, {}
    for record in predictions.read(out):
        grouped[RowKey.of(record.cell), record.cell.shots, record.cell.draw].append(record)
        _refuse_mixture(record, marks)
        if record.cell.method not in METHODS or METHODS[record.cell.method].run is not None:
            seconds += record.seconds + record.prepare_seconds
        versions = record.versions
    if not grouped:
        raise RunError(f"{out} holds no finished cell yet; `cotune bench POSTS --out {out} --resume` computes them")
    order = {name: i for i, name in enumerate(METHODS)}
    grouped = defaultdict(list, sorted(grouped.items(), key=lambda item: _place(item[0], order)))
    places = {str(identity): i for i, identity in enumerate(folds.ids)}
    rows: dict[RowKey, Row] = {}
    shots: dict[tuple[RowKey, int, int], np.ndarray] = {}
    for (key, size, draw), records in grouped.items():
        row = _row(key, records, folds, places)
        if size is None:
            rows[key] = row
        else:
            shots[key, size, draw] = row.fold_aucs(folds)
    failures, asked = results_store.read_failures(out), list(stored.get("methods", []))
    duplicated = None if whole.roles is None else whole.duplicated()
    ratio = whole.test_over_train()
    return Results(stored["settings"], folds, rows, shots, failures, asked, seconds, versions, ratio, duplicated)


def _place(key: tuple[RowKey, int | None, int], order: dict[str, int]) -> tuple[Any, ...]:
    row, size, draw = key
    return order.get(row.method, len(order)), row.method, row.text, row.image, size is None, size or 0, draw


def _refuse_mixture(record: Record, marks: dict[tuple[str, str], tuple[str, str]]) -> None:
    pair = " + ".join(name for name in (record.cell.text, record.cell.image) if name)
    names = {"text": record.cell.text, "image": record.cell.image}
    for name, mark in record.encoders.items():
        encoder = names.get(name) or pair
        before, key = marks.setdefault((name, encoder), (mark, record.cell.key))
        if before != mark:
            raise RunError(
                f"the cells {key} and {record.cell.key} were computed with different weights of {encoder} for the "
                f"{name}; run the benchmark again in another folder"
            )


def _row(key: RowKey, records: list[Record], folds: Folds, places: dict[str, int]) -> Row:
    seeds = sorted({record.cell.seed for record in records})
    shape = (len(seeds), len(folds.ids), folds.task.n_predictions)
    proba = np.full(shape, np.nan)
    emap = np.full(shape, np.nan) if all(record.emap is not None for record in records) else None
    for record in records:
        try:
            at = [places[identity] for identity in record.ids]
        except KeyError as unknown:
            raise RunError(f"cell {record.cell.key} scored the post {unknown}, which is in no fold") from unknown
        seed = seeds.index(record.cell.seed)
        proba[seed, at] = record.proba
        if emap is not None and record.emap is not None:
            emap[seed, at] = record.emap
    of_classes = folds.task.of_classes
    return Row(key, of_classes(proba), None if emap is None else of_classes(emap), records, seeds)


def _score(folds: Folds, rows: np.ndarray, found: np.ndarray) -> float:
    """Return the main score of the posts at `rows`; NaN if some are not done."""
    if np.isnan(found[rows]).any():
        return float("nan")
    return folds.task.score(folds.targets[rows], found[rows])[folds.task.main_score]
