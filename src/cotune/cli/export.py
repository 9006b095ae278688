"""The command ``export``: from a run to a folder that runs without cotune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cotune.cli.options import AsJson, Plugin
from cotune.cli.run_folder import RunFolder, open_run
from cotune.cli.settings import Table
from cotune.cli.show import command, print_json, print_next, print_rich, reporter
from cotune.errors import ConfigError, CotuneError
from cotune.report.terminal import checks_table

if TYPE_CHECKING:
    import pandas as pd

    from cotune.progress import Progress
    from cotune.run import Run

_POSTS = 256


def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option("--out", help="Folder for the export.", metavar="DIR")],
    posts: Annotated[
        Path | None,
        typer.Option(
            "--posts",
            help="Posts table on which the export is compared with the run (the demo's); labelled for --int8.",
            metavar="POSTS",
        ),
    ] = None,
    contributions: Annotated[
        bool, typer.Option("--contributions", help="Let the graph give base, alone and interactions of the fields too.")
    ] = False,
    openvino: Annotated[bool, typer.Option("--openvino", help="Write OpenVINO's own files as well.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Write OpenVINO's own files in INT8: faster, and nearly the same answers.")
    ] = False,
    max_auc_loss: Annotated[
        float,
        typer.Option("--max-auc-loss", min=0, help="With --int8: most that the AUC (regression: Spearman) may lose."),
    ] = 0.005,
    table: Table = None,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Write RUN as one ONNX graph with all that it takes to run it: no cotune and no torch.

    It is compared with the run on some posts before anything is written.
    """
    from dataclasses import asdict

    from cotune.export.export_run import export_run
    from cotune.export.quantize import Int8

    _refuse_harm(out)
    opened = open_run(run, plugin)
    progress = reporter()
    compared = _labelled(opened, posts, table, progress) if int8 else _posts(opened, posts, table)
    checks = export_run(
        opened,
        out,
        compared,
        parts=contributions,
        openvino=openvino,
        int8=Int8(max_auc_loss) if int8 else None,
        progress=progress,
    )
    if as_json:
        print_json({"out": str(out), "checks": [asdict(check) for check in checks]})
        return
    print_rich(checks_table([asdict(check) for check in checks], opened.task.main_title))
    name = "posts.csv" if posts is None else posts
    print_next(
        f"Export saved to {out}; its README.md shows how to run it without cotune. Next:",
        command("cotune", "predict", out, name, *table.flags(), "--out", "predictions.csv"),
    )


def _refuse_harm(out: Path) -> None:
    from cotune.ownership import BENCHMARK, EXPORT, RUN

    if out.exists() and not out.is_dir():
        raise CotuneError(f"{out} is a file; name a folder for the export with --out")
    for kind in (RUN, BENCHMARK):
        if kind.owns(out):
            raise CotuneError(f"{out} holds a {kind.name}, which would be replaced; give --out another folder")
    if out.is_dir() and any(out.iterdir()) and not EXPORT.owns(out):
        raise CotuneError(f"{out} is not empty and holds no export; give --out another folder")


def _posts(run: Run, path: Path | None, table: Table) -> pd.DataFrame:
    """Return the posts to compare on."""
    from cotune.fields import DEFAULT_FIELDS

    if path is None:
        if run.fields != DEFAULT_FIELDS:
            raise ConfigError("name a table of posts with the run's fields, to compare the export on: --posts POSTS")
        from cotune.demo import read_demo_posts

        return read_demo_posts().head(_POSTS)
    from cotune.cli.engine import first_and_all
    from cotune.data.posts import iter_posts

    first, _ = first_and_all(iter_posts(path, _POSTS, columns=table.columns(run.fields), **table.rows()))
    if first is None:
        raise ConfigError(f"{path} has no posts to compare the export on; name another table with --posts")
    return first


def _labelled(run: Run, path: Path | None, table: Table, progress: Progress) -> pd.DataFrame:
    """Return the posts on which a model in INT8 is calibrated and scored."""
    from cotune.data.posts import read_posts
    from cotune.predict import Predictor
    from cotune.seen_check import SeenCheck

    if path is None:
        raise ConfigError("--int8 needs posts with labels, other ones than the run was trained on: --posts POSTS")
    found = read_posts(path, columns=table.columns(run.fields), require_labels=True, tell=progress.say, **table.rows())
    check = SeenCheck(Predictor(run, device="cpu"))
    check.update(found)
    for note in check.found().notes():
        progress.say(f"note: {note}")
    return found
