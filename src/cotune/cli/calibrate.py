"""The command ``calibrate``: one temperature for a run, fitted on labelled posts that it has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotune.cli.options import AllowRemote, AsJson, ChunkSize, InferenceBatchSize, Plugin, PostsPath
from cotune.cli.run_folder import RunFolder, on_disk, open_run
from cotune.cli.settings import Flags, Table
from cotune.cli.show import print_json, print_rich, reporter, title
from cotune.errors import ConfigError
from cotune.report.numbers import SCORE_TITLES, interval, number, plural
from cotune.report.terminal import add_row, left_out, new_table

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from cotune.decide.calibrate import Calibration


def calibrate(
    run: RunFolder,
    posts: PostsPath,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would change; leave the run alone.")] = False,
    bootstrap: Annotated[int, typer.Option(min=0, help="Bootstrap resamples for the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the folds and the bootstrap.")] = 0,
    chunk_size: ChunkSize = 512,
    batch_size: InferenceBatchSize = 64,
    flags: Flags = None,
    table: Table = None,
    allow_remote: AllowRemote = False,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Calibrate RUN on the labelled posts in POSTS, which it must not be trained on.

    One temperature is fitted, and kept in the run: predict, evaluate, explain, serve, export and decide then give
    calibrated probabilities. A run may be calibrated again.
    """
    from cotune.data.posts import read_posts
    from cotune.decide.calibrate import calibrate as fitted
    from cotune.decide.calibrate import calibrated, refuse_other_tasks
    from cotune.predict import Predictor
    from cotune.run import save_calibration

    if str(run).startswith("hf:"):
        raise ConfigError(f"{run} is on the hub; download it, and calibrate the folder")
    progress = reporter()
    model = open_run(run, plugin)
    refuse_other_tasks(model.task)
    how: dict[str, Any] = {"columns": table.columns(model.fields), "require_labels": True, "tell": progress.say}
    whole = table.reviewed(read_posts(posts, **how, **table.rows()), progress.say)
    predictor = Predictor(model, batch_size=batch_size, allow_remote=allow_remote, **flags)
    chunks = (whole.iloc[at : at + chunk_size] for at in range(0, len(whole), chunk_size))
    found = fitted(predictor, chunks, n_bootstrap=bootstrap, seed=seed, progress=progress)
    if not dry_run:
        save_calibration(on_disk(run), calibrated(model.task, found.temperature), found.to_dict())
    if as_json:
        print_json(found.to_dict())
        return
    print_rich(_table(found, f"{run.name} on {plural(found.posts, 'post')} of {title(posts)}"))
    how_sure = "overconfident" if found.temperature > 1 else "underconfident"
    print_rich(f"\ntemperature {found.temperature:.3f}: the run was {how_sure}")
    if left := left_out(found.left_out):
        print_rich(left)
    print_rich("nothing was written" if dry_run else f"kept in {run}; its exports are to be made again")


def _table(found: Calibration, name: str) -> RichTable:
    """Return the scores without and with the temperature."""
    numbers = ("without", "interval", "with", "interval ")
    table = new_table(name, "score", *numbers, right=numbers)
    for key, title_ in SCORE_TITLES.items():
        if key in found.before and key in found.after:
            cells = [cell for each in (found.before[key], found.after[key])
                     for cell in (number(each["value"]), interval(each))]  # fmt: skip
            add_row(table, title_, *cells)
    return table
