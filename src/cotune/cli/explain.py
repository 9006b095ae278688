"""The command ``explain``: why a run says what it says of the posts of a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cotune.cli.engine import EngineOption
from cotune.cli.options import (
    AllowRemote,
    AsJson,
    ChunkSize,
    InferenceBatchSize,
    Plugin,
    PostsPath,
)
from cotune.cli.run_folder import RunFolder, open_run
from cotune.cli.settings import Flags, Table
from cotune.cli.show import print_json, print_rich, reporter, tell_note
from cotune.cli.stop import StoppedError
from cotune.errors import ConfigError, CotuneError, did_you_mean
from cotune.report.numbers import plural
from cotune.report.terminal import posts_table, shares_table

if TYPE_CHECKING:
    import pandas as pd

    from cotune.explain.explainer import Explainer
    from cotune.explain.table.explain_posts import ExplainedPosts
    from cotune.explain.table.second_pass import ExplainPlan

_FOLDER = "posts"


def explain(
    run: RunFolder,
    posts: PostsPath,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for index.html, a page per explained post, and the numbers.", metavar="DIR"),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Posts whose words and pixels are explained, and listed.")] = 20,
    find: Annotated[
        str | None,
        typer.Option(
            help="List and explain these posts, instead of some of every kind: conflicts, mistakes, text-driven, "
            "image-driven, or FIELD-driven.",
            metavar="[conflicts|mistakes|FIELD-driven]",
        ),
    ] = None,
    words: Annotated[bool, typer.Option("--words/--no-words", help="Explain words (needs cotune\\[explain]).")] = True,
    pixels: Annotated[bool, typer.Option("--pixels/--no-pixels", help="Explain parts of the images.")] = True,
    emap: Annotated[
        int, typer.Option(min=0, help="Posts for the additive projection (EMAP); its cost grows with their square.")
    ] = 500,
    word_posts: Annotated[int, typer.Option(min=0, help="Posts that the top words are counted over.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples for both.")] = 0,
    bad_images: Annotated[
        Literal["error", "text-only"],
        typer.Option(help="Posts with an unreadable image: counted with their error, or explained by their text."),
    ] = "error",
    chunk_size: ChunkSize = 512,
    batch_size: InferenceBatchSize = 64,
    flags: Flags = None,
    table: Table = None,
    allow_remote: AllowRemote = False,
    engine: EngineOption = "auto",
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Say how much text and image drove each prediction in POSTS, and which words and pixels.

    The shares of all posts go to modality.csv, a page each for the posts worth a look, and index.html for the
    whole table. A run that was stopped goes on where it was when it is started again in the same way.
    """
    if out is None and find is None:
        raise ConfigError(
            "specify an output folder: --out DIR; or what to list, without pages: --find conflicts, image-driven, "
            "text-driven or mistakes"
        )
    if str(posts) == "-":
        raise ConfigError("explain reads the table twice, which standard input cannot be; save it as a file")
    from cotune.data.posts import iter_posts
    from cotune.data.store import default_root
    from cotune.encoders.frozen_engine import FrozenEngines
    from cotune.explain.explainer import Explainer
    from cotune.explain.table.explain_posts import explain_posts
    from cotune.explain.table.second_pass import ExplainPlan
    from cotune.files import real_path

    if out is not None and words and limit + word_posts:
        from cotune.explain.words import need_captum

        need_captum()
    if out is not None:
        _refuse_harm(out)
    explainer = Explainer(
        open_run(run, plugin), **flags, batch_size=batch_size, bad_images=bad_images, allow_remote=allow_remote
    )
    columns, rows = table.columns(explainer.run.fields), table.rows()
    which = None if find is None else _list_name(find, explainer)
    plan = ExplainPlan(limit, which, words, pixels, emap, word_posts, seed)
    key = _key(explainer, posts, columns=columns, bad_images=bad_images, chunk_size=chunk_size,
               allow_remote=allow_remote, where=rows["where"], format=rows["kind"],
               allow_outside=rows["allow_outside"])  # fmt: skip
    # A table that cannot be used must leave nothing behind.
    first = next(iter_posts(posts, chunk_size, columns=columns, **rows), None)
    progress = reporter()
    explainer.use_engines(FrozenEngines(default_root(), engine, progress), _about_how_many(first, chunk_size))
    notes = [progress.say]  # the table is read twice, and its notes are wanted once
    try:
        found = explain_posts(
            explainer,
            lambda: iter_posts(posts, chunk_size, columns=columns, tell=notes.pop() if notes else None, **rows),
            plan,
            out=out,
            key=key,
            on_explanation=None if out is None else _page_writer(out, real_path(run).name),
            progress=progress,
        )
    except KeyboardInterrupt:
        kept = f"; what was done is saved in {out}, and the same command resumes from there" if out is not None else ""
        raise StoppedError(f"stopped{kept}") from None
    if out is not None:
        _finish(out, found, real_path(run).name, posts.name)
    if as_json:
        print_json(_answer(found, plan, out))
        return
    _tell(found, plan, out)


def _about_how_many(first: pd.DataFrame | None, chunk_size: int) -> int:
    """Return how many posts a table has as far as its first chunk tells; many, if that is full."""
    from cotune.encoders.frozen_engine import WORTH_IT

    seen = 0 if first is None else len(first)
    return max(seen, WORTH_IT) if seen == chunk_size >= WORTH_IT // 2 else seen


def _list_name(find: str, explainer: Explainer) -> str:
    from cotune.explain.table.summary import list_names

    known = {name.replace("_driven", "-driven"): name for name in list_names(explainer.field_names)}
    if find not in known:
        raise ConfigError(f"--find takes {', '.join(known)}, not {find!r}{did_you_mean(find, known)}")
    return known[find]


def _refuse_harm(out: Path) -> None:
    """Refuse a folder in which pages and tables would replace what `cotune explain` did not write."""
    from cotune.ownership import EXPLANATIONS

    if out.exists() and not out.is_dir():
        raise CotuneError(f"{out} is a file; name a folder for the explanations with --out")
    EXPLANATIONS.refuse_foreign(out)


def _key(explainer: Explainer, posts: Path, **more: Any) -> dict[str, Any]:
    """Return what kept results depend on: the weights, the table's file, and how both are read."""
    from cotune.data.kept_chunks import table_key
    from cotune.run import weights_hash

    run = {"classes": explainer.run.classes, "weights": weights_hash(explainer.model)}
    return {**table_key(posts), **run, **more}


def _page_writer(out: Path, run: str) -> Any:
    from cotune.files import write_text
    from cotune.report.explain_report import page_name, post_page

    def write(row: int, found: Any) -> None:
        write_text(out / _FOLDER / page_name(row), post_page(found, row=row, run=run, index="../index.html"))

    return write


def _finish(out: Path, found: ExplainedPosts, run: str, posts: str) -> None:
    from cotune.explain.table.explain_posts import finish
    from cotune.files import write_text
    from cotune.report.explain_report import page_name, set_page, with_neighbours

    write_text(out / "index.html", set_page(found, run=run, posts=posts, folder=_FOLDER))
    rows = [(row, str(values["id"])) for row, values in found.explained.items()]
    for before, (row, _), after in zip([None, *rows], rows, [*rows[1:], None], strict=False):
        path = out / _FOLDER / page_name(row)
        if path.is_file():  # it may have been removed since an earlier run made it
            write_text(path, with_neighbours(path.read_text(encoding="utf-8"), before, after))
    wanted = {page_name(row) for row, _ in rows}
    for old in (out / _FOLDER).glob("post-*.html"):
        if old.name not in wanted:  # of an earlier run in the same folder
            old.unlink()
    finish(out)


def _answer(found: ExplainedPosts, plan: ExplainPlan, out: Path | None) -> Any:
    if plan.find is not None:
        return {"find": plan.find, "out": out, "posts": found.lists[plan.find], "summary": found.summary}
    return {"out": out, "summary": found.summary, "lists": found.lists, "not_explained": found.failed}


def _tell(found: ExplainedPosts, plan: ExplainPlan, out: Path | None) -> None:
    summary = found.summary
    if plan.find is not None:
        print_rich(posts_table(found.lists[plan.find], plan.find, summary["fields"]))
    else:
        print_rich(shares_table(summary))
    parts = summary["of_posts_with_both"]
    if summary["with_both"]:
        one, *others = summary["fields"]
        pair = len(others) == 1
        flips = ""
        if f"flips_without_{one}" in parts:
            flips = (
                f"; the label flips without the {others[0]} in {parts[f'flips_without_{others[0]}']:.0%}, "
                f"without the {one} in {parts[f'flips_without_{one}']:.0%}"
            )
        print_rich(
            f"\n{plural(summary['with_both'], 'post')} with {f'{one} and {others[0]}' if pair else 'several fields'}: "
            f"{'the two' if pair else 'they'} disagree in {parts['pull_apart']:.0%}{flips}"
        )
    for name, by in summary["removed"].items():
        if by == "zeros":
            tell_note(f"note: this run was trained without posts that lack the {name}; zeros stand in for it")
    if summary["errors"]:
        where = f"; see {out / 'modality.csv'}" if out is not None else ""
        tell_note(f"note: {plural(summary['errors'], 'post')} without a prediction{where}")
    if found.failed:
        tell_note(f"note: {plural(len(found.failed), 'post')} could not be explained; see summary.json")
    if out is not None:
        print_rich(f"\n{plural(len(found.explained), 'post')} explained; the pages begin at {out / 'index.html'}")
