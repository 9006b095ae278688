"""Running a plan: cells that are done are never done again, a kill loses at most those under way."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pandas as pd

from cotune.benchmark import predictions, results_store
from cotune.benchmark.bench import Bench
from cotune.benchmark.folds import FILE as FOLDS
from cotune.benchmark.folds import Folds, OnImage, cut_posts, posts_of, told_left_out
from cotune.benchmark.methods import METHODS
from cotune.benchmark.plan import Cell, Plan
from cotune.benchmark.records import Record, rounded, versions
from cotune.benchmark.sanity import shuffled
from cotune.data.duplicates import large_group_note
from cotune.data.images.sources import has_urls
from cotune.data.posts import data_hash
from cotune.data.tables.row_errors import row_error_notes
from cotune.errors import ConfigError, CotuneError
from cotune.files import real_path
from cotune.progress import Progress
from cotune.training.device import training_device
from cotune.training.precision import choose_precision

T = TypeVar("T")


@dataclass
class Failure:
    """A cell that could not be computed, and why."""

    cell: Cell
    reason: str


@dataclass
class Session:
    """What one call of :func:`run_plan` did.

    Attributes
    ----------
    done, found : int
        Cells computed now, and cells that were there already.
    failures : list of Failure
        Cells that could not be computed.
    interrupted : bool
        Whether the user stopped it.
    """

    done: int = 0
    found: int = 0
    failures: list[Failure] = field(default_factory=list)
    interrupted: bool = False


class Watcher:
    """Progress reporter; the base class prints nothing."""

    progress: Progress = Progress()
    on_image: OnImage | None = None

    def begin(self, folds: Folds, cells: list[Cell], found: list[Record]) -> None:
        """Learn what is to be done and what is there already."""

    def start(self, cell: Cell) -> None:
        """Learn that a cell is under way."""

    def finish(self, record: Record) -> None:
        """Learn that a cell is done."""

    def fail(self, failure: Failure) -> None:
        """Learn that a cell failed."""


#: How cells are computed: yields what becomes of each, kept in the folder already.
Work: TypeAlias = "Callable[[Bench, Path, list[Cell], Watcher], Iterator[Record | Failure]]"


def run_plan(
    posts: pd.DataFrame,
    plan: Plan,
    out: str | Path,
    *,
    resume: bool = False,
    jobs: int = 1,
    plugins: Sequence[str] = (),
    only_folds: Sequence[int] = (),
    allow_remote: bool = False,
    work: Work | None = None,
    watcher: Watcher | None = None,
) -> Session:
    """Compute all cells of `plan` that `out` does not hold yet.

    Parameters
    ----------
    posts : DataFrame
        As :func:`cotune.data.posts.read_posts` gives it.
    plan : Plan
        What to measure.
    out : path
        The results folder.
    resume : bool
        Whether it may hold cells already.
    jobs : int
        Worker processes.
    plugins : sequence of str
        Modules that register methods or fusion heads, for the workers to import. Those in which the methods' own
        functions stand need no mention.
    only_folds : sequence of int
        Compute these folds alone for now, counted from 0; all by default.
    allow_remote : bool
        Whether images may be fetched by URL.
    work : callable, optional
        Computes the cells, instead of this process or `jobs` others.
    watcher : Watcher, optional
        Progress reporter.

    Raises
    ------
    CotuneError
        If the posts cannot be used for the plan, the folder belongs to other posts or settings, or the only pair
        of encoders cannot be opened. Cells that fail raise nothing; they are listed in the result.
    """
    out, watcher = Path(out), watcher or Watcher()
    beyond = [fold for fold in only_folds if not 0 <= fold < plan.folds]
    if beyond:
        raise ConfigError(f"there is no fold {beyond[0] + 1}; the plan has {plan.folds}")
    results_store.refuse_harm(out)
    with results_store.sole_writer(out):
        plan = _settled(plan, out, watcher.progress)
        posts = shuffled(posts, plan.fold_seed) if plan.sanity else posts
        fetched = allow_remote and _has_urls(posts, plan)
        begun = results_store.begin(out, plan, data_hash(posts, plan.fit.read_fields()), resume=resume, fetched=fetched)
        if begun and (out / FOLDS).is_file():
            folds = Folds.load(out / FOLDS)
        else:
            folds = cut_posts(posts, plan, allow_remote=allow_remote, on_image=watcher.on_image)
            folds.save(out / FOLDS)
        note = told_left_out(folds)
        large = large_group_note(folds.groups)
        more = [note] if note else []
        if large is not None:
            more.append(f"note: {large}")
        for line in [*row_error_notes(posts)[:-1], *more]:
            watcher.progress.say(line)
        wanted = [cell for cell in plan.cells() if not only_folds or cell.fold in only_folds]
        cells = _worth_while(wanted, folds, watcher.progress)
        there = {record.cell: record for record in predictions.read(out)}
        found = [there[cell] for cell in cells if cell in there]
        todo = [cell for cell in cells if cell not in there]
        watcher.begin(folds, cells, found)
        bench = Bench(posts_of(posts, folds), folds, plan, allow_remote=allow_remote, progress=watcher.progress)
        _open_first(bench, [cell for cell in todo if METHODS[cell.method].run])
        bench.refuse_other_weights(found, {plan.encoders_of(cell) for cell in todo if METHODS[cell.method].run})
        session = Session(found=len(found))
        combined = [cell for cell in todo if METHODS[cell.method].combine]
        needed = {need for cell in combined for need in plan.needs(cell)}
        work = work or (_alone if jobs == 1 else _with_workers(jobs, plugins))
        try:
            for result in work(bench, out, [cell for cell in todo if METHODS[cell.method].run], watcher):
                _note(result, session, watcher)
                if isinstance(result, Record) and result.cell in needed:
                    # As it is kept, so that what is combined of it does not depend on when it was computed.
                    there[result.cell] = replace(result, proba=rounded(result.proba).astype("float64"))
                _combine_ready(todo, plan, out, there, session, watcher)
            _combine_ready(todo, plan, out, there, session, watcher, last=True)
        except KeyboardInterrupt:
            session.interrupted = True
        predictions.merge(out)
        results_store.write_failures(out, {failure.cell.key: failure.reason for failure in session.failures})
        return session


def _settled(plan: Plan, out: Path, progress: Progress) -> Plan:
    """Return the plan with its number format chosen: all cells of a folder have the one it was begun with."""
    if plan.fit.precision != "auto":
        return plan
    begun = results_store.begun_precision(out)
    found = choose_precision("auto", training_device(plan.fit).type)
    progress.say(f"precision: {found if begun is None else f'{begun} (as it was begun)'}")
    return replace(plan, fit=plan.fit.model_copy(update={"precision": begun or found.name}))


def _open_first(bench: Bench, cells: list[Cell]) -> None:
    """Open the encoders before the first cell where there is one pair alone: what is wrong with it stops all."""
    if len(bench.plan.pairs) == 1 and cells:
        dual = METHODS[cells[0].method].encoders == "clip"
        bench.features(bench.plan.encoders_of(cells[0]), dual=dual)


def _worth_while(cells: list[Cell], folds: Folds, progress: Progress) -> list[Cell]:
    most = folds.most_shots()
    wide = sorted({cell.shots for cell in cells if cell.shots is not None and cell.shots >= most})
    if wide:
        progress.say(f"note: {', '.join(map(str, wide))} posts per class are no fewer than all; ask for `all` instead")
    return [cell for cell in cells if cell.shots not in wide or cell.shots is None]


def _note(result: Record | Failure, session: Session, watcher: Watcher) -> None:
    if isinstance(result, Failure):
        session.failures.append(result)
        watcher.fail(result)
    else:
        session.done += 1
        watcher.finish(result)


def _combine_ready(
    todo: list[Cell],
    plan: Plan,
    out: Path,
    there: dict[Cell, Record],
    session: Session,
    watcher: Watcher,
    *,
    last: bool = False,
) -> None:
    """Compute the cells that only combine others, as soon as those are there."""
    failed = {failure.cell for failure in session.failures}
    for cell in todo:
        combine = METHODS[cell.method].combine
        if combine is None or cell in failed or cell in there:
            continue
        needs = plan.needs(cell)
        lacking = [need for need in needs if need not in there]
        if lacking and not last:
            continue
        if lacking:
            reason = f"needs {' and '.join(need.method for need in lacking)}, which failed"
            _note(Failure(cell, reason), session, watcher)
            continue
        parts = [there[need] for need in needs]
        record = Record(
            cell,
            parts[0].ids,
            combine([part.proba for part in parts]),
            sum(part.seconds for part in parts),
            parameters={
                name: sum(part.parameters.get(name, 0) for part in parts)
                for name in ("total", "trained")
                if all(name in part.parameters for part in parts)
            },
            encoders={name: mark for part in parts for name, mark in part.encoders.items()},
            versions=versions(),
        )
        predictions.append(out, record)
        there[cell] = record
        _note(record, session, watcher)


def _has_urls(posts: pd.DataFrame, plan: Plan) -> bool:
    images = [field.name for field in plan.fit.read_fields() if field.kind == "image" and field.name in posts]
    return any(has_urls(posts[name]) for name in images)


def compute(bench: Bench, cell: Cell) -> Record | Failure:
    """Run one cell; whatever goes wrong with it is reported, and the others go on."""
    try:
        return bench.run(cell)
    except CotuneError as fault:
        return Failure(cell, str(fault))
    except Exception as fault:
        where = traceback.extract_tb(fault.__traceback__)[-1]
        lines = str(fault).splitlines() or [""]
        return Failure(cell, f"{type(fault).__name__}: {lines[0][:300]} ({Path(where.filename).name}:{where.lineno})")


def keep(out: Path, result: Record | Failure) -> Record | Failure:
    """Keep the record of a cell in the results folder, if there is one."""
    if isinstance(result, Record):
        predictions.append(out, result)  # a full disk concerns all cells, so that it does raise
    return result


def fresh_bench(bench: Bench, lock: str) -> Bench:
    """Return a bench for another process: the same posts and plan, and nothing that was computed."""
    return Bench(bench.posts, bench.folds, bench.plan, lock, bench.allow_remote)


def modules_of(cells: list[Cell], plugins: Sequence[str]) -> list[str]:
    """Return the modules that another process imports: those named, and those of the methods' own functions."""
    own = {str(getattr(METHODS[cell.method].run, "__module__", "")) for cell in cells} - {""}
    return [*plugins, *sorted(own - set(plugins))]


def prepare_process(modules: Sequence[str], threads: int) -> None:
    """Make this process ready for cells: methods and heads that a user has registered, and its threads."""
    import torch

    for name in modules:
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
    torch.set_num_threads(threads)


def _alone(bench: Bench, out: Path, cells: list[Cell], watcher: Watcher) -> Iterator[Record | Failure]:
    for cell in cells:
        watcher.start(cell)
        yield keep(out, compute(bench, cell))


def _with_workers(jobs: int, plugins: Sequence[str]) -> Work:
    def run(bench: Bench, out: Path, cells: list[Cell], watcher: Watcher) -> Iterator[Record | Failure]:
        modules = modules_of(cells, plugins)
        threads = max(1, (os.cpu_count() or 1) // jobs)
        fresh = fresh_bench(bench, str(real_path(out / ".shared.lock")))
        with ProcessPoolExecutor(
            min(jobs, max(1, len(cells))),
            multiprocessing.get_context("spawn"),
            _start_worker,
            (modules, threads, fresh, str(real_path(out))),
        ) as pool:
            try:
                yield from _gather(pool, iter(cells), jobs, watcher)
            except (KeyboardInterrupt, GeneratorExit):
                stop_workers(pool)
                raise

    return run


def stop_workers(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool whose initializer is :func:`prepare_worker`, and wait until they have unwound."""
    processes = list((pool._processes or {}).values())  # which the pool forgets when it is shut down
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def _gather(
    pool: ProcessPoolExecutor, waiting: Iterator[Cell], jobs: int, watcher: Watcher
) -> Iterator[Record | Failure]:
    """Keep `jobs` cells under way; the order in which they are begun is that of the list."""
    running: dict[Future[Any], Cell] = {}
    more = True
    while more or running:
        while more and len(running) < jobs:
            cell = next(waiting, None)
            more = cell is not None
            if cell is not None:
                watcher.start(cell)
                running[pool.submit(_in_worker, cell)] = cell
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            cell = running.pop(future)
            try:
                yield future.result()
            except BrokenProcessPool:
                raise CotuneError(
                    f"a worker process ended while computing {cell.key}: it was stopped, or the memory was used up; "
                    "continue with --resume, perhaps with fewer --jobs"
                ) from None


_BENCH: tuple[Bench, Path] | None = None
_computing = False


def _start_worker(modules: list[str], threads: int, bench: Bench, out: str) -> None:
    global _BENCH
    prepare_worker(modules, threads)
    _BENCH = (bench, Path(out))


def prepare_worker(modules: Sequence[str], threads: int) -> None:
    """Make a process ready to work for another, ending with it and when it says so."""
    prepare_process(modules, threads)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop_worker)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Leave when the parent is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _stop_worker(number: int, _frame: object) -> None:
    """Leave; first let a cell that is under way unwind, so that its temporary files go."""
    global _computing
    if not _computing:
        os._exit(128 + number)
    _computing = False
    raise KeyboardInterrupt


def _in_worker(cell: Cell) -> Record | Failure:
    assert _BENCH is not None
    bench, out = _BENCH
    return interruptible(lambda: keep(out, compute(bench, cell)))


def interruptible(work: Callable[[], T]) -> T:
    """Return what `work` gives; a process of :func:`prepare_worker` that is stopped meanwhile lets it unwind first."""
    global _computing
    _computing = True
    try:
        return work()
    except KeyboardInterrupt:
        # Left here, as the pool would hand on the exception and wait for more work, which the parent sends no more.
        os._exit(128 + signal.SIGTERM)
    finally:
        _computing = False
