"""The command ``evaluate``: all scores of a run on labelled posts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cotune.cli.engine import EngineOption, ModelFolder, choose, first_and_all, open_scorer
from cotune.cli.options import (
    AllowRemote,
    AsJson,
    ChunkSize,
    InferenceBatchSize,
    Plugin,
    PostsPath,
)
from cotune.cli.run_folder import open_run
from cotune.cli.settings import Flags, Table
from cotune.cli.show import print_json, print_rich, reporter, title
from cotune.errors import CotuneError
from cotune.files import read_json
from cotune.report.numbers import plural
from cotune.report.terminal import evaluation_tables, left_out, members_rows, members_table, score_table
from cotune.run_settings import METRICS

if TYPE_CHECKING:
    from cotune.evaluation import EvaluatedPosts
    from cotune.report.posts_page import ShownPosts
    from cotune.run import Run
    from cotune.scoring import Scorer

_PREDICTIONS = "predictions.csv"


def evaluate(
    run: ModelFolder,
    posts: PostsPath,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for scores, predictions and, of a run, report.html.",
            metavar="DIR",
        ),
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Bootstrap resamples for the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    bad_images: Annotated[
        Literal["error", "text-only"],
        typer.Option(help="Posts with an unreadable image: left out and counted, or scored by their text."),
    ] = "error",
    by: Annotated[
        list[str] | None,
        typer.Option("--by", help="Also score slices of the posts, by this column of the table or by @length (of the "
                     "texts), @size (of the images) or @missing (fields); repeatable.", metavar="COLUMN",
                     show_default=False),
    ] = None,
    seen: Annotated[
        Literal["keep", "leave-out"],
        typer.Option(help="Posts that RUN was trained on, and near-duplicates of them: keep counts them and gives the "
                     "scores without them as well."),
    ] = "keep",
    chunk_size: ChunkSize = 512,
    batch_size: InferenceBatchSize = 64,
    engine: EngineOption = "auto",
    flags: Flags = None,
    table: Table = None,
    allow_remote: AllowRemote = False,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Score RUN on the labelled posts in POSTS, each score with a 95 % interval."""
    from cotune.data.posts import iter_posts, read_posts
    from cotune.evaluation import evaluate_posts
    from cotune.report.posts_page import ShownPosts
    from cotune.slices import kept_columns

    if out is not None:
        _refuse_harm(out, posts)
    progress = reporter()
    choice = choose(run, engine, plugin, flags)
    columns = table.columns(choice.fields, kept_columns(by := by or []))
    how: dict[str, Any] = {"columns": columns, "require_labels": True, "tell": progress.say, **table.rows()}
    notes: list[str] = []
    if table.labels_from is None:
        first, chunks = first_and_all(iter_posts(posts, chunk_size, **how))
    else:
        whole = table.reviewed(read_posts(posts, **how), notes.append)
        first, chunks = first_and_all(whole.iloc[at : at + chunk_size] for at in range(0, len(whole), chunk_size))
    for note in notes:
        progress.say(note)
    settings = {**flags, "batch_size": batch_size, "bad_images": bad_images, "allow_remote": allow_remote}
    predictor = open_scorer(choice, settings, first)
    shown = ShownPosts(predictor.task, predictor.fields)
    watch = None if out is None else shown.add
    result = evaluate_posts(predictor, chunks, n_bootstrap=bootstrap, seed=seed, progress=progress, watch=watch, by=by,
                            seen=seen)  # fmt: skip
    result.notes.extend(note.removeprefix("note: ") for note in notes)
    if out is not None:
        _write(out, predictor, result, run, posts)
        if not choice.exported:  # the report is about a run, and an export has none
            _write_pages(out, shown, result, open_run(run, plugin), run.name, title(posts))
    if as_json:
        print_json(result.to_dict())
        return
    found = result.to_dict()
    tables = evaluation_tables(found, f"{run.name} on {plural(found['n'], 'post')} of {title(posts)}")
    print_rich(tables[0], *(part for more in tables[1:] for part in ("", more)))
    if result.unseen is not None:
        n = plural(result.unseen.n, "post")
        print_rich("", score_table(result.unseen.to_dict(), f"Without posts that were trained on, {n}"))
    if members_rows(about := {} if choice.exported else _members(run)):
        print_rich("", members_table(about))
    if left := left_out(result.left_out):
        print_rich(f"\n{left}")
    if out is not None:
        page = "" if choice.exported else ", report.html, posts.html"
        print_rich(f"\nwritten to {out}: metrics.json, predictions.csv{page}")


def _members(run: Path) -> dict[str, Any]:
    """Return what the trainings that made a run gained when it was trained; nothing if it was one, or is not known."""
    try:
        found = read_json(run / METRICS)
    except CotuneError:
        return {}
    return found.get("members", {}) if isinstance(found, dict) else {}


def _refuse_harm(out: Path, posts: Path) -> None:
    """Refuse a folder in which the results would replace a run, a benchmark or the posts."""
    from cotune.data.predictions import check_predictions_path
    from cotune.ownership import BENCHMARK, EVALUATION, RUN

    if out.exists() and not out.is_dir():
        raise CotuneError(f"{out} is a file; name a folder for the results with --out")
    for kind in (RUN, BENCHMARK):
        if kind.owns(out):
            raise CotuneError(f"{out} holds a {kind.name}, whose files would be replaced; give --out another folder")
    check_predictions_path(out / _PREDICTIONS, posts)
    EVALUATION.refuse_foreign(out)


def _write(out: Path, predictor: Scorer[Any], result: EvaluatedPosts, folder: Path, posts: Path) -> None:
    """Write scores and predictions."""
    from cotune.data.predictions import TEXTS, predictions_writer
    from cotune.files import write_json
    from cotune.ownership import EVALUATION

    texts = TEXTS if predictor.task.text_label else {"id", "error"}
    write_json(out / "metrics.json", {**EVALUATION.mark(), "run": folder, "posts": posts, **result.to_dict()})
    with predictions_writer(out / _PREDICTIONS, list(result.predictions.columns), texts) as write:
        write(result.predictions)


def _write_pages(out: Path, shown: ShownPosts, result: EvaluatedPosts, run: Run, name: str, posts: str) -> None:
    """Write the report, and the posts it is about."""
    from cotune.files import write_text
    from cotune.report.posts_page import posts_page
    from cotune.report.run_report import evaluation_report
    from cotune.run_settings import POSTS_PAGE, REPORT

    write_text(out / POSTS_PAGE, posts_page(shown, title=f"Predictions of {name} for {posts}"))
    report = evaluation_report(run, result, name=name, posts=posts, posts_page=POSTS_PAGE)
    write_text(out / REPORT, report)
