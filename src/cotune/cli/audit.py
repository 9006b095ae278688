"""The command ``audit``: the records of decisions, replayed and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cotune.cli.engine import EngineOption, choose, open_scorer
from cotune.cli.options import AllowRemote, AsJson, InferenceBatchSize, KnownDistance, KnownPath, Plugin, known_of
from cotune.cli.settings import Flags, Table
from cotune.cli.show import print_json, print_rich, reporter, tell_note
from cotune.errors import ConfigError
from cotune.report.numbers import plural

_SHOWN = 20


def audit(
    file: Annotated[Path, typer.Argument(help="Records that `cotune decide --audit` has written.", metavar="FILE")],
    run: Annotated[Path, typer.Option("--run", help="The run or export that decided.", metavar="RUN")],
    posts: Annotated[Path, typer.Option("--posts", help="The posts that were decided on.", metavar="POSTS")],
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="The policy.json that should have decided.", metavar="FILE"),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="By how much a probability may differ, such as between engines.")
    ] = 1e-4,
    bad_images: Annotated[
        Literal["error", "text-only"], typer.Option(help="What `decide` was given.")
    ] = "error",
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
    """Replay the records in FILE: score the posts again and compare.

    Says which records differ and why: another input, run, policy, probability or route, or a record that was changed.
    The exit code is 0 if none differs, 1 if one does, 2 if they cannot be replayed.
    """
    from cotune.data.posts import read_posts
    from cotune.decide.audit import read_records, replay
    from cotune.decide.policy import ChosenPolicy, read_policy

    expected = None if policy is None else read_policy(policy)
    if expected is not None and not isinstance(expected, ChosenPolicy):
        raise ConfigError(f"{policy} has no thresholds; give the policy.json that `cotune decide` wrote")
    images = known_of(known, known_distance)
    progress = reporter()
    choice = choose(run, engine, plugin, flags)
    whole = read_posts(posts, columns=table.columns(choice.fields), tell=progress.say, **table.rows())
    settings: dict[str, Any] = {**flags, "batch_size": batch_size, "bad_images": bad_images}
    predictor = open_scorer(choice, {**settings, "allow_remote": allow_remote}, whole)
    if images is not None:
        predictor.look_for(images)
    records = progress.track(read_records(file), "records", None)
    found = replay(records, whole, predictor, policy=expected, tolerance=tolerance)
    if not found.records:
        raise ConfigError(f"{file} holds no records")
    if as_json:
        print_json(found.to_dict())
    else:
        for note in found.notes:
            tell_note(f"note: {note}")
        for line, id_, reasons in found.differences[:_SHOWN]:
            print_rich(f"line {line}, post {id_}: {'; '.join(reasons)}")
        if more := len(found.differences) - _SHOWN:
            print_rich(*([f"and {plural(more, 'record')} more (--json has all)"] if more > 0 else []))
        kinds = ", ".join(f"{n:,} {reason}" for reason, n in found.reasons().items())
        differ = f"{len(found.differences):,} differ ({kinds})" if found.differences else "none differs"
        print_rich(f"{plural(found.records, 'record')}: {differ}; largest difference of a probability "
                   f"{found.largest:.1e}")  # fmt: skip
    if found.differences:
        raise typer.Exit(1)
