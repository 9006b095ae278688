"""The command ``reproduce``: a run trained once more from its own record, and compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotune.cli.options import AsJson, Plugin
from cotune.cli.run_folder import RunFolder, open_run
from cotune.cli.show import print_json, print_rich, reporter
from cotune.errors import CotuneError
from cotune.report.numbers import plural
from cotune.report.terminal import add_row, new_table

if TYPE_CHECKING:
    from cotune.reproduce import Difference, Reproduction

_SHOWN = 10


def reproduce(
    context: typer.Context,
    run: RunFolder,
    posts: Annotated[
        Path | None,
        typer.Option("--posts", help="The posts table, if it is no longer where it was.", metavar="POSTS",
                     show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Keep the new run in this folder.", metavar="DIR", show_default=False)
    ] = None,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train RUN once more from its own record and compare weights, scores and predictions, bit by bit.

    Exit code 0: the same. 1: something differs; what and by how much is printed. 2: it cannot be repeated, as the posts
    are others or something it was made of is gone.
    """
    from cotune.cli.recorded import Recorded
    from cotune.cli.train import among_ranks
    from cotune.reproduce import refuse_unfinished
    from cotune.reproduce import reproduce as train_again

    _refuse_harm(out)
    opened = open_run(run, plugin)
    refuse_unfinished(opened, str(run))
    recorded = Recorded(run, opened)
    start, table, config = recorded.start(), recorded.posts(posts), recorded.config()
    first = among_ranks(config, table, context.find_root().obj)
    found, held = recorded.read(table, config)
    result, fitted = train_again(
        opened,
        found,
        config,
        name=str(run),
        validation_posts=held,
        start=None if start is None else open_run(start),
        allow_remote=recorded.allow_remote,
        progress=reporter(),
    )
    if not first:
        return
    if out is not None:
        from cotune.report.run_pages import run_pages
        from cotune.run import save_run

        save_run(out, result.run, pages=run_pages(result.run, fitted.held_out, name=out.name))
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result, run, out)
    if not result.same:
        raise typer.Exit(1)


def _refuse_harm(out: Path | None) -> None:
    if out is not None and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise CotuneError(f"{out} is not empty; name a new folder for the second run with --out")


def _print(result: Reproduction, run: Path, out: Path | None) -> None:
    weights, predictions = result.weights, result.predictions
    if result.same:
        print_rich(
            f"The same, bit by bit: {plural(weights.n, 'weight')} (hash {result.hashes[0]}), the figures of every "
            f"epoch, and the predictions of {result.scored}."
        )
    else:
        print_rich(f"{run} was not repeated bit by bit:")
        rows = new_table("", "what", "differ", "of", "by at most", right=("differ", "of", "by at most"))
        add_row(rows, "weights", f"{weights.differ:,}", f"{weights.n:,}", f"{weights.largest:.3g}")
        add_row(rows, f"predictions of {result.scored}", f"{predictions.differ:,}", f"{predictions.n:,}",
                f"{predictions.largest:.3g}")  # fmt: skip
        print_rich(rows, f"labels that differ: {result.labels:,}; the weights differ most in {weights.where or 'none'}")
        _table("Figures that differ", result.figures)
    _table("Differences of the environment", result.environment)
    if not result.environment and not result.same:
        print_rich("", "No version, processor, thread count or number format differs.")
    if out is not None:
        print_rich("", f"The second run is saved to {out}.")


def _table(title: str, differences: list[Difference]) -> None:
    if not differences:
        return
    table: Any = new_table(title, "what", "before", "now", "by", right=("by",))
    for each in differences[:_SHOWN]:
        add_row(table, each.name, str(each.before), str(each.now), "" if each.by is None else f"{each.by:.3g}")
    more = [f"and {len(differences) - _SHOWN:,} more (--json has all)"] if len(differences) > _SHOWN else []
    print_rich("", table, *more)
