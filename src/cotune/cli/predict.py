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
    ClusterOption,
    Concurrency,
    InferenceBatchSize,
    KnownDistance,
    KnownPath,
    NumCpus,
    NumGpus,
    Plugin,
    known_of,
    workers_of,
)
from cotune.cli.run_folder import open_run
from cotune.cli.settings import Flags, Table
from cotune.cli.show import print_json, print_rich, reporter, tell_note
from cotune.errors import ConfigError, DataError, clip, listed
from cotune.report.numbers import plural
from cotune.report.terminal import probabilities_table, pushing_words

if TYPE_CHECKING:
    import pandas as pd

    from cotune.data.kept_chunks import KeptChunks
    from cotune.data.known_images import KnownImages
    from cotune.export.choose import EngineChoice
    from cotune.fields import Field
    from cotune.scoring import Scorer

_SHOWN = 5


def predict(
    run: ModelFolder,
    posts: Annotated[
        str | None,
        typer.Argument(
            help="Posts table, or - for standard input; not needed with --text or --image. With --cluster also a "
            "folder of tables, or a URL.",
            metavar="[POSTS]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            help="File to write: .csv, .tsv, .jsonl, .json (also .gz), .parquet, .xlsx, or - for standard output; "
            "with --cluster a folder, or its URL.",
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
    cluster: ClusterOption = None,
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
    concurrency: Concurrency = None,
    block_rows: Annotated[
        int,
        typer.Option(min=1, help="Posts of a block, which is scored by one worker and written as one file.",
                     rich_help_panel="Cluster"),
    ] = 2048,
    known: KnownPath = None,
    known_distance: KnownDistance = None,
    flags: Flags = None,
    table: Table = None,
    allow_remote: AllowRemote = False,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
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
    if resume and (single or "-" in (posts, out)):
        raise ConfigError(
            "--resume needs a posts table and an output file; standard input and output cannot be resumed"
        )
    workers = workers_of(cluster, num_cpus, num_gpus, concurrency)
    settings: dict[str, Any] = {
        **flags, "batch_size": batch_size, "bad_images": bad_images, "allow_remote": allow_remote
    }  # fmt: skip
    choice = choose(run, engine, plugin, flags)
    images = known_of(known, known_distance)
    if workers is not None:
        if single or "-" in (posts, out):
            raise ConfigError("--cluster ray scores a table or a folder of tables, and writes a folder")
        from cotune.scale import Reading, Scoring

        scoring = Scoring(engine=engine, plugins=tuple(plugin or ()), chunk_size=chunk_size, known=images, **settings)
        reading = Reading(table.columns(choice.fields), block_rows=block_rows, **table.rows())
        counts = _predict_shards(choice.folder, str(posts), str(out), scoring=scoring, reading=reading, workers=workers,
                                 resume=resume)  # fmt: skip
        _answer(counts, str(out), as_json)
        return
    from cotune.data.images.sources import is_url
    from cotune.data.predictions import check_predictions_path

    if posts is not None and is_url(posts):
        raise ConfigError(f"{clip(posts)} is a URL, which --cluster ray --allow-remote reads; or give a file")
    if out is not None:
        check_predictions_path(out, None if posts is None else Path(posts))
    if single:
        given = {"text": text or [], "image": image or [], "table": value or []}
        _predict_one(choice, settings, given, out, as_json, images)
        return
    assert posts is not None
    assert out is not None
    from cotune.data.posts import iter_posts

    # What is wrong with the table as a whole is reported before a line is written.
    columns, rows = table.columns(choice.fields), table.rows()
    first, chunks = first_and_all(iter_posts(Path(posts), chunk_size, columns=columns, **rows))
    predictor = open_scorer(choice, settings, first)
    if images is not None:
        predictor.look_for(images)
    kept = None
    if "-" not in (posts, out):
        depends = {**settings, "chunk_size": chunk_size, "columns": columns, **rows}
        depends |= {} if images is None else {"known": images.digest}
        kept = _kept(Path(out), Path(posts), resume, model=choice.identity, engine=predictor.engine_version, **depends)
    _answer(_predict_table(predictor, chunks, out, kept), out, as_json)


def _predict_shards(run: Path, posts: str, out: str, **how: Any) -> dict[str, Any]:
    from cotune.cli.stop import StoppedError
    from cotune.scale import predict as predict_shards

    try:
        return predict_shards(run, posts, out, progress=reporter(), **how)
    except KeyboardInterrupt:
        raise StoppedError(f"stopped; finished blocks are kept in {out}, and --resume goes on from there") from None


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
    from cotune.data.known_images import KNOWN
    from cotune.data.predictions import predictions_writer

    labels = dict.fromkeys(predictor.task.outputs, 0) if predictor.task.target_type == "multiclass" else {}
    counts: dict[str, Any] = {"posts": 0, "predicted": 0, "labels": labels}
    counts |= {} if predictor.known is None else {"known": 0}
    errors: list[dict[str, Any]] = []
    n_errors = 0
    progress = reporter()
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
                if predictor.known is not None:
                    counts["known"] += int(frame[KNOWN].notna().sum())
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


def _answer(counts: dict[str, Any], out: str, as_json: bool) -> None:
    if not as_json:
        _tell(counts, out)
    elif out != "-":
        print_json({"out": out, **counts})


def _tell(counts: dict[str, Any], out: str) -> None:
    """Say what was done, on standard error, as standard output may hold the table."""
    labels = listed((f"{n:,} {label}" for label, n in counts["labels"].items() if n), most=20)
    shown = f" ({labels})" if labels else "" if counts["predicted"] else " (none)"
    written = f", written to {out}" if out != "-" else ""
    tell_note(f"{plural(counts['posts'], 'post')}: {counts['predicted']:,} predicted{shown}{written}")
    if "known" in counts:
        tell_note(f"{plural(counts['known'], 'post')} with a known image; see the columns `known` and `known_distance`")
    for error in counts["first_errors"]:
        shard = f"{error['shard']}, " if "shard" in error else ""
        row = f"{shard}row {error['row']} (id {clip(error['id'], 60)})" if error["row"] is not None else error["shard"]
        tell_note(f"note: {row}: {error['error']}")
    if counts.get("unreadable_shards"):
        tell_note(f"note: {counts['unreadable_shards']} of {plural(counts['shards'], 'shard')} could not be read, or "
                  "not to the end; a row with the error stands for the rest of each")  # fmt: skip
    more = counts["errors"] - len(counts["first_errors"])
    if counts["errors"]:
        tail = f", {more:,} more than shown here" if more else ""
        tell_note(f"note: {plural(counts['errors'], 'row')} with an error{tail}; see the column `error`")


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


def _predict_one(
    choice: EngineChoice,
    settings: dict[str, Any],
    given: dict[str, list[str]],
    out: str | None,
    as_json: bool,
    images: KnownImages | None,
) -> None:
    from cotune.data.known_images import KNOWN
    from cotune.data.predictions import predictions_writer, records
    from cotune.data.python_posts import posts_from
    from cotune.scoring import share_column

    predictor = open_scorer(choice, settings)
    if images is not None:
        predictor.look_for(images)
    task, fields = predictor.task, predictor.fields
    posts = posts_from([_one_post(fields, given)], fields)
    frame = predictor.frame(posts)
    found = next(records(frame))
    if found["label"] is None and found.get(KNOWN) is None:
        raise DataError(found["error"])
    if out is not None:
        with predictions_writer(out, predictor.columns(), predictor.text_columns()) as write:
            write(frame)
        return
    if as_json:
        print_json(found)
        return
    if images is not None:
        tell_note(_known(found))
    if found["label"] is None:
        raise DataError(found["error"])
    shares = ", ".join(f"{name} share {found[share_column(name)]:.0%}" for name in predictor.field_names)
    proba = dict(zip(task.outputs, (found[column] for column in task.columns()), strict=False))
    answer = probabilities_table(str(found["label"]), proba) if proba else f"{found['label']:.6g}"
    further = ", ".join(f"{column} {found[column]}" for column in task.label_columns()[1:])
    if "conflict" in task.columns():
        further += f"; fields contradict each other: {found['conflict']:.0%}"
    print_rich(answer, *([further] if further else []), "", shares)
    print_rich(*_pushed(predictor, posts, choice, settings))  # after the answer, which nobody waits for because of it
    if found["error"]:
        tell_note(f"note: {found['error']}")


def _known(found: dict[str, Any]) -> str:
    from cotune.data.known_images import DISTANCE, KNOWN

    if found[KNOWN] is None:
        return "its image is not among the known ones"
    return f"known image: {found[KNOWN]} ({plural(int(found[DISTANCE]), 'differing bit')})"


def _pushed(predictor: Scorer[Any], posts: pd.DataFrame, choice: EngineChoice, settings: dict[str, Any]) -> list[str]:
    """Return a line for each text about the words that pushed; none for an export, which has no torch to ask.

    A run that was scored with its export out of the cache is opened for it, unless another engine was asked for.
    """
    if not hasattr(predictor, "run") and (choice.exported or choice.asked != "auto"):
        return []
    from cotune.explain.explainer import Explainer
    from cotune.predict import Predictor

    own = predictor if isinstance(predictor, Predictor) else Predictor(
        open_run(choice.folder, choice.plugins), **settings
    )  # fmt: skip
    explainer = Explainer(own.run, device=own.device.type, bad_images=own.bad_images, allow_remote=own.allow_remote)
    found = explainer.pushing_words(posts)
    lines = (pushing_words(words, name if len(found) > 1 else None, own.task.scale) for name, words in found.items())
    return [line for line in lines if line]
