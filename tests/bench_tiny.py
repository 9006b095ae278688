"""Small benchmarks for the tests of what uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cotune.benchmark import METHODS, Cell, Method, Outcome, Plan, predictions
from cotune.benchmark.folds import FILE, Folds
from cotune.benchmark.methods import Trial
from cotune.benchmark.records import Record
from cotune.benchmark.results_store import begin
from cotune.tasks.single_label import SingleLabel
from runs import tiny_config
from tiny import Zoo, make_posts

FAST = "fast"


def fast(trial: Trial) -> Outcome:
    """Score posts by nothing but their number and the seed; no training, so that runs take no time."""
    random = np.random.default_rng([trial.config.seed, int(trial.test.sum()), len(trial.train)])
    noise = random.random((len(trial.test), trial.task.n_outputs))
    noise[np.arange(len(trial.test)), trial.targets[trial.test]] += 0.5
    return Outcome(noise / noise.sum(axis=1, keepdims=True), {"total": 10, "trained": 5})


if FAST not in METHODS:
    METHODS.add(FAST, Method("Fast", run=fast))


def tiny_plan(zoo: Zoo, cache: Path, *, methods: tuple[str, ...] = (FAST,), **more: Any) -> Plan:
    """Return a plan over tiny encoders."""
    text, image = more.pop("text", "distilbert"), more.pop("image", "timm-resnet")
    fit = more.pop("fit", {})
    config = tiny_config(zoo, cache, **{"probe_epochs": 2, "epochs": 1, **fit})
    settings = {"folds": 3, "protocol": "paper", "pairs": ((str(zoo(text)), str(zoo(image))),), **more}
    return Plan(methods=methods, fit=config, **settings)


def tiny_posts(folder: Path, n: int = 30, **more: Any) -> pd.DataFrame:
    """Return posts."""
    return make_posts(folder / "posts", n, **more)


def made_up(out: Path, plan: Plan, skill: dict[str, float], *, n: int = 120, classes: int = 3, seed: int = 0) -> Folds:
    """Write a results folder of made-up predictions; `skill` says how good each method is."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(n) % classes)
    folds = Folds(
        np.asarray([f"id{i}" for i in range(n)], dtype=object),
        labels.astype(np.int64),
        SingleLabel([f"class{k}" for k in range(classes)]),
        (np.arange(n) % plan.folds).astype(np.int64),
        np.arange(n),
        {"no label": 2},
        42,
    )
    begin(out, plan, "0" * 64, resume=True)
    folds.save(out / FILE)
    shared = random.normal(size=(n, classes))
    records = predictions.read(out)
    for cell in plan.cells():
        test = folds.test(cell.fold)
        own = np.random.default_rng([len(cell.method), cell.fold, cell.seed, cell.shots or 0, cell.draw])
        logits = shared[test] + own.normal(size=(len(test), classes)) * 0.3
        weight = skill.get(cell.method, 1.0) * (1.0 if cell.shots is None else cell.shots / (cell.shots + 8))
        logits[np.arange(len(test)), labels[test]] += weight
        proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        records.append(
            Record(
                cell,
                [str(identity) for identity in folds.ids[test]],
                proba,
                seconds=1.5 + len(cell.method),
                parameters={"total": 1000 * len(cell.method), "trained": 100},
                history=[{"stage": "top", "epoch": e, "train_loss": 1 / e, "seconds": 0.1} for e in (1, 2)],
                emap=proba[:, ::-1] if cell.method == "joint" and cell.shots is None else None,
                encoders={"text": f"mark-{cell.text}"} if cell.text else {},
                versions={"cotune": "0"},
            )
        )
    predictions.write(out, records)
    return folds


def record_of(out: Path, cell: Cell) -> Record:
    """Return the record of a finished cell."""
    return next(record for record in predictions.read(out) if record.cell == cell)


def forget(out: Path, *cells: Cell) -> None:
    """Remove finished cells from a results folder."""
    predictions.write(out, [record for record in predictions.read(out) if record.cell not in cells])
