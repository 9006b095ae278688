"""Answers on a terminal: tables for people on standard output, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

_TITLES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "log_loss": "log loss",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}


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


def new_table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    """Return an empty table; the columns in `right` are aligned to the right."""
    from rich.table import Table

    right = set(right)
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def add_row(table: Table, *cells: object) -> None:
    """Add a row of plain text; square brackets in it are no markup."""
    from rich.text import Text

    table.add_row(*(Text(str(cell)) for cell in cells))


def score_table(found: Mapping[str, Any], title: str) -> Table:
    """Return all scores of an evaluation with their intervals."""
    interval = f"{found['confidence']:.0%} interval"
    table = new_table(title, "score", "value", interval, right=("value", interval))
    for name, estimate in found["scores"].items():
        low, high = number(estimate["low"]), number(estimate["high"])
        add_row(table, _TITLES.get(name, name), number(estimate["value"]), f"{low} to {high}")
    return table


def confusion_table(classes: Sequence[str], counts: Sequence[Sequence[int]], *, most: int = 12) -> Table | None:
    """Return the confusion matrix, or nothing if it has too many classes for a terminal."""
    if len(classes) > most:
        return None
    header = "true \\ predicted"
    table = new_table("Confusion matrix (posts)", header, *classes, right=classes)
    for name, row in zip(classes, counts, strict=True):
        add_row(table, name, *(f"{n:,}" for n in row))
    return table


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with fixed decimals, or a dash for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def plural(n: int, word: str) -> str:
    """Return `n` and the word, with an s unless there is one."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def command(*words: object) -> str:
    """Return words as a shell would take them."""
    import shlex

    return shlex.join(str(word) for word in words)


def title(posts: Path) -> str:
    """Return what a posts table is called in headings."""
    return "standard input" if str(posts) == "-" else posts.name
