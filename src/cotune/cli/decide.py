"""The command ``decide``: posts sent to act, review or allow, by a policy whose error is known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cotune.cli.engine import EngineOption, ModelFolder, choose, first_and_all, open_scorer
from cotune.cli.options import (
    AllowRemote,
    AsJson,
    ChunkSize,
    InferenceBatchSize,
    KnownDistance,
    KnownPath,
    Plugin,
    PostsPath,
    known_of,
)
from cotune.cli.settings import Flags, Table
from cotune.cli.show import print_json, print_rich, reporter, tell_note, title
from cotune.errors import ConfigError, CotuneError
from cotune.report.numbers import plural

if TYPE_CHECKING:
    from cotune.cli.table_options import TableOptions
    from cotune.decide.policy import ChosenPolicy, Policy
    from cotune.decide.route import Watch
    from cotune.scoring import Scorer

_DECISIONS, _REPORT = "decisions.csv", "report.html"
PolicyPath = Annotated[
    Path,
    typer.Option(
        "--policy",
        help="YAML with a class and targets, or the policy.json of an earlier run, whose thresholds are used.",
        metavar="FILE",
    ),
]


def decide(
    run: ModelFolder,
    posts: PostsPath,
    policy: PolicyPath,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for decisions.csv, policy.json and report.html.", metavar="DIR")
    ],
    calibrate_on: Annotated[
        Path | None,
        typer.Option(
            "--calibrate-on",
            help="Labelled posts that RUN was not trained on, on which the thresholds of a YAML policy are chosen.",
            metavar="LABELLED",
        ),
    ] = None,
    calibrate_where: Annotated[
        list[str] | None,
        typer.Option("--calibrate-where", help="As --where, of LABELLED.", metavar="COLUMN=VALUE", show_default=False),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option("--audit", help="File for a record of every decision, which `cotune audit` replays.",
                     metavar="FILE.jsonl"),
    ] = None,
    bad_images: Annotated[
        Literal["error", "text-only"],
        typer.Option(help="Posts with an unreadable image: sent to review, or scored by their text."),
    ] = "error",
    chunk_size: ChunkSize = 512,
    batch_size: InferenceBatchSize = 64,
    engine: EngineOption = "auto",
    known: KnownPath = None,
    known_distance: KnownDistance = None,
    flags: Flags = None,
    table: Table = None,
    allow_remote: AllowRemote = False,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Send every post in POSTS to act, review or allow, with a known error.

    The policy names a class and asks for a precision of what is acted on, for a recall of what is not allowed, or for
    both. Thresholds are chosen on LABELLED so that each target is kept with the policy's confidence.
    """
    from cotune.data.posts import iter_posts
    from cotune.decide.choose import unreachable
    from cotune.decide.expected import expected
    from cotune.decide.policy import RECORD
    from cotune.decide.route import decide_posts
    from cotune.files import write_json, write_text
    from cotune.report.decide_report import decide_report

    _refuse_harm(out, posts, audit)
    asked = _read(policy, calibrate_on)
    images = known_of(known, known_distance)
    _refuse_unsaid(asked, policy, images is not None)
    progress = reporter()
    choice = choose(run, engine, plugin, flags)
    columns = table.columns(choice.fields)
    first, chunks = first_and_all(iter_posts(posts, chunk_size, columns=columns, tell=progress.say, **table.rows()))
    settings = {**flags, "batch_size": batch_size, "bad_images": bad_images, "allow_remote": allow_remote}
    predictor = open_scorer(choice, settings, first)
    if images is not None:
        predictor.look_for(images)
    labelled = replace(table, where=tuple(calibrate_where or ()), format=None)
    chosen = _chosen(predictor, asked, calibrate_on, labelled, chunk_size)
    notes = unreachable(chosen)
    for note in notes:
        tell_note(f"note: {note}")
    write_json(out / RECORD, chosen.record)  # first, as it tells whose the folder is
    with _writers(out / _DECISIONS, audit, predictor, chosen) as watch:
        found = decide_posts(predictor, chunks, chosen, watch, progress)
    write_text(out / _REPORT, decide_report(chosen, found, run=run.name, posts=title(posts)))
    if as_json:
        print_json({"policy": chosen.record, "routes": found.routes, "expected": expected(chosen, found),
                    "without_prediction": found.without_prediction, "known": found.known, "notes": notes})  # fmt: skip
        return
    from cotune.report.terminal import routes_table

    print_rich(routes_table(expected(chosen, found), f"{run.name} on {found.posts:,} posts of {title(posts)}"))
    if images is not None:
        posts_known = plural(found.known, "post")
        print_rich(f"{posts_known} with a known image: {chosen.policy.known}, whatever the model says")
    written = f"{_DECISIONS}, {RECORD}, {_REPORT}"
    print_rich(f"\nwritten to {out}: {written}" + (f"; records to {audit}" if audit is not None else ""))


def _read(path: Path, calibrate_on: Path | None) -> Policy | ChosenPolicy:
    """Return the policy, before anything is opened; labelled posts are for one without thresholds."""
    from cotune.decide.policy import ChosenPolicy, read_policy

    policy = read_policy(path)
    if isinstance(policy, ChosenPolicy) and calibrate_on is not None:
        raise ConfigError(f"{path} has thresholds already; leave --calibrate-on out, or give a policy without")
    if not isinstance(policy, ChosenPolicy) and calibrate_on is None:
        raise ConfigError(f"{path} has no thresholds; give labelled posts to choose them on with --calibrate-on")
    return policy


def _refuse_unsaid(asked: Policy | ChosenPolicy, path: Path, given: bool) -> None:
    """Refuse known images without a route, and a route without known images."""
    from cotune.decide.policy import ChosenPolicy

    policy = asked.policy if isinstance(asked, ChosenPolicy) else asked
    if given and policy.known is None:
        raise ConfigError(f"{path} does not say where known images go; add `known: review` (or act, allow) to the "
                          "policy, or leave --known out")  # fmt: skip
    if not given and policy.known is not None:
        raise ConfigError(f"{path} says where known images go; name them with --known, or take `known` out of it")


def _chosen(
    predictor: Scorer[Any],
    policy: Policy | ChosenPolicy,
    calibrate_on: Path | None,
    table: TableOptions,
    chunk_size: int,
) -> ChosenPolicy:
    """Return the policy with its thresholds, chosen now or before."""
    from cotune.data.posts import iter_posts
    from cotune.decide.choose import choose_thresholds, hash_of, output_of, score_labelled
    from cotune.decide.policy import ChosenPolicy

    if isinstance(policy, ChosenPolicy):
        if policy.record["run"]["hash"] != hash_of(predictor):
            raise ConfigError("the policy's thresholds were chosen for another run, or before it was calibrated; "
                              "choose them again with --calibrate-on")  # fmt: skip
        return policy
    output_of(predictor.task, policy.class_)
    assert calibrate_on is not None  # a policy without thresholds was refused
    progress = reporter()
    chunks = iter_posts(calibrate_on, chunk_size, columns=table.columns(predictor.fields), require_labels=True,
                        tell=progress.say, **table.rows())  # fmt: skip
    return choose_thresholds(policy, score_labelled(predictor, chunks, policy.class_, progress), predictor)


@contextmanager
def _writers(decisions: Path, audit: Path | None, predictor: Scorer[Any], chosen: ChosenPolicy) -> Iterator[Watch]:
    """Open the table of decisions and, if it is asked for, the audit file; both appear when all is done."""
    from cotune.data.predictions import predictions_writer
    from cotune.decide.audit import AuditLog
    from cotune.decide.route import decision_columns
    from cotune.files import atomic_path

    with ExitStack() as stack:
        write = stack.enter_context(predictions_writer(decisions, decision_columns(predictor)))
        log, file = None, None
        if audit is not None:
            log = AuditLog(predictor, chosen)
            file = stack.enter_context(stack.enter_context(atomic_path(audit)).open("w", encoding="utf-8"))

        def watch(posts: Any, table: Any, decided: Any, contributions: Any) -> None:
            write(decided)
            if log is not None and file is not None:
                file.writelines(log.lines(posts, table, decided, contributions))

        yield watch


def _refuse_harm(out: Path, posts: Path, audit: Path | None) -> None:
    """Refuse places in which the results would replace something else."""
    from cotune.data.predictions import check_predictions_path
    from cotune.ownership import BENCHMARK, DECISIONS, RUN

    if out.exists() and not out.is_dir():
        raise CotuneError(f"{out} is a file; name a folder for the results with --out")
    for kind in (RUN, BENCHMARK):
        if kind.owns(out):
            raise CotuneError(f"{out} holds a {kind.name}, whose files would be replaced; give --out another folder")
    check_predictions_path(out / _DECISIONS, posts)
    DECISIONS.refuse_foreign(out)
    if audit is not None and audit.suffix != ".jsonl":
        raise CotuneError(f"{audit} is to hold one record a line; give --audit a name that ends in .jsonl")
    if audit is not None and audit.exists():
        raise CotuneError(f"{audit} already exists, and records are never replaced; give --audit another name")
