"""How long work tells how far it is: a silent form for libraries and a bar for terminals."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Progress:
    """Says nothing; the base of those that do."""

    def track(self, items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
        """Yield `items`; each one counts as a step of `total`, or of a number that nobody knows."""
        del what, total
        yield from items

    def begin(self, stage: str) -> None:
        """Tell the user that a stage of the work begins, which may take minutes."""

    def say(self, line: str) -> None:
        """Tell the user one line."""


class TerminalProgress(Progress):
    """Bars and lines on standard error, so that standard output stays free for results."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    def track(self, items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
        """Yield `items` behind a bar; a terminal-less log gets no bar."""
        if not self.console.is_terminal or (total is not None and total < 2):
            yield from items
            return
        with self._bar() as bar:
            task = bar.add_task(what, total=total)  # type: ignore[attr-defined]
            for item in items:
                yield item
                bar.advance(task)  # type: ignore[attr-defined]

    @contextmanager
    def _bar(self) -> Iterator[object]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=self.console, transient=True) as bar:
            yield bar

    def begin(self, stage: str) -> None:
        """Print a line; in a log without bars nothing else says that work is going on."""
        self.say(stage)

    def say(self, line: str) -> None:
        """Print one line, which is not cut in two where it is longer than the terminal is wide."""
        self.console.print(line, markup=False, soft_wrap=True)
        sys.stderr.flush()
