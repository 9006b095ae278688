"""How a benchmark tells how far it is: a live table on a terminal, one line per cell in a log."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from cotune.benchmark.folds import Folds
from cotune.benchmark.methods import METHODS
from cotune.benchmark.plan import Cell, short_name
from cotune.benchmark.records import Record
from cotune.benchmark.results import RowKey
from cotune.benchmark.runner import Failure, Watcher
from cotune.benchmark.tables import seconds
from cotune.progress import Progress

T = TypeVar("T")


class Tally:
    """Counts cells, foresees the time left and keeps the table so far.

    Parameters
    ----------
    jobs : int
        Worker processes.
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs
        self.total = self.done = self.failed = 0
        self.aucs: dict[RowKey, list[float]] = {}
        self.wanted: dict[RowKey, int] = defaultdict(int)
        self._folds: Folds | None = None
        self._places: dict[str, int] = {}
        self._took: dict[str, list[float]] = defaultdict(list)
        self._todo: dict[Cell, None] = {}
        self._started = time.perf_counter()

    def begin(self, folds: Folds, cells: list[Cell], found: list[Record]) -> None:
        """Learn what is to be done and what is there already."""
        self._folds = folds
        self._places = {str(identity): at for at, identity in enumerate(folds.ids)}
        self.total = len(cells)
        self._todo = dict.fromkeys(cells)
        for cell in cells:
            if cell.shots is None:
                self.wanted[RowKey.of(cell)] += 1
                self.aucs.setdefault(RowKey.of(cell), [])
        for record in found:
            self.add(record)

    def add(self, record: Record) -> float:
        """Count a finished cell and return its main score, such as the AUC."""
        self.done += 1
        self._todo.pop(record.cell, None)
        assert self._folds is not None
        task, at = self._folds.task, [self._places[identity] for identity in record.ids]
        auc = task.score(self._folds.targets[at], record.proba)[task.main_score]
        if record.cell.shots is None:
            self.aucs[RowKey.of(record.cell)].append(auc)
        if METHODS[record.cell.method].run is not None:
            self._took[record.cell.method].append(record.seconds)
        return auc

    @property
    def main(self) -> str:
        """What the main score is called."""
        return "score" if self._folds is None else self._folds.task.main_title

    def fail(self, cell: Cell) -> None:
        """Count a cell that failed."""
        self.failed += 1
        self._todo.pop(cell, None)

    def left(self) -> float | None:
        """Return the seconds still to come, as far as can be told from the cells that are done."""
        all_of = [took for many in self._took.values() for took in many]
        if not all_of:
            return None
        usual = sum(all_of) / len(all_of)
        expected = 0.0
        for cell in self._todo:
            if METHODS[cell.method].run is not None:
                mine = self._took.get(cell.method)
                expected += sum(mine) / len(mine) if mine else usual
        return expected / self.jobs

    def elapsed(self) -> float:
        """Return the seconds since the beginning of this session."""
        return time.perf_counter() - self._started

    def headline(self) -> str:
        """Return one line: cells done, failed, time spent and left."""
        left = self.left()
        parts = [f"{self.done} of {self.total} cells done", f"{seconds(self.elapsed())} spent"]
        if self.failed:
            parts.insert(1, f"{self.failed} failed")
        if left is not None and self._todo:
            parts.append(f"about {seconds(left)} left")
        return ", ".join(parts)


class LineWatcher(Watcher):
    """Prints a line for every cell, for logs.

    Parameters
    ----------
    jobs : int
        Worker processes.
    """

    def __init__(self, jobs: int = 1) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.tally = Tally(jobs)
        self.progress = _Lines(self.say)

    def say(self, line: str) -> None:
        """Print one line."""
        self.console.print(line, markup=False)

    def begin(self, folds: Folds, cells: list[Cell], found: list[Record]) -> None:
        """Tell what is to be done."""
        self.tally.begin(folds, cells, found)
        self.say(f"{len(folds.ids):,} posts in {folds.n_folds} folds; {self.tally.headline()}")

    def finish(self, record: Record) -> None:
        """Tell of a finished cell."""
        auc = self.tally.add(record)
        self.say(
            f"{name_of(record.cell)}: {self.tally.main} {auc:.4f} in {seconds(record.seconds)}; {self.tally.headline()}"
        )

    def fail(self, failure: Failure) -> None:
        """Tell of a cell that failed."""
        self.tally.fail(failure.cell)
        self.say(f"{name_of(failure.cell)}: failed: {failure.reason}")


class LiveWatcher(LineWatcher):
    """Keeps a table at the foot of the terminal up to date; used as a context manager."""

    def __init__(self, jobs: int = 1) -> None:
        from rich.live import Live

        super().__init__(jobs)
        self._under_way: dict[Cell, float] = {}
        self._doing = "reading images"
        self.live = Live(console=self.console, refresh_per_second=2, get_renderable=self.render, transient=True)
        self.progress = _Lines(self.say, self._set_doing)
        self.on_image = self._on_image

    def __enter__(self) -> LiveWatcher:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def _set_doing(self, what: str) -> None:
        self._doing = what

    def _on_image(self, done: int, total: int) -> None:
        self._doing = f"reading images, {done:,} of {total:,}"

    def begin(self, folds: Folds, cells: list[Cell], found: list[Record]) -> None:
        """Learn what is to be done."""
        self._doing = ""
        self.tally.begin(folds, cells, found)

    def start(self, cell: Cell) -> None:
        """Show that a cell is under way."""
        self._under_way[cell] = time.perf_counter()

    def finish(self, record: Record) -> None:
        """Show a finished cell in the table."""
        self._under_way.pop(record.cell, None)
        self._doing = ""
        self.tally.add(record)

    def fail(self, failure: Failure) -> None:
        """Show a failed cell."""
        self._under_way.pop(failure.cell, None)
        super().fail(failure)

    def render(self) -> Any:
        """Return the table so far and what is under way."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="dim")
        for name, side in (
            ("method", "left"),
            ("encoders", "left"),
            ("folds", "right"),
            (f"mean {self.tally.main}", "right"),
        ):
            table.add_column(name, justify=side)  # type: ignore[arg-type]
        for key, aucs in self.tally.aucs.items():
            mean = f"{sum(aucs) / len(aucs):.4f}" if aucs else "-"
            done = f"{len(aucs)}/{self.tally.wanted[key]}"
            table.add_row(*(Text(word) for word in (key.method, key.encoders, done, mean)))
        now = time.perf_counter()
        lines = [f"{name_of(cell)}, {seconds(now - since)}" for cell, since in self._under_way.items()]
        if self._doing:
            lines.append(self._doing)
        # The headline comes last, so that a table taller than the terminal does not hide it.
        return Group(table, *(Text(f"  {line}", style="dim") for line in lines), Text(self.tally.headline()))


class _Lines(Progress):
    """Passes lines and the name of what is tracked on to a watcher."""

    def __init__(self, say: Any, doing: Any = None) -> None:
        self._say, self._doing = say, doing

    def track(self, items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
        for i, item in enumerate(items):
            if self._doing is not None:
                self._doing(f"{what}, {i} of {total}" if total else what)
            yield item
        if self._doing is not None:
            self._doing("")

    def say(self, line: str) -> None:
        self._say(line)


def name_of(cell: Cell) -> str:
    """Return what a cell is called on the screen."""
    encoders = " + ".join(dict.fromkeys(short_name(name) for name in (cell.text, cell.image) if name))
    size = "" if cell.shots is None else f", {cell.shots} posts per class, draw {cell.draw + 1}"
    return f"{cell.method} ({encoders}) fold {cell.fold + 1}, seed {cell.seed}{size}"
