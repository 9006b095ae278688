"""What commands print: results on standard output, progress and notes on standard error unless they are unwanted."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cotune.console import show, tell

if TYPE_CHECKING:
    from cotune.progress import Progress

# Of one call of main() alone, as a program may call it again.
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


def be_quiet(quiet: bool = True) -> None:
    """Leave progress and notes out from now on (``--quiet``)."""
    _quiet.set(quiet)


def is_quiet() -> bool:
    """Tell whether progress and notes are unwanted."""
    return _quiet.get()


def reporter() -> Progress:
    """Return the progress reporter of a command."""
    from cotune.progress import Progress, TerminalProgress

    return Progress() if is_quiet() else TerminalProgress()


def tell_note(line: str) -> None:
    """Print a line that is no result and no error on standard error."""
    if not is_quiet():
        tell(line)


def print_json(value: Any) -> None:
    """Print strict JSON."""
    from cotune.files import to_json

    typer.echo(to_json(value))


def print_rich(*parts: Any) -> None:
    """Print tables and lines."""
    show(*parts)


def print_next(done: str, *commands: str) -> None:
    """Say where the results are and what comes next; commands are not wrapped, so that they can be copied."""
    if is_quiet():
        return
    print_rich(f"\n{done}")
    for line in commands:
        typer.echo(f"  {line}")


def command(*words: object) -> str:
    """Return words as a shell would take them."""
    import shlex

    return shlex.join(str(word) for word in words)


def repeated(flag: str, values: Iterable[str] | None) -> list[str]:
    """Return a flag that was given several times as words of a command."""
    return [word for value in values or () for word in (flag, value)]


def title(posts: Path) -> str:
    """Return what a posts table is called in headings."""
    return "standard input" if str(posts) == "-" else posts.name
