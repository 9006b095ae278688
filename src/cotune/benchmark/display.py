"""How a benchmark tells how far it is: a live table on a terminal, one line per cell in a log."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cotune.benchmark.folds import Folds
from cotune.benchmark.methods import METHODS
from cotune.benchmark.plan import Cell, short_name
from cotune.benchmark.records import Record
from cotune.benchmark.results import RowKey
from cotune.benchmark.runner import Failure, Watcher
from cotune.benchmark.tables import seconds
from cotune.console import open_console, tell
from cotune.progress import OnProgress, Progress
from cotune.report.numbers import plural

#: What the cells cost that share a method, encoders and a number of shots.
_Kind = tuple[str, str, str, int | None]


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
        self._took: dict[_Kind, list[float]] = defaultdict(list)
        self._todo: dict[Cell, float | None] = {}  # with the time when it was begun
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

    def start(self, cell: Cell) -> None:
        """Note that a cell is under way."""
        self._todo[cell] = time.perf_counter()

    def under_way(self) -> dict[Cell, float]:
        """Return the cells under way, and the seconds that they have taken."""
        now = time.perf_counter()
        return {cell: now - begun for cell, begun in self._todo.items() if begun is not None}

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
            self._took[_kind(record.cell)].append(record.seconds)
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
        """Return the seconds still to come; None until a cell of each kind that is to be computed has been measured."""
        under_way = self.under_way()
        expected = []
        for cell in self._todo:
            if METHODS[cell.method].run is None:
                continue
            mine = self._took.get(_kind(cell))
            if not mine:
                return None
            usual = sum(mine) / len(mine)
            expected.append(max(usual - under_way.get(cell, 0.0), usual / 10))  # a late cell is not over yet
        return max(sum(expected) / self.jobs, *expected) if expected else None

    def elapsed(self) -> float:
        """Return the seconds since the beginning of this session."""
        return time.perf_counter() - self._started

    def headline(self) -> str:
        """Return one line: cells done, failed, time spent and left."""
        left = self.left()
        parts = [f"{self.done} of {plural(self.total, 'cell')} done", f"{seconds(self.elapsed())} spent"]
        if self.failed:
            parts.insert(1, f"{self.failed} failed")
        if left is not None and self._todo:
            parts.append(f"about {seconds(left)} left")
        return ", ".join(parts)


def _kind(cell: Cell) -> _Kind:
    return cell.method, cell.text, cell.image, cell.shots


class LineWatcher(Watcher):
    """Prints a line for every cell, for logs.

    Parameters
    ----------
    jobs : int
        Worker processes.
    """

    def __init__(self, jobs: int = 1) -> None:
        self.console = open_console(stderr=True)
        self.tally = Tally(jobs)
        self.progress = _Lines(self.say)

    def say(self, line: str) -> None:
        """Print one line."""
        tell(line, self.console)

    def begin(self, folds: Folds, cells: list[Cell], found: list[Record]) -> None:
        """Tell what is to be done."""
        self.tally.begin(folds, cells, found)
        posts, parts = plural(len(folds.ids), "post"), plural(folds.n_folds, "fold")
        self.say(f"{posts} in {parts}; {self.tally.headline()}")

    def start(self, cell: Cell) -> None:
        """Note that a cell is under way."""
        self.tally.start(cell)

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
    """Keeps a table and a bar at the foot of the terminal up to date; used as a context manager."""

    def __init__(self, jobs: int = 1) -> None:
        from rich.live import Live

        super().__init__(jobs)
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

    def finish(self, record: Record) -> None:
        """Show a finished cell in the table."""
        self._doing = ""
        self.tally.add(record)

    def render(self) -> Any:
        """Return the table so far, what is under way and a bar."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        tally = self.tally
        lines = [f"{name_of(cell)}, {seconds(taken)}" for cell, taken in tally.under_way().items()]
        if self._doing:
            lines.append(self._doing)
        rows = list(tally.aucs)
        room = max(1, self.console.height - len(lines) - 5)
        if len(rows) > room:  # live output that is taller than the terminal would lose its end
            lines.insert(0, f"{plural(len(rows) - room, 'more row')}, in the tables at the end")
            unfinished = [key for key in rows if len(tally.aucs[key]) < tally.wanted[key]]
            rows = (unfinished if len(unfinished) >= room else rows[-room:])[:room]
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("method", "encoders"):
            table.add_column(name)
        for name in ("folds", f"mean {tally.main}"):
            table.add_column(name, justify="right", no_wrap=True)
        for key in rows:
            aucs = tally.aucs[key]
            mean = f"{sum(aucs) / len(aucs):.4f}" if aucs else "-"
            table.add_row(*(Text(w) for w in (key.method, key.encoders, f"{len(aucs)}/{tally.wanted[key]}", mean)))
        foot = Table.grid(padding=(0, 1))
        over = tally.done + tally.failed
        # Before the cells are known the bar only moves.
        bar = ProgressBar(tally.total or None, over, width=20 if self.console.width < 100 else 40)
        foot.add_row(bar, Text(tally.headline() if tally.total else "preparing"))
        return Group(table, *(Text(f"  {line}", style="dim") for line in lines), foot)


class _Lines(Progress):
    """Passes lines and the name of what is tracked on to a watcher."""

    def __init__(self, say: Callable[[str], None], doing: Callable[[str], None] | None = None) -> None:
        self._say, self._doing = say, doing

    @contextmanager
    def counter(self, what: str, total: int | None = None) -> Iterator[OnProgress]:
        doing = self._doing
        if doing is None:
            yield lambda done, total: None
            return
        doing(what)
        yield lambda done, total: doing(f"{what}, {done:,} of {total:,}" if total else what)
        doing("")

    def say(self, line: str) -> None:
        self._say(line)


def name_of(cell: Cell) -> str:
    """Return what a cell is called on the screen."""
    encoders = " + ".join(dict.fromkeys(short_name(name) for name in (cell.text, cell.image) if name))
    size = "" if cell.shots is None else f", {cell.shots} posts per class, draw {cell.draw + 1}"
    return f"{cell.method} ({encoders}) fold {cell.fold + 1}, seed {cell.seed}{size}"
