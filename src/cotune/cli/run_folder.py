"""The argument RUN of the commands that use a run, and how they open it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cotune.run import Run

RunFolder = Annotated[Path, typer.Argument(help="Run folder that `cotune fit` has made.", metavar="RUN")]


def open_run(folder: Path) -> Run:
    """Open a run, and print what was found wrong with it that harms no prediction."""
    from cotune.run import load_run

    run = load_run(folder)
    for note in run.notes:
        typer.echo(f"note: {note}", err=True)
    return run
