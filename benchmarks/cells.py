"""Many trainings in one folder: cells that can be resumed, worker processes, folds by seed, a table of paired tests.

What the measurements of single ideas share (`more_texts.py`, `levers.py`, ...). A cell is one row of the table, trained
once and scored on one fold. Folds are made as `cotune bench` makes them; seed 7 is not the one of the figures that are
reported (42), so that nothing is chosen by those. The folder holds `folds.parquet`, `made_of.json`, and in `cells/` one
small file for each cell: the predictions of its test posts and what else there is to tell.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cotune.benchmark.compare import BOOTSTRAP, corrected_t_test, paired_test, scored
from cotune.benchmark.folds import FILE, Folds, cut_posts, posts_of, told_left_out
from cotune.benchmark.plan import Plan
from cotune.data.posts import data_hash
from cotune.environment import environment
from cotune.files import atomic_path, write_json
from cotune.metrics import holm
from cotune.metrics.intervals import resamples
from cotune.report.numbers import plural
from cotune.settings import FitConfig
from cotune.tasks import Task
from cotune.tasks.single_label import SingleLabel
from cotune.training.device import training_device

MADE_OF = "made_of.json"


class Cell(NamedTuple):
    """One row of the table, trained with one seed on all folds but the one it is scored on."""

    row: str
    fold: int
    seed: int

    @property
    def key(self) -> str:
        """The name of its file."""
        return f"{self.row}-fold{self.fold}-seed{self.seed}"


#: Of a state and a cell: predictions of ``folds.test(cell.fold)``, shape (posts, columns), and figures to keep.
Train = Callable[[Any, Cell], tuple[np.ndarray, Mapping[str, Any]]]


@dataclass(frozen=True)
class Cells:
    """A folder of cells.

    Attributes
    ----------
    out : Path
        The folder.
    folds : Folds
        The posts, what is to be predicted of them, and the fold that each is scored in.
    """

    out: Path
    folds: Folds

    @classmethod
    def begin(
        cls,
        out: Path,
        posts: pd.DataFrame,
        fit: FitConfig,
        *,
        folds: int = 10,
        seed: int = 7,
        made_of: Mapping[str, Any] | None = None,
    ) -> tuple[Cells, pd.DataFrame]:
        """Make or open a folder; return it and the posts that are used, in the order of its folds.

        Parameters
        ----------
        out : path
            The folder. Where it holds ``folds.parquet`` no image is read.
        posts : DataFrame
            As :func:`cotune.data.posts.read_posts` gives it.
        fit : FitConfig
            Fields, task and encoders.
        folds, seed : int
            How many grouped folds, and the seed that cuts them.
        made_of : mapping, optional
            What else all cells of the folder have in common, such as settings, as JSON values.
        """
        known = {
            "folds": folds,
            "fold seed": seed,
            "posts": data_hash(posts, tuple(field for field in fit.read_fields() if field.kind != "image")),
            **json.loads(json.dumps(dict(made_of or {}))),
        }
        there = out / MADE_OF
        if there.exists():
            earlier = json.loads(there.read_text(encoding="utf-8"))["made of"]
            other = [name for name in {**earlier, **known} if earlier.get(name) != known.get(name)]
            if other:
                raise SystemExit(f"{out} was begun with another value of {', '.join(other)}; name another folder")
        if (out / FILE).exists():
            cut = Folds.load(out / FILE)
        else:
            plan = Plan(
                ("joint",), ((fit.text_encoder, fit.image_encoder),), folds=folds, fold_seed=seed, emap=0, fit=fit
            )
            cut = cut_posts(posts, plan)
            out.mkdir(parents=True, exist_ok=True)
            cut.save(out / FILE)
        if (note := told_left_out(cut)) is not None:
            print(note)
        if not there.exists():
            about = environment(seed, known["posts"], training_device(fit).type)
            write_json(there, {"made of": known, "environment": about})
        return cls(out, cut), posts_of(posts, cut)

    @classmethod
    def open(cls, out: Path) -> Cells:
        """Open a folder for its table; the posts are not needed."""
        return cls(out, Folds.load(out / FILE))

    def path(self, cell: Cell) -> Path:
        """Return the file of a cell."""
        return self.out / "cells" / f"{cell.key}.npz"

    def todo(self, rows: Sequence[str], seeds: Sequence[int], folds: Sequence[int] | None = None) -> list[Cell]:
        """Return the cells that are not there yet, fold by fold, so that rows can be compared early."""
        wanted = range(self.folds.n_folds) if folds is None else folds
        cells = [Cell(row, fold, seed) for seed in seeds for fold in wanted for row in rows]
        return [cell for cell in cells if not self.path(cell).exists()]

    def keep(self, cell: Cell, predictions: np.ndarray, **figures: Any) -> None:
        """Write a cell's file, atomically."""
        n = len(self.folds.test(cell.fold))
        if len(predictions) != n or not np.isfinite(predictions).all():
            raise ValueError(f"{cell.key}: {len(predictions)} predictions of {n} posts, or some are no numbers")
        path = self.path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, predictions=np.asarray(predictions, np.float32), figures=np.asarray(json.dumps(figures)))

    def read(self, cell: Cell) -> tuple[np.ndarray, dict[str, Any]] | None:
        """Return a cell's predictions and figures; None if it is not done."""
        if not self.path(cell).exists():
            return None
        with np.load(self.path(cell), allow_pickle=False) as found:
            return found["predictions"].astype(np.float64), json.loads(str(found["figures"]))

    def there(self) -> list[Cell]:
        """Return all cells of the folder."""
        found = []
        for path in sorted((self.out / "cells").glob("*.npz")):
            row, fold, seed = path.stem.rsplit("-", 2)
            found.append(Cell(row, int(fold.removeprefix("fold")), int(seed.removeprefix("seed"))))
        return found


def run(
    cells: Cells,
    todo: Sequence[Cell],
    setup: Callable[..., Any],
    args: Sequence[Any],
    train: Train,
    *,
    workers: int = 1,
) -> bool:
    """Train cells, here or in worker processes; tell whether all of them are done.

    Parameters
    ----------
    cells : Cells
        Where they are kept.
    todo : sequence of Cell
        What is to be trained.
    setup : callable
        Given `args`, returns what `train` needs, such as prepared features: once in each process, and once here first,
        so that caches on disk are filled by one process alone. A function of a module, as are the `args` plain values.
    args : sequence
        For `setup`.
    train : callable
        Trains one cell; a function of a module. A cell that fails is told of, and the others go on.
    workers : int
        Processes; each keeps its state and trains cell after cell. They may share one GPU.
    """
    if not todo:
        return True
    started, failed = time.perf_counter(), 0
    state = setup(*args)
    print(f"{len(todo)} cells to train; ready after {time.perf_counter() - started:.0f} s", flush=True)
    if workers == 1:
        results: Iterator[tuple[Cell, str, float]] = (_one(cells, state, train, cell) for cell in todo)
        failed = _report(results, len(todo), started)
    else:
        del state
        gc.collect()
        threads = max(1, (os.cpu_count() or 1) // workers)
        context = multiprocessing.get_context("spawn")
        begin = (cells, setup, args, train, threads)
        with ProcessPoolExecutor(workers, context, _start, begin) as pool:
            waiting = [pool.submit(_in_worker, cell) for cell in todo]
            failed = _report((future.result() for future in as_completed(waiting)), len(todo), started)
    if failed:
        print(f"{plural(failed, 'cell')} failed; the same command trains what is missing")
    return not failed


def _report(results: Iterator[tuple[Cell, str, float]], n: int, started: float) -> int:
    failed = 0
    for done, (cell, fault, seconds) in enumerate(results, start=1):
        failed += bool(fault)
        passed = time.perf_counter() - started
        print(f"[{done}/{n}, {passed:.0f} s] {cell.key}: {fault or f'{seconds:.1f} s'}", flush=True)
    return failed


_STATE: tuple[Cells, Any, Train] | None = None


def _start(cells: Cells, setup: Callable[..., Any], args: Sequence[Any], train: Train, threads: int) -> None:
    global _STATE
    import torch

    torch.set_num_threads(threads)
    _STATE = (cells, setup(*args), train)


def _in_worker(cell: Cell) -> tuple[Cell, str, float]:
    assert _STATE is not None
    cells, state, train = _STATE
    return _one(cells, state, train, cell)


def _one(cells: Cells, state: Any, train: Train, cell: Cell) -> tuple[Cell, str, float]:
    started = time.perf_counter()
    try:
        predictions, figures = train(state, cell)
        seconds = time.perf_counter() - started
        cells.keep(cell, predictions, seconds=round(seconds, 2), **figures)
        return cell, "", seconds
    except Exception as fault:
        where = traceback.extract_tb(fault.__traceback__)[-1]
        return cell, f"{type(fault).__name__}: {fault} ({Path(where.filename).name}:{where.lineno})", 0.0
    finally:
        gc.collect()


@dataclass
class Row:
    """A row of the table: pooled scores with intervals, and the paired test against another row."""

    name: str
    folds: int
    seeds: tuple[int, ...]
    scores: dict[str, Any]
    seconds: float
    difference: Any = None
    fold_p: float = float("nan")
    p_holm: float = float("nan")


def compare(cells: Cells, rows: Sequence[str] | None = None, *, against: str = "plain") -> list[Row]:
    """Return the rows of the table, on the folds and seeds that each has in common with the row `against`.

    Differences are row minus `against`: of the main score of all posts by a paired bootstrap (DeLong for two classes
    and one seed), p adjusted by Holm; of the folds' scores by the corrected resampled t-test.
    """
    folds, task = cells.folds, scored_task(cells.folds)
    done: dict[str, set[tuple[int, int]]] = {}
    for cell in cells.there():
        done.setdefault(cell.row, set()).add((cell.fold, cell.seed))
    names = [name for name in dict.fromkeys([against, *(rows or sorted(done))]) if name in done]
    main = task.scores[task.main_score]
    found = []
    for name in names:
        common = done[name] & done.get(against, done[name])
        seeds = sorted({seed for _, seed in common})
        whole = [fold for fold in range(folds.n_folds) if all((fold, seed) in common for seed in seeds)]
        if not common or not whole:
            continue
        at = np.sort(np.concatenate([folds.test(fold) for fold in whole]))
        own, seconds = _gathered(cells, name, whole, seeds)

        def resampled(n: int = len(at)) -> Iterator[np.ndarray]:
            return resamples(n, BOOTSTRAP, 0)

        scores, draws = scored(task, folds.targets[at], own[:, at], resampled)
        row = Row(name, len(whole), tuple(seeds), scores, seconds)
        if name != against and against in done:
            other, _ = _gathered(cells, against, whole, seeds)
            other_draws = scored(task, folds.targets[at], other[:, at], resampled)[1]
            row.difference = paired_test(task, folds.targets[at], (own[:, at], draws), (other[:, at], other_draws))
            gaps = [
                np.mean([_score(main, cells, a, fold) for a in own])
                - np.mean([_score(main, cells, b, fold) for b in other])
                for fold in whole
            ]
            row.fold_p = corrected_t_test(np.asarray(gaps), folds.test_over_train())
        found.append(row)
    tested = [row for row in found if row.difference is not None]
    for row, p in zip(tested, holm([row.difference.p for row in tested]), strict=True):
        row.p_holm = float(p)
    return found


def _gathered(cells: Cells, row: str, whole: list[int], seeds: list[int]) -> tuple[np.ndarray, float]:
    """Return predictions, shape (seeds, posts, columns), NaN outside of the folds `whole`, and mean seconds."""
    folds = cells.folds
    proba = np.full((len(seeds), len(folds.targets), len(folds.task.outputs)), np.nan)
    seconds = []
    for i, seed in enumerate(seeds):
        for fold in whole:
            found = cells.read(Cell(row, fold, seed))
            assert found is not None
            proba[i, folds.test(fold)] = found[0][:, : proba.shape[2]]
            seconds.append(found[1].get("seconds", np.nan))
    return proba, float(np.mean(seconds))


def _score(main: Any, cells: Cells, proba: np.ndarray, fold: int) -> float:
    folds = cells.folds
    test = folds.test(fold)
    return float(main(scored_task(folds).sheet(folds.targets[test], proba[test]), np.ones((1, len(test))))[0])


def scored_task(folds: Folds) -> Task:
    """Return the task that cells are scored by: of classes alone, so that all ways to learn them can be compared."""
    return SingleLabel(folds.task.outputs) if folds.task.target_type == "multiclass" else folds.task


def table(cells: Cells, rows: Mapping[str, str] | None = None, *, against: str = "plain") -> str:
    """Return the table as Markdown, with a line on what it was made of; `rows` gives titles by row and comes first."""
    others = sorted({cell.row for cell in cells.there()} - set(rows or ()))
    found = compare(cells, [*(rows or ()), *others], against=against)
    if not found:
        return f"{cells.out} holds no cells yet"
    titles, task = dict(rows or {}), scored_task(cells.folds)
    names = list(task.table_scores[:2])
    shown = [task.main_title if name == task.main_score else name for name in names]
    head = ["training", "folds", *shown, f"{task.main_title} against {titles.get(against, against)}"]
    head += ["p over posts", "Holm", "p over folds", "seconds a cell"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in found:
        marks = [titles.get(row.name, row.name), f"{row.folds} x {len(row.seeds)}"]
        marks += [f"{s.value:.4f} ({s.low:.4f} to {s.high:.4f})" for s in (row.scores[name] for name in names)]
        if row.difference is None:
            marks += [""] * 4
        else:
            d = row.difference
            marks.append(f"{d.difference:+.4f} ({d.low:+.4f} to {d.high:+.4f})")
            marks += [f"{p:.3f}" if p >= 0.001 else "<.001" for p in (d.p, row.p_holm, row.fold_p)]
        lines.append(f"| {' | '.join([*marks, f'{row.seconds:.1f}'])} |")
    stored = json.loads((cells.out / MADE_OF).read_text(encoding="utf-8"))
    made, about = stored["made of"], stored["environment"]
    lines += [
        "",
        f"{len(cells.folds.scored().targets):,} posts, grouped folds cut with seed {made['fold seed']} "
        f"({made['folds']} in all); {about['gpu'] or about['processor']}, torch {about['packages']['torch']}, "
        f"cotune {about['cotune']}; intervals and tests over posts: {BOOTSTRAP:,} paired resamples.",
    ]
    return "\n".join(lines)
