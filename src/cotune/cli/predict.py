"""The command ``predict``: one row out for every post in."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cotune.cli.options import (
    AllowRemote,
    AsJson,
    ChunkSize,
    Format,
    GroupColumn,
    IdColumn,
    ImageColumn,
    InferenceBatchSize,
    LabelColumn,
    Plugin,
    TextColumn,
    Where,
    columns_from,
    rows_from,
)
from cotune.cli.run_folder import RunFolder, open_run
from cotune.cli.settings import Flags
from cotune.cli.show import print_json, print_rich
from cotune.errors import ConfigError, DataError, clip, listed
from cotune.report.numbers import number, plural
from cotune.report.terminal import add_row, new_table

if TYPE_CHECKING:
    from cotune.predict import Predictor

_SHOWN = 5


def predict(
    run: RunFolder,
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
    text: Annotated[str | None, typer.Option("--text", help="Text of one post, instead of a table.")] = None,
    image: Annotated[str | None, typer.Option("--image", help="Image file of one post, instead of a table.")] = None,
    bad_images: Annotated[
        Literal["error", "text-only"],
        typer.Option(help="Posts with an unreadable image: no prediction, or one by the text. Both get an error."),
    ] = "error",
    chunk_size: ChunkSize = 512,
    batch_size: InferenceBatchSize = 64,
    flags: Flags = None,
    id_column: IdColumn = "id",
    text_column: TextColumn = "text",
    image_column: ImageColumn = "image",
    label_column: LabelColumn = "label",
    group_column: GroupColumn = "group",
    where: Where = None,
    table_format: Format = None,
    allow_remote: AllowRemote = False,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Classify the posts in POSTS, or a single one given by --text and --image.

    Writes one row for each row that came in, in the same order: id, label, a probability for each class, the
    shares of text and image in the decision, and what was wrong, if anything was.
    """
    single = text is not None or image is not None
    if single == (posts is not None):
        raise ConfigError("give a posts table, or one post by --text and --image")
    if not single and out is None:
        raise ConfigError("specify an output file: --out predictions.csv, or --out - for standard output")
    from cotune.data.predictions import check_predictions_path

    if out is not None:
        check_predictions_path(out, posts)
    settings: dict[str, Any] = {
        **flags, "batch_size": batch_size, "bad_images": bad_images, "allow_remote": allow_remote
    }  # fmt: skip
    if single:
        _predict_one(_open(run, plugin, settings), text, image, out, as_json)
        return
    assert posts is not None
    assert out is not None
    from cotune.data.posts import iter_posts

    columns = columns_from(id_column, text_column, image_column, label_column, group_column)
    rows = rows_from(where, table_format)
    predictor = _open(run, plugin, settings)
    chunks = iter_posts(posts, chunk_size, columns=columns, **rows)
    first = next(chunks, None)  # what is wrong with the table as a whole is told before a line is written
    counts = _predict_table(predictor, itertools.chain([] if first is None else [first], chunks), out)
    if as_json:
        if out != "-":
            print_json({"out": out, **counts})
        return
    _tell(counts, out)


def _open(run: Path, plugins: list[str] | None, settings: dict[str, Any]) -> Predictor:
    from cotune.predict import Predictor

    return Predictor(open_run(run, plugins), **settings)


def _predict_table(predictor: Predictor, chunks: Any, out: str) -> dict[str, Any]:
    from cotune.data.predictions import predictions_writer
    from cotune.progress import TerminalProgress

    counts: dict[str, Any] = {"posts": 0, "predicted": 0, "labels": dict.fromkeys(predictor.run.classes, 0)}
    errors: list[dict[str, Any]] = []
    n_errors = 0
    with predictions_writer(out, predictor.columns()) as write:
        for posts in TerminalProgress().track(chunks, "posts (in chunks)", None):
            frame = predictor.frame(posts)
            write(frame)
            wrong = frame["error"].notna()
            n_errors += int(wrong.sum())
            for at in frame.index[wrong][: max(0, _SHOWN - len(errors))]:
                row = int(posts["row"].iloc[at])
                errors.append({"row": row, "id": frame["id"].iloc[at], "error": frame["error"].iloc[at]})
            counts["posts"] += len(frame)
            for label, n in frame["label"].value_counts().items():
                counts["labels"][label] += int(n)
    counts["predicted"] = sum(counts["labels"].values())
    return {**counts, "errors": n_errors, "first_errors": errors}


def _tell(counts: dict[str, Any], out: str) -> None:
    """Say what was done, on standard error, as standard output may hold the table."""
    labels = listed((f"{n:,} {label}" for label, n in counts["labels"].items() if n), most=20)
    typer.echo(
        f"{plural(counts['posts'], 'post')}: {counts['predicted']:,} predicted ({labels or 'none'})"
        + (f", written to {out}" if out != "-" else ""),
        err=True,
    )
    for error in counts["first_errors"]:
        typer.echo(f"note: row {error['row']} (id {clip(error['id'], 60)}): {error['error']}", err=True)
    more = counts["errors"] - len(counts["first_errors"])
    if counts["errors"]:
        tail = f", {more:,} more than shown here" if more else ""
        typer.echo(f"note: {plural(counts['errors'], 'row')} with an error{tail}; see the column `error`", err=True)


def _predict_one(predictor: Predictor, text: str | None, image: str | None, out: str | None, as_json: bool) -> None:
    from cotune.data.predictions import predictions_writer, records
    from cotune.predict import posts_from, proba_column

    table = posts_from([{"text": text, "image": image}])
    frame = predictor.frame(table)
    found = next(records(frame))
    if found["label"] is None:
        raise DataError(found["error"])
    if out is not None:
        with predictions_writer(out, predictor.columns()) as write:
            write(frame)
        return
    if as_json:
        print_json(found)
        return
    answer = new_table(f"{found['label']}", "class", "probability", right=("probability",))
    for label in sorted(predictor.run.classes, key=lambda label: -found[proba_column(label)]):
        add_row(answer, label, number(found[proba_column(label)]))
    print_rich(answer, f"\ntext share {found['text_share']:.0%}, image share {found['image_share']:.0%}")
    if found["error"]:
        typer.echo(f"note: {found['error']}", err=True)
