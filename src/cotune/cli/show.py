"""Answers on a terminal: tables for people on standard output, JSON for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer


def print_json(value: Any) -> None:
    """Print strict JSON."""
    from cotune.files import to_json

    typer.echo(to_json(value))


def print_rich(*parts: Any) -> None:
    """Print tables and lines on standard output."""
    from rich.console import Console

    console = Console(highlight=False)
    for part in parts:
        console.print(part, markup=False)


def command(*words: object) -> str:
    """Return words as a shell would take them."""
    import shlex

    return shlex.join(str(word) for word in words)


def title(posts: Path) -> str:
    """Return what a posts table is called in headings."""
    return "standard input" if str(posts) == "-" else posts.name
