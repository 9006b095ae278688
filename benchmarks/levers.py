"""Levers that may help `joint`, each measured alone: trained cell by cell, then told in one table.

    python benchmarks/read_image_text.py posts.csv --out image_text.csv                              # once, see there
    python benchmarks/levers.py prepare posts.csv --image-text image_text.csv --out columns.csv      # once
    python benchmarks/levers.py train posts.csv --columns columns.csv --out DIR --workers 8 [--folds 0,1 --seeds 42]
    python benchmarks/levers.py table DIR

The baseline is the recipe of ``cotune fit`` with its defaults (``top``), on class labels alone; ``--set
task=annotated`` measures levers on top of labels for each field. A cell is one lever, one fold, one seed; its
probabilities of the scored posts are a small file in DIR, and cells that are there are not trained again, so that a
stopped run resumes. `--levers a,b` takes some levers, `a+b` several at once; the command `list` names them. `--minutes`
starts no further training after that time. `--workers` processes train side by side, on the processor's cores or on one
GPU; each opens the posts once.

The folds are those of `cotune bench` (ten, near-duplicates kept together) cut with ANOTHER SEED, 7, than the folds on
which scores are reported (42): what is chosen here is chosen on other folds. They are cuts of the same posts all the
same, so that a lever that wins here by a hair is likely to win there by less. `--fold-seed 42` measures on the folds of
the reported scores what was chosen before.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lever_columns import prepare, with_columns
from lever_features import Opened, Viewed
from lever_recipes import BASELINE, LEVERS, Lever, LeverTrainer, lever

from cotune.benchmark.compare import corrected_t_test, paired_test, scored
from cotune.benchmark.folds import FILE, Folds, cut_posts, posts_of
from cotune.benchmark.methods import Trial
from cotune.benchmark.plan import ANCHOR, Plan
from cotune.data.posts import read_posts
from cotune.environment import environment
from cotune.errors import ConfigError, CotuneError, RunError
from cotune.files import atomic_path, read_json, write_json
from cotune.metrics import holm
from cotune.metrics.intervals import resamples
from cotune.settings import FitConfig, make_config
from cotune.training.device import training_device
from cotune.training.features import Features
from cotune.training.model_rows import predict_rows
from cotune.training.training_data import TrainingData

FOLD_SEED = 7
_WHERE = ("cache", "cache_gb", "device", "engine")  # settings that change no result


@dataclass(frozen=True)
class Job:
    """What a worker does in one go: a training, scored for each lever that shares it."""

    names: tuple[str, ...]
    fold: int
    seed: int


@dataclass
class Task:
    """What a worker needs to begin."""

    posts: Path
    columns: Path | None
    out: Path
    settings: dict[str, Any]
    until: float
    threads: int


# ---- training -------------------------------------------------------------------------------------------------------


class Worker:
    """Trains cells of one posts table in one process."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.folds = Folds.load(task.out / FILE)
        self.learned = self.folds.learned()
        self.config = make_config(task.settings)
        posts = posts_of(with_columns(read_posts(task.posts), task.columns), self.folds)
        self.opened = Opened(posts, self.config)

    def run(self, job: Job) -> str:
        """Train, keep the predictions of each lever, and return a line about it."""
        levers = {name: lever(name) for name in job.names}
        first = next(iter(levers.values()))
        seen = tuple(dict.fromkeys(view for one in levers.values() for view in one.seen))
        more = {"fields": first.fields} if first.more else {}
        config = make_config({**self.config.model_dump(), **first.settings, "seed": job.seed, **more})
        features = self.opened.features(first.fields, seen)
        test, folds = self.folds.test(job.fold), self.folds
        trial = Trial(
            features, folds.targets, folds.train(job.fold), test, folds.task, config, folds.groups, learned=self.learned
        )
        _show(features, 0)
        started = time.perf_counter()
        rows, weights = (trial.train, None) if first.choose is None else first.choose(trial)
        if len(first.views) > 1:
            _show(features, (np.random.default_rng([job.seed, job.fold]), [seen.index(v) for v in first.views]))
        else:
            _show(features, seen.index(first.views[0]))
        data = TrainingData(features, folds.targets, rows, weights, learned=self.learned)
        trained = LeverTrainer(data, folds.task, config, model=first.model).fit()
        seconds = time.perf_counter() - started
        by_view: dict[str, np.ndarray] = {}
        for view in seen:
            _show(features, seen.index(view))
            by_view[view] = predict_rows(trained.model, folds.task, features, test, trained.source)
        said = []
        for name, one in levers.items():
            proba = np.mean([by_view[view] for view in one.test_views or one.views], axis=0)
            with atomic_path(cell_file(self.task.out, name, job.fold, job.seed)) as temporary:
                np.savez(temporary, proba=proba.astype(np.float32), seconds=np.float64(seconds))
            score = folds.task.score(folds.targets[test], proba)[folds.task.main_score]
            said.append(f"{name} {score:.4f}")
        return f"fold {job.fold}  seed {job.seed}  {seconds:6.1f} s  {', '.join(said)}"


def _show(features: Features, what: Any) -> None:
    if isinstance(features.kept, Viewed):
        features.kept.show = what


_worker: Worker | None = None


def begin(task: Task) -> None:
    """Make this process a worker."""
    global _worker
    torch.set_num_threads(task.threads)
    _worker = Worker(task)


def work(job: Job, until: float) -> str | None:
    """Do a job in a worker; None if there is no time left for it."""
    if time.time() > until:
        return None
    assert _worker is not None
    try:
        return _worker.run(job)
    except Exception as fault:
        short = str(fault) if isinstance(fault, CotuneError) else traceback.format_exc()
        return f"FAILED: {', '.join(job.names)} fold {job.fold} seed {job.seed}: {short}"


def train(task: Task, jobs: Sequence[Job], workers: int) -> int:
    """Do all jobs, and return how many failed."""
    print(f"{len(jobs):,} trainings, {workers} at once", flush=True)
    started, done, failed, left = time.perf_counter(), 0, 0, 0
    for line in _results(task, jobs, workers):
        done, failed, left = done + 1, failed + (line or "").startswith("FAILED"), left + (line is None)
        if line is not None:
            print(f"[{done}/{len(jobs)}, {time.perf_counter() - started:.0f} s] {line}", flush=True)
    print(f"{done - failed - left:,} trained, {failed} failed, {left} left for lack of time, "
          f"{time.perf_counter() - started:.0f} s", flush=True)  # fmt: skip
    return failed


def _results(task: Task, jobs: Sequence[Job], workers: int) -> Iterator[str | None]:
    if workers == 1:
        begin(task)
        yield from (work(job, task.until) for job in jobs)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=begin, initargs=(task,)) as pool:
        for future in as_completed([pool.submit(work, job, task.until) for job in jobs]):
            yield future.result()


def planned(out: Path, names: Sequence[str], folds: Sequence[int], seeds: Sequence[int]) -> list[Job]:
    """Return the jobs whose cells are not there yet: fold by fold, so that all levers have the same ones."""
    groups: list[tuple[Lever, list[str]]] = []
    for name in names:
        one = lever(name).trained
        same = next((group for other, group in groups if other == one), None)
        if same is None:
            groups.append((one, [name]))
        else:
            same.append(name)
    jobs = []
    for seed in seeds:
        for fold in folds:
            for _, group in groups:
                left = tuple(name for name in group if not cell_file(out, name, fold, seed).is_file())
                jobs += [Job(left, fold, seed)] if left else []
    return jobs


def cell_file(out: Path, name: str, fold: int, seed: int) -> Path:
    """Return where the predictions of a cell lie."""
    return out / "cells" / f"{name}-fold{fold}-seed{seed}.npz"


def make_folder(out: Path, posts: pd.DataFrame, n_folds: int, config: FitConfig, fold_seed: int = FOLD_SEED) -> Folds:
    """Cut the posts into folds, or read how it was done.

    Raises
    ------
    RunError
        If the folder is one of other posts, folds or settings.
    """
    kept = {key: value for key, value in config.model_dump(mode="json").items() if key not in _WHERE}
    about = {"n_folds": n_folds, "fold_seed": fold_seed, "fit": kept}
    if (out / FILE).is_file():
        folds, before = Folds.load(out / FILE), read_json(out / "about.json")
        labels = dict(zip(posts["id"].astype(str), posts["label"], strict=True))
        known = zip(folds.ids, folds.targets, strict=True)
        same = [labels.get(str(one), "") in (None, folds.classes[k]) for one, k in known]
        if not all(same) or {key: before[key] for key in about} != about:
            raise RunError(f"{out} is a folder of other posts, folds or settings; name another one")
    else:
        pair = ((config.text_encoder, config.image_encoder),)
        folds = cut_posts(posts, Plan((ANCHOR,), pair, n_folds, fold_seed=fold_seed, fit=config))
        folds.save(out / FILE)
    here = environment(fold_seed, None, training_device(config).type)  # of the machine that trains last
    write_json(out / "about.json", {**about, "environment": here})
    return folds


# ---- the table ------------------------------------------------------------------------------------------------------


@dataclass
class Cells:
    """What was measured of one lever, by (fold, seed)."""

    name: str
    proba: dict[tuple[int, int], np.ndarray]
    seconds: list[float]


def read_cells(out: Path) -> dict[str, Cells]:
    """Return what a folder holds, by lever: the baseline first, then in the order of the list, then combinations."""
    found: dict[str, Cells] = {}
    for path in sorted((out / "cells").glob("*.npz")):
        name, fold, seed = path.stem.rsplit("-", 2)
        with np.load(path, allow_pickle=False) as cell:
            cells = found.setdefault(name, Cells(name, {}, []))
            cells.proba[int(fold.removeprefix("fold")), int(seed.removeprefix("seed"))] = cell["proba"].astype(float)
            cells.seconds.append(float(cell["seconds"]))
    order = [*LEVERS]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def table(out: Path, n_bootstrap: int = 2000) -> str:
    """Return the table as markdown.

    Each lever is compared with the baseline on the posts of the folds, and with the seeds, that both have: with
    several seeds a score is the mean over seeds on the same resamples of the posts.
    """
    folds, cells = Folds.load(out / FILE), read_cells(out)
    if BASELINE not in cells:
        raise RunError(f"{out} holds no cell of {BASELINE}; train it first")
    rows = [_row(folds, cells[BASELINE], one, n_bootstrap) for one in cells.values()]
    tests = [row for row in rows if row["name"] != BASELINE]
    for key in ("p", "fold_p"):
        for row, p in zip(tests, holm([row[key] for row in tests]), strict=True):
            row[f"{key}_holm"] = p
    head = ["lever", "what", "folds x seeds", "AUC [95 %]", "accuracy [95 %]", "AUC - baseline [95 %]",
            "p, posts (Holm)", "p, folds (Holm)", "cells won", "s"]  # fmt: skip
    lines = [head, ["---"] * len(head), *(_written(row) for row in rows)]
    about = read_json(out / "about.json")
    machine = about["environment"]
    packages = ", ".join(f"{name} {machine['packages'][name]}" for name in ("torch", "transformers"))
    where = machine["gpu"] or machine["processor"]
    made = f"tune: {about['fit']['tune']}, {about['fit']['precision']}"
    told = f"{len(folds.ids):,} posts, {folds.n_folds} folds of seed {folds.seed}; {made}; {where}, {packages}"
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", told])


def _row(folds: Folds, baseline: Cells, one: Cells, n_bootstrap: int) -> dict[str, Any]:
    shared = set(one.proba) & set(baseline.proba)
    seeds = sorted({seed for _, seed in shared})
    whole = sorted({fold for fold, _ in shared if all((fold, seed) in shared for seed in seeds)})
    if not whole:
        raise RunError(f"{one.name} and {BASELINE} share no fold with the same seeds; train both on them")
    at = np.flatnonzero(np.isin(folds.fold, whole))
    targets, task = folds.targets[at], folds.task
    found, gaps = {}, {}
    for cells in (baseline, one):
        tables = np.zeros((len(seeds), len(folds.ids), task.n_predictions))
        for s, seed in enumerate(seeds):
            for fold in whole:
                tables[s, folds.test(fold)] = cells.proba[fold, seed]
        tables = tables[:, at]
        names = (task.main_score, "accuracy")
        found[cells.name] = tables, *scored(task, targets, tables, lambda: resamples(len(at), n_bootstrap, 0), names)
        gaps[cells.name] = np.asarray(
            [[_score(folds, fold, cells.proba[fold, seed]) for seed in seeds] for fold in whole]
        )
    (a, _, drawn_a), (b, _, drawn_b) = found[one.name], found[baseline.name]
    test = paired_test(task, targets, (a, drawn_a), (b, drawn_b))
    gap = gaps[one.name] - gaps[baseline.name]
    return {
        "name": one.name,
        "size": f"{len(whole)} x {len(seeds)}",
        "scores": found[one.name][1],
        "test": test,
        "p": test.p,
        "fold_p": corrected_t_test(gap.mean(axis=1), folds.test_over_train()),
        "won": f"{int((gap > 0).sum())} of {gap.size}",
        "seconds": float(np.median(one.seconds)),
    }


def _score(folds: Folds, fold: int, proba: np.ndarray) -> float:
    return folds.task.score(folds.targets[folds.test(fold)], proba)[folds.task.main_score]


def _written(row: dict[str, Any]) -> list[str]:
    auc, accuracy = (f"{one.value:.4f} [{one.low:.4f}, {one.high:.4f}]" for one in row["scores"].values())
    compared = ["", "", "", ""]
    if row["name"] != BASELINE:
        test = row["test"]
        pairs = [(row["p"], row["p_holm"]), (row["fold_p"], row["fold_p_holm"])]
        compared = [f"{test.difference:+.4f} [{test.low:+.4f}, {test.high:+.4f}]"]
        compared += [f"{p:.3f} ({p_holm:.3f})" if not math.isnan(p) else "" for p, p_holm in pairs]
        compared += [row["won"]]
    return [row["name"], lever(row["name"]).title, row["size"], auc, accuracy, *compared, f"{row['seconds']:.1f}"]


# ---- the commands ---------------------------------------------------------------------------------------------------


def main() -> None:
    """Do what the command says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="make the columns that some levers read")
    preparing.add_argument("posts", type=Path)
    preparing.add_argument("--image-text", type=Path, help="what read_image_text.py wrote")
    preparing.add_argument("--out", type=Path, required=True)
    training = commands.add_parser("train", help="train the cells that are not there yet")
    training.add_argument("posts", type=Path)
    training.add_argument("--columns", type=Path, help="what `prepare` wrote; without it its levers are left out")
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--levers", default=",".join(LEVERS), help="names by comma, a+b for several at once")
    training.add_argument("--folds", help="which of them, from 0; all by default")
    training.add_argument("--n-folds", type=int, default=10)
    training.add_argument("--fold-seed", type=int, default=FOLD_SEED, help="cuts the folds")
    training.add_argument("--seeds", default="42")
    training.add_argument("--workers", type=int, default=1)
    training.add_argument("--minutes", type=float, default=math.inf, help="0: cut the folds, and train nothing")
    training.add_argument("--limit", type=int, help="take a random part of the posts, to try the script")
    training.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE", help="for every lever")
    showing = commands.add_parser("table", help="print the table")
    showing.add_argument("out", type=Path)
    showing.add_argument("--bootstrap", type=int, default=2000)
    commands.add_parser("list", help="print the levers")
    args = parser.parse_args()
    try:
        _do(args)
    except CotuneError as error:
        raise SystemExit(f"error: {error}") from None


def _do(args: argparse.Namespace) -> None:
    if args.command == "prepare":
        prepare(read_posts(args.posts), args.image_text, args.out)
    elif args.command == "table":
        print(table(args.out, args.bootstrap))
    elif args.command == "list":
        for name, one in LEVERS.items():
            print(f"{name:<20} {one.title}")
    else:
        _train(args)


def _train(args: argparse.Namespace) -> None:
    config = make_config({"task": "single-label", **dict(word.split("=", 1) for word in args.set)})
    posts = read_posts(args.posts, require_labels=True)
    if args.limit and args.limit < len(posts):
        posts = posts.sample(args.limit, random_state=42).reset_index(drop=True)
    folds = make_folder(args.out, posts, args.n_folds, config, args.fold_seed)
    names = _available(args.levers.split(","), posts_of(with_columns(posts, args.columns), folds))
    wanted = [int(fold) for fold in args.folds.split(",")] if args.folds else list(range(folds.n_folds))
    if max(wanted) >= folds.n_folds:
        raise ConfigError(f"there is no fold {max(wanted)}; they are numbered from 0 to {folds.n_folds - 1}")
    jobs = planned(args.out, names, wanted, [int(seed) for seed in args.seeds.split(",")])
    threads = max(1, len(os.sched_getaffinity(0)) // args.workers)
    settings = json.loads(config.model_dump_json())
    task = Task(args.posts, args.columns, args.out, settings, time.time() + 60 * args.minutes, threads)
    raise SystemExit(1 if train(task, jobs, args.workers) else 0)


def _available(names: Sequence[str], posts: pd.DataFrame) -> list[str]:
    """Return the levers that change something of these posts, and say which are left out, and why."""
    found: list[str] = []
    texts: list[tuple[Lever, list[str]]] = []
    for name in names:
        one = lever(name)
        lacking = sorted({own.columns[0] if own.kind == "text" else own.name for own in one.fields} - set(posts))
        if lacking:
            print(f"{name} is left out: no column {', '.join(lacking)}; see `prepare` and --columns")
            continue
        # Texts without emoji are the same with them in words, and so is what is trained on them.
        read = replace(one, title="", text=""), posts[one.text].fillna("").tolist()
        if one.text != "text" and (read in texts or read[1] == posts["text"].fillna("").tolist()):
            print(f"{name} is left out: it changes the text of no post, or as another lever does")
            continue
        texts.append(read)
        found.append(name)
    return found


if __name__ == "__main__":
    main()
