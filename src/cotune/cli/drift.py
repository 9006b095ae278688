"""The command ``drift``: new posts compared with those that a run was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cotune.cli.options import AllowRemote, AsJson, InferenceBatchSize, Plugin, PostsPath
from cotune.cli.run_folder import RunFolder, open_run
from cotune.cli.settings import Flags, Table
from cotune.cli.show import print_json, print_rich, reporter, title
from cotune.errors import CotuneError, RunError

_CHUNK = 512


def drift(
    run: RunFolder,
    posts: PostsPath,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for drift.json and report.html.", metavar="DIR")
    ] = None,
    sample: Annotated[
        int, typer.Option(min=20, max=4000, help="Posts that are compared, sampled at random where there are more.")
    ] = 1000,
    permutations: Annotated[
        int, typer.Option(min=100, help="Permutations for the p-values; there are more where tests are many.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sample and permutations.")] = 0,
    batch_size: InferenceBatchSize = 64,
    flags: Flags = None,
    table: Table = None,
    allow_remote: AllowRemote = False,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Compare the posts in POSTS with those that RUN was trained on.

    Tests whether embeddings, labels, lengths, sizes, and what is missing or unreadable have shifted, with a verdict
    and the posts that look least like training posts. A run keeps numbers of its training posts for it, no text and
    no image.
    """
    from cotune.data.posts import iter_posts
    from cotune.drift.compare import compare, sample_posts, summarise_new
    from cotune.predict import Predictor
    from cotune.run_settings import SUMMARY

    if out is not None:
        _refuse_harm(out)
    opened = open_run(run, plugin)
    if opened.summary is None:
        raise RunError(
            f"{run} has no summary of its training posts ({SUMMARY}): it was trained by an earlier version of cotune, "
            "or the file was deleted or left out of a hub; train it again"
        )
    progress = reporter()
    how: dict[str, Any] = {"columns": table.columns(opened.fields), "tell": progress.say, **table.rows()}
    found, seen = sample_posts(iter_posts(posts, _CHUNK, **how), sample, seed)
    found = table.reviewed(opened.task.complete(found), progress.say)
    settings = {**flags, "batch_size": batch_size, "bad_images": "text-only", "allow_remote": allow_remote}
    new = summarise_new(Predictor(opened, **settings), found, progress)
    result = compare(opened.summary, new, found, opened.task, n_permutations=permutations, seed=seed, of=seen)
    answer = {"run": run, "posts_table": posts, **result.to_dict()}
    if out is not None:
        from cotune.files import write_json, write_text
        from cotune.ownership import DRIFT
        from cotune.report.drift_report import drift_report

        write_json(out / "drift.json", {**DRIFT.mark(), **answer})
        page = drift_report(result, found, opened.fields, name=run.name, posts_name=title(posts))
        write_text(out / "report.html", page)
    if as_json:
        print_json(answer)
        return
    from cotune.report.terminal import drift_tables

    print_rich(answer["in_words"], "", *(part for shown in drift_tables(answer) for part in (shown, "")))
    print_rich(*(f"note: {note}" for note in result.notes))
    if out is not None:
        print_rich(f"\nwritten to {out}: drift.json, report.html")


def _refuse_harm(out: Path) -> None:
    """Refuse a folder whose files would be replaced though no comparison wrote them."""
    from cotune.ownership import DRIFT, RUN

    if out.exists() and not out.is_dir():
        raise CotuneError(f"{out} is a file; name a folder for the comparison with --out")
    if RUN.owns(out):
        raise CotuneError(f"{out} holds a run; give --out another folder")
    DRIFT.refuse_foreign(out)
