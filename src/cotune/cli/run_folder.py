"""The argument RUN of the commands that use a run, and how they open it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cotune.cli.show import reporter, tell_note

if TYPE_CHECKING:
    from cotune.run import Run

RunFolder = Annotated[
    Path, typer.Argument(help="Run folder that `cotune fit` has made, or hf:OWNER/NAME.", metavar="RUN")
]


@cache
def on_disk(run: Path) -> Path:
    """Return the folder of a run; one of the hub is downloaded, once for a command."""
    from cotune.sharing.fetch import local_folder

    return local_folder(run, reporter().say)


def open_run(folder: Path, plugins: Sequence[str] | None = None) -> Run:
    """Open a run, once the modules it needs are imported, and print what is wrong with it but harms no prediction."""
    from cotune.plugins import load_plugins
    from cotune.run import load_run

    load_plugins(plugins or [])
    run = load_run(on_disk(folder))
    for note in run.notes:
        tell_note(f"note: {note}")
    return run
