"""How long work tells how far it is: a silent form for libraries, bars for terminals and for notebooks."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

from cotune.console import is_terminal, open_console, tell

T = TypeVar("T")
#: Takes how much is done, and of how much.
OnProgress = Callable[[int, int], None]


class Progress:
    """Says nothing; the base of those that do."""

    def track(self, items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
        """Yield `items`; each one counts as a step of `total`, or of a number that nobody knows."""
        with self.counter(what, total) as count:
            for done, item in enumerate(items, 1):
                yield item
                count(done, total or 0)

    @contextmanager
    def counter(self, what: str, total: int | None = None) -> Iterator[OnProgress]:
        """Give what is to be called with how much is done, and of how much, while the block runs."""
        del what, total
        yield lambda done, total: None

    def begin(self, stage: str) -> None:
        """Tell the user that a stage of the work begins, which may take minutes."""

    def say(self, line: str) -> None:
        """Tell the user one line."""


class TerminalProgress(Progress):
    """Bars and lines on standard error, so that standard output stays free for results."""

    def __init__(self) -> None:
        self.console = open_console(stderr=True)

    @contextmanager
    def counter(self, what: str, total: int | None = None) -> Iterator[OnProgress]:
        """Show a bar; a log without a terminal gets none."""
        if not is_terminal(self.console) or (total is not None and total < 2):
            yield lambda done, total: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)

    def begin(self, stage: str) -> None:
        """Print a line; in a log without bars nothing else says that work is going on."""
        self.say(stage)

    def say(self, line: str) -> None:
        """Print one line: wrapped at words on a terminal, whole in a log."""
        tell(line, self.console)


class NotebookProgress(Progress):
    """Bars and lines in the output of a notebook's cell; it takes IPython and no widgets."""

    #: Seconds between two pictures of a bar.
    pause = 0.1

    @contextmanager
    def counter(self, what: str, total: int | None = None) -> Iterator[OnProgress]:
        """Show a bar below the cell, which goes when the block ends."""
        if total is not None and total < 2:
            yield lambda done, total: None
            return
        shown: Any = import_module("IPython.display")
        started = last = time.monotonic()
        handle = shown.display(shown.HTML(_bar(what, 0, total or 0, 0.0)), display_id=True)

        def count(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= self.pause or done == total:
                last = now
                handle.update(shown.HTML(_bar(what, done, total, now - started)))

        try:
            yield count
        finally:
            handle.update(shown.HTML(""))

    def begin(self, stage: str) -> None:
        """Print a line."""
        self.say(stage)

    def say(self, line: str) -> None:
        """Print one line into the cell's output; what goes to standard error looks like a failure there."""
        print(line, flush=True)  # noqa: T201


def _bar(what: str, done: int, total: int, seconds: float) -> str:
    """Return a bar in the browser's own form, which suits light and dark notebooks; without a total it only moves."""
    what = html.escape(what)
    place = f' value="{done}" max="{total}"' if total else ""
    counted = f"{done:,} of {total:,}" if total else f"{done:,}"
    left = f", about {seconds / done * (total - done):.0f} s left" if total and 0 < done < total else ""
    return f'<div>{what} <progress aria-label="{what}"{place}></progress> {counted}, {seconds:.0f} s{left}</div>'


def watched_progress() -> Progress:
    """Return bars for where the program runs: below a notebook's cell, or on standard error."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return TerminalProgress() if getattr(shell, "kernel", None) is None else NotebookProgress()
