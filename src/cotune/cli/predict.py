"""The command ``predict``: one row out for every post in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
)
from cotune.cli.settings import Flags, Table
from cotune.cli.show import print_json, print_rich
from cotune.errors import ConfigError, DataError, clip, listed
from cotune.report.numbers import number, plural
from cotune.report.terminal import add_row, new_table

if TYPE_CHECKING:
    import pandas as pd

    from cotune.data.kept_chunks import KeptChunks
    from cotune.fields import Field
    from cotune.scoring import Scorer

_SHOWN = 5


def predict(
    run: ModelFolder,
    posts: Annotated[
        Path | None,
        typer.Argument(
            help="Posts table, or - for standard input; not needed with --text or --image.",
            metavar="[POSTS]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            help="File to write: .csv, .tsv, .jsonl, .json (also .gz), .parquet, .xlsx, or - for standard output.",
            metavar="FILE",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            help="Text of one post, instead of a table; FIELD=TEXT if the run reads several.",
            metavar="[FIELD=]TEXT",
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            help="Image file of one post, instead of a table; FIELD=FILE if the run reads several.",
            metavar="[FIELD=]FILE",
        ),
    ] = None,
    value: Annotated[
        list[str] | None,
        typer.Option("--value", help="Number or category of one post; repeatable.", metavar="COLUMN=VALUE"),
    ] = None,
    bad_images: Annotated[
        Literal["error", "text-only"],
        typer.Option(help="Posts with an unreadable image: no prediction, or one by the text. Both get an error."),
    ] = "error",
    chunk_size: ChunkSize = 512,
    batch_size: InferenceBatchSize = 64,
    engine: EngineOption = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Resume interrupted predictions of a table.")] = False,
    flags: Flags = None,
    table: Table = None,
    allow_remote: AllowRemote = False,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Classify the posts in POSTS, or a single one given by --text and --image.

    Writes one row for each row that came in, in the same order: id, label, a probability for each class, the
    shares of text and image in the decision, and what was wrong, if anything was. Finished chunks are kept beside
    the output until it is complete: after a crash or Ctrl-C, --resume continues from there.
    """
    single = any(given is not None for given in (text, image, value))
    if single == (posts is not None):
        raise ConfigError(
            "give a posts table, or one post by --text and --image (--value for a column of numbers or categories)"
        )
    if not single and out is None:
        raise ConfigError("specify an output file: --out predictions.csv, or --out - for standard output")
    if resume and (single or "-" in (str(posts), out)):
        raise ConfigError(
            "--resume needs a posts table and an output file; standard input and output cannot be resumed"
        )
    from cotune.data.predictions import check_predictions_path

    if out is not None:
        check_predictions_path(out, posts)
    settings: dict[str, Any] = {
        **flags, "batch_size": batch_size, "bad_images": bad_images, "allow_remote": allow_remote
    }  # fmt: skip
    choice = choose(run, engine, plugin, flags)
    if single:
        given = {"text": text or [], "image": image or [], "table": value or []}
        _predict_one(open_scorer(choice, settings), given, out, as_json)
        return
    assert posts is not None
    assert out is not None
    from cotune.data.posts import iter_posts

    # What is wrong with the table as a whole is reported before a line is written.
    columns, rows = table.columns(choice.fields), table.rows()
    first, chunks = first_and_all(iter_posts(posts, chunk_size, columns=columns, **rows))
    predictor = open_scorer(choice, settings, first)
    kept = None
    if "-" not in (str(posts), out):
        depends = {**settings, "chunk_size": chunk_size, "columns": columns, **rows}
        kept = _kept(Path(out), posts, resume, model=choice.identity, engine=predictor.engine_version, **depends)
    counts = _predict_table(predictor, chunks, out, kept)
    if as_json:
        if out != "-":
            print_json({"out": out, **counts})
        return
    _tell(counts, out)


def _kept(out: Path, posts: Path, resume: bool, **depends: Any) -> KeptChunks:
    """Return where finished chunks are kept until `out` is complete.

    Raises
    ------
    ConfigError
        If what is there was begun with another model, table or settings, and is to be resumed.
    """
    from cotune.data.kept_chunks import KeptChunks, table_key
    from cotune.files import remove_leftovers
    from cotune.ownership import PREDICTIONS

    kept = KeptChunks(out.parent / f".{out.name}.unfinished", {**depends, **table_key(posts)}, PREDICTIONS)
    differing = [name.replace("_", "-") for name in kept.differences()]
    if resume:
        remove_leftovers(out)
    else:
        kept.remove()
    if differing and resume:
        raise ConfigError(f"{out} was begun with another {', another '.join(differing)}; use the same, "
                          "or start again without --resume")  # fmt: skip
    return kept


def _predict_table(
    predictor: Scorer[Any], chunks: Iterable[pd.DataFrame], out: str, kept: KeptChunks | None
) -> dict[str, Any]:
    from cotune.cli.stop import StoppedError
    from cotune.data.predictions import predictions_writer
    from cotune.progress import TerminalProgress

    labels = dict.fromkeys(predictor.task.outputs, 0) if predictor.task.target_type == "multiclass" else {}
    counts: dict[str, Any] = {"posts": 0, "predicted": 0, "labels": labels}
    errors: list[dict[str, Any]] = []
    n_errors = 0
    progress = TerminalProgress()
    found = predictor.resumed(chunks, kept)
    try:
        with predictor.timed("total"), predictions_writer(out, predictor.columns(), predictor.text_columns()) as write:
            for posts, frame in progress.track(found, "posts (in chunks)", None):
                with predictor.timed("write"):
                    write(frame)
                wrong = frame["error"].notna()
                n_errors += int(wrong.sum())
                errors += [
                    {"row": int(posts["row"].iloc[at]), "id": frame["id"].iloc[at], "error": frame["error"].iloc[at]}
                    for at in frame.index[wrong][: max(0, _SHOWN - len(errors))]
                ]
                counts["posts"] += len(frame)
                counts["predicted"] += int(frame["label"].notna().sum())
                for label, n in frame["label"].value_counts().items() if predictor.task.text_label else ():
                    counts["labels"][label] = counts["labels"].get(label, 0) + int(n)
    except KeyboardInterrupt:
        if kept is None or not kept.chunks():
            raise
        raise StoppedError(f"stopped; what was done is kept beside {out}, and --resume goes on from there") from None
    if kept is not None:
        kept.remove()
    seconds = {step: round(taken, 3) for step, taken in predictor.seconds.items()}
    return {**counts, "errors": n_errors, "first_errors": errors, "seconds": seconds}


def _tell(counts: dict[str, Any], out: str) -> None:
    """Say what was done, on standard error, as standard output may hold the table."""
    labels = listed((f"{n:,} {label}" for label, n in counts["labels"].items() if n), most=20)
    shown = f" ({labels})" if labels else "" if counts["predicted"] else " (none)"
    written = f", written to {out}" if out != "-" else ""
    typer.echo(f"{plural(counts['posts'], 'post')}: {counts['predicted']:,} predicted{shown}{written}", err=True)
    for error in counts["first_errors"]:
        typer.echo(f"note: row {error['row']} (id {clip(error['id'], 60)}): {error['error']}", err=True)
    more = counts["errors"] - len(counts["first_errors"])
    if counts["errors"]:
        tail = f", {more:,} more than shown here" if more else ""
        typer.echo(f"note: {plural(counts['errors'], 'row')} with an error{tail}; see the column `error`", err=True)


def _one_post(fields: Sequence[Field], given: dict[str, list[str]]) -> dict[str, Any]:
    """Return the single post that the options describe."""
    post: dict[str, Any] = {}
    for kind, values in given.items():
        mine = [field for field in fields if field.kind == kind]
        if values and not mine:
            raise ConfigError(f"the run reads no {kind} field; leave --{_OPTION[kind]} out")
        for value in values:
            name, sign, rest = value.partition("=")
            columns = [column for field in mine for column in field.columns]
            if kind != "table" and len(mine) == 1:
                name, rest = mine[0].columns[0], value.removeprefix(f"{mine[0].name}=")
            elif not sign or name not in {*columns, *(field.name for field in mine)}:
                shown = ", ".join(columns)
                raise ConfigError(f"--{_OPTION[kind]} {clip(value, 60)!r}: say NAME=..., where NAME is one of {shown}")
            by_name = {field.name: field.columns[0] for field in mine if kind != "table"}
            column = by_name.get(name, name)
            if column in post:
                raise ConfigError(f"--{_OPTION[kind]} gives {name!r} twice")
            post[column] = rest
    return {**{column: None for field in fields for column in field.columns}, **post}


_OPTION = {"text": "text", "image": "image", "table": "value"}


def _predict_one(predictor: Scorer[Any], given: dict[str, list[str]], out: str | None, as_json: bool) -> None:
    from cotune.data.predictions import predictions_writer, records
    from cotune.data.python_posts import posts_from
    from cotune.scoring import share_column

    task, fields = predictor.task, predictor.fields
    frame = predictor.frame(posts_from([_one_post(fields, given)], fields))
    found = next(records(frame))
    if found["label"] is None:
        raise DataError(found["error"])
    if out is not None:
        with predictions_writer(out, predictor.columns(), predictor.text_columns()) as write:
            write(frame)
        return
    if as_json:
        print_json(found)
        return
    shares = ", ".join(f"{name} share {found[share_column(name)]:.0%}" for name in predictor.field_names)
    proba = dict(zip(task.outputs, (found[column] for column in task.columns()), strict=False))
    if not proba:
        print_rich(f"{found['label']:.6g}\n\n{shares}")
    else:
        answer = new_table(f"{found['label']}", "class", "probability", right=("probability",))
        for label in sorted(proba, key=lambda label: -proba[label]):
            add_row(answer, label, number(proba[label]))
        print_rich(answer, f"\n{shares}")
    if found["error"]:
        typer.echo(f"note: {found['error']}", err=True)
