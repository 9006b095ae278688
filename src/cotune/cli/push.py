"""The command ``push``: a run onto the model hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cotune.cli.options import AsJson, Plugin
from cotune.cli.show import command, print_json, print_next, print_rich
from cotune.errors import ConfigError
from cotune.report.terminal import add_row, new_table

if TYPE_CHECKING:
    from cotune.run import Run
    from cotune.sharing.push import Destination

_SAMPLES = 5
_CARD = "Model card"


def push(
    run: Annotated[Path, typer.Argument(help="Run folder that `cotune fit` has made.", metavar="RUN")],
    repository: Annotated[
        str, typer.Argument(help="Where to: your name or organisation, and a name.", metavar="OWNER/NAME")
    ],
    private: Annotated[bool, typer.Option("--private", help="Let nobody else see it.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch to push to, made if there is none.", metavar="BRANCH")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Another hub than huggingface.co (also: HF_ENDPOINT).", metavar="URL")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files and card, and upload nothing.")] = False,
    keep_card: Annotated[
        bool,
        typer.Option(
            "--keep-card", help="Leave the card that is there as it is, edited perhaps.", rich_help_panel=_CARD
        ),
    ] = False,
    license: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option(help="The hub's name of its licence, such as apache-2.0.", metavar="ID", rich_help_panel=_CARD),
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(help="Language of the posts, such as en; repeatable.", metavar="CODE", rich_help_panel=_CARD),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Data set of the hub it was trained on; repeatable.", metavar="NAME", rich_help_panel=_CARD),
    ] = None,
    intended_use: Annotated[
        str, typer.Option(help="What it is for, in your words.", metavar="TEXT", rich_help_panel=_CARD)
    ] = "",
    limits: Annotated[
        str, typer.Option(help="What it is not for, in your words.", metavar="TEXT", rich_help_panel=_CARD)
    ] = "",
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Posts table whose first five posts are shown in the card, by their texts: everybody can read them.",
            metavar="POSTS",
            rich_help_panel=_CARD,
        ),
    ] = None,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Upload RUN to the model hub, where `hf:OWNER/NAME` names it.

    Only the run's own files go there, without the paths and the command line they hold: no report, no posts, nothing
    else that is in the folder. The files are listed before they are uploaded. The token is the one that `hf auth login`
    or HF_TOKEN has set.
    """
    from huggingface_hub import constants

    from cotune.cli.run_folder import on_disk, open_run
    from cotune.hub import PREFIX, parse_repository
    from cotune.report.card_metadata import CardDetails
    from cotune.run_settings import CARD
    from cotune.sharing.push import Destination, prepare, refuse_export, sizes
    from cotune.sharing.push import push as upload

    repository = repository.removeprefix(PREFIX)
    if parse_repository(repository)[1] is not None:
        raise ConfigError(f"give the branch by --revision, not within the name {repository}")
    to = Destination(repository, revision, private, (endpoint or constants.ENDPOINT).rstrip("/"))
    folder = on_disk(run)
    refuse_export(folder)
    opened = open_run(folder, plugin)
    details = CardDetails(
        repository,
        license,
        tuple(language or ()),
        tuple(dataset or ()),
        intended_use,
        limits,
        tuple(_samples(opened, samples)) if samples is not None else (),
    )
    files = prepare(folder, opened, details)
    card = files.pop(CARD) if keep_card else files[CARD]
    assert isinstance(card, bytes)
    listed = dict(sizes(files))
    if not as_json:
        print_rich(_table(to, listed))
    url = None if dry_run else upload(files, to)
    if as_json:
        print_json({"repository": repository, "url": url, "files": listed, "card": card.decode()})
    elif url is None:
        typer.echo(f"\n{card.decode()}\ndry run: nothing was uploaded")
    else:
        where = PREFIX + repository + (f"@{revision}" if revision else "")
        following = command("cotune", "predict", where, "posts.csv", "--out", "predictions.csv")
        print_next(f"Pushed to {url}. Next:", following)


def _table(to: Destination, listed: dict[str, int]) -> object:
    seen = "private" if to.private else "public if it is new"
    where = f"{to.repository} on {to.endpoint}" + (f", branch {to.revision}" if to.revision else "")
    table = new_table(f"To {where} ({seen})", "file", "bytes", right=("bytes",))
    for name, size in listed.items():
        add_row(table, name, f"{size:,}")
    add_row(table, "together", f"{sum(listed.values()):,}")
    return table


def _samples(run: Run, posts: Path) -> list[dict[str, str]]:
    """Return the first posts of a table as the card shows them: texts and predictions, no images and no ids."""
    from cotune.data.posts import ColumnNames, iter_posts
    from cotune.errors import clip
    from cotune.predict import Predictor
    from cotune.report.numbers import number

    chunk = next(iter_posts(posts, _SAMPLES, columns=ColumnNames(fields=run.fields)), None)
    if chunk is None:
        raise ConfigError(f"{posts} has no posts; name another table with --samples, or leave it out")
    found = Predictor(run, bad_images="text-only").frame(chunk)
    rows = []
    for at in found.index[found["label"].notna()]:
        texts = {f.name: clip(str(chunk[f.name].iloc[at] or ""), 200) for f in run.fields if f.kind == "text"}
        proba = {column: number(found[column].iloc[at], 3) for column in run.task.columns()}
        rows.append({**texts, "predicted": str(found["label"].iloc[at]), **proba})
    return rows
