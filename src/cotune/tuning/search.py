"""A search from its posts to its verdict: one cut, trials in one or several processes, one look at the test part."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from cotune.benchmark.folds import Folds, posts_of
from cotune.benchmark.records import versions
from cotune.benchmark.results_store import refuse_harm
from cotune.benchmark.runner import interruptible, prepare_worker, stop_workers
from cotune.data.images.sources import has_urls
from cotune.data.posts import data_hash
from cotune.errors import ConfigError, CotuneError
from cotune.files import real_path
from cotune.ownership import SEARCH
from cotune.progress import Progress
from cotune.report.numbers import plural
from cotune.tasks import Task
from cotune.training.device import training_device
from cotune.training.fit import learn_task
from cotune.training.precision import choose_precision
from cotune.training.usable_posts import readable, refuse_other_labels
from cotune.tuning import store
from cotune.tuning.final import compare_on_test
from cotune.tuning.parts import FILE as PARTS
from cotune.tuning.parts import TEST, TRAIN, VALIDATION, cut_parts, describe_parts, load_parts
from cotune.tuning.plan import TunePlan
from cotune.tuning.results import FAILED, PRUNED, TrialResult, TuneResult, best_of, results_of, trials_of, write_results
from cotune.tuning.space import default_space
from cotune.tuning.trials import Search, Workbench, run_worker

if TYPE_CHECKING:
    import optuna

#: How trials are made: so many at the most, calling back after each; returns how many were made.
Work: TypeAlias = "Callable[[Search, int, Callable[[], None]], int]"
# Seconds between looks at what other processes do.
_EVERY = 1.0


def tune(
    posts: pd.DataFrame,
    out: str | Path,
    plan: TunePlan | None = None,
    *,
    resume: bool = False,
    jobs: int = 1,
    plugins: Sequence[str] = (),
    allow_remote: bool = False,
    work: Work | None = None,
    progress: Progress | None = None,
) -> TuneResult:
    """Search for settings of training, and compare the best ones with the defaults on posts that no trial saw.

    Parameters
    ----------
    posts : DataFrame
        As :func:`cotune.data.posts.read_posts` gives it.
    out : path
        The folder of the search. Several processes, of this call or of others, may work on it.
    plan : TunePlan, optional
        What is searched.
    resume : bool
        Whether the folder may hold trials already; those that are finished count.
    jobs : int
        Worker processes.
    plugins : sequence of str
        Modules that register parts of your own, for the workers to import.
    allow_remote : bool
        Whether images may be fetched by URL.
    work : callable, optional
        Makes the trials, instead of this process or `jobs` others.
    progress : Progress, optional
        Progress reporter.

    Returns
    -------
    TuneResult
        ``compared`` is the result; the score that was searched on is too good.

    Raises
    ------
    CotuneError
        If Optuna is missing, the posts are too few for three parts, the folder belongs to another search, or no trial
        could be trained.
    KeyboardInterrupt
        If the user stops before the first trial.
    """
    store.require_optuna()
    out, progress, asked = Path(out), progress or Progress(), plan or TunePlan()
    refuse_harm(out, SEARCH)
    usable, _ = readable(posts, progress, asked.fit)
    task = learn_task(usable, asked.fit, progress)
    usable = task.complete(usable)
    refuse_other_labels(task, usable, "post", started=False)
    plan = _settled(asked, task, out, progress)
    bench = Workbench(usable, allow_remote, real_path(out) / ".locks" / "shared", progress)
    with store.named_faults(out):
        search = _begin(posts, bench, out, plan, task, resume=resume)
        study = store.open_study(out, plan)
        tell = _Teller(study, plan, task, progress)
        interrupted, compared = False, None
        try:
            work = work or (partial(_alone, bench) if jobs == 1 else partial(_with_workers, jobs, plugins))
            _make_trials(search, study, tell, work)
            found = results_of(study, plan, task)
            if found.best is None:
                raise CotuneError(f"no trial could be trained: {found.trials[-1].error or 'all were pruned'}")
            assert found.settings is not None
            with store.locked(out, "final"):
                compared = compare_on_test(out, bench, search.cut, plan, found.settings, progress)
        except KeyboardInterrupt:
            interrupted = True
        if interrupted:  # behind the block, as the frames of the interruption may hold a connection to the database
            found = results_of(study, plan, task)
        found.compared, found.interrupted = compared, interrupted
        found.facts = _facts(search, store.read_settings(out)["settings"]["data"])
    write_results(out, found, asked.fit)
    return found


def _settled(plan: TunePlan, task: Task, out: Path, progress: Progress) -> TunePlan:
    """Return the plan with its number format and its space chosen; all trials of a folder have the same."""
    if plan.fit.precision == "auto":
        begun = store.begun_precision(out)
        chosen = choose_precision("auto", training_device(plan.fit).type)
        progress.say(f"precision: {chosen if begun is None else f'{begun} (as it was begun)'}")
        plan = replace(plan, fit=plan.fit.model_copy(update={"precision": begun or chosen.name}))
    if plan.space is None:
        return replace(plan, space=default_space(plan.fit, task.name))
    of_classes = [name for name in ("label_smoothing", "class_weights") if name in plan.space.settings]
    if task.target_type == "continuous" and of_classes:
        name = of_classes[0].replace("_", "-")
        raise ConfigError(f"{name} is for classes and a regression has none; leave it out of the search space")
    return plan


def _begin(posts: pd.DataFrame, bench: Workbench, out: Path, plan: TunePlan, task: Task, *, resume: bool) -> Search:
    """Cut the posts, or find them cut, and open the encoders that the search begins from."""
    fields, usable = plan.fit.read_fields(), bench.posts
    images = [field.name for field in fields if field.kind == "image" and field.name in usable]
    fetched = bench.allow_remote and any(has_urls(usable[name]) for name in images)
    with store.locked(out, "begin"):
        begun = store.begin(out, plan, data_hash(posts, fields), resume=resume, fetched=fetched)
        if begun and (out / PARTS).is_file():
            cut = load_parts(out)
            bench.posts = posts_of(usable, cut)
            bench.features(plan.start)
        else:
            looks = plan.fit.folds_group == "near-duplicates"
            cut = cut_parts(usable, bench.features(plan.start, looks=looks), task, plan)
            bench.keep(_positions(usable, cut))
            cut.save(out / PARTS)
        store.note_encoders(out, bench.fingerprints())
        store.open_study(out, plan)  # makes the tables, which several workers must not do at once
    bench.progress.say(describe_parts(cut))
    return Search(bench.posts, cut, plan, out, bench.allow_remote)


def _positions(posts: pd.DataFrame, cut: Folds) -> np.ndarray:
    places = {str(identity): at for at, identity in enumerate(posts["id"])}
    return np.asarray([places[str(identity)] for identity in cut.ids], dtype=np.int64)


def _make_trials(search: Search, study: optuna.Study, tell: _Teller, work: Work) -> None:
    """Make trials here or elsewhere until enough are finished, by whomever."""
    tell()
    while (left := search.plan.trials - len(store.finished_trials(study))) > 0:
        made = work(search, left, tell)
        if not made and store.under_way(study, search.out):  # by another call on this folder
            time.sleep(_EVERY)
            tell()


def _alone(bench: Workbench, search: Search, left: int, tell: Callable[[], None]) -> int:
    return run_worker(search, most=left, bench=bench, on_trial=lambda _: tell())


def _with_workers(jobs: int, plugins: Sequence[str], search: Search, left: int, tell: Callable[[], None]) -> int:
    del left  # each worker goes on until there is nothing to begin
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), prepare_worker, (list(plugins), threads)
    ) as pool:  # fmt: skip
        try:
            working = [pool.submit(interruptible, partial(run_worker, search)) for _ in range(jobs)]
            while wait(working, timeout=_EVERY).not_done:
                tell()
            tell()
            return sum(future.result() for future in working)
        except BrokenProcessPool:
            raise CotuneError(
                "a worker process ended in the middle of a trial: it was stopped, or the memory was used up; continue "
                "with --resume, perhaps with fewer --jobs"
            ) from None
        except KeyboardInterrupt:
            stop_workers(pool)
            raise


class _Teller:
    """Tells of each finished trial, once, whichever process made it."""

    def __init__(self, study: optuna.Study, plan: TunePlan, task: Task, progress: Progress) -> None:
        self.study, self.plan, self.task, self.progress = study, plan, task, progress
        self.told: set[int] | None = None

    def __call__(self) -> None:
        trials = trials_of(self.study)
        if self.told is None:
            self.told = {trial.number for trial in trials}
            if self.told:
                are = "is" if len(self.told) == 1 else "are"
                self.progress.say(f"{len(self.told):,} of {self.plan.trials:,} trials {are} finished already")
        best = best_of(trials)
        for trial in trials:
            if trial.number not in self.told:
                self.told.add(trial.number)
                rest = "" if best is None else f"; best {best.score:.4f} (trial {best.number})"
                self.progress.say(self._line(trial) + rest)

    def _line(self, trial: TrialResult) -> str:
        score = "" if trial.score is None else f"{self.task.main_title} {trial.score:.4f}"
        what = {PRUNED: f"pruned after {plural(trial.epochs, 'epoch')}, {score}", FAILED: f"failed: {trial.error}"}
        return f"trial {trial.number} of {self.plan.trials}: {what.get(trial.state, score)}, {trial.seconds:.0f} s"


def _facts(search: Search, data: str) -> dict[str, Any]:
    sizes = {"training": TRAIN, "validation": VALIDATION, "test": TEST}
    return {
        "data": data,
        "posts": {name: len(search.cut.test(part)) for name, part in sizes.items()},
        "groups": len(np.unique(search.cut.groups)),
        "left_out": search.cut.left_out,
        "versions": {**versions(), "optuna": store.require_optuna().__version__},
    }
