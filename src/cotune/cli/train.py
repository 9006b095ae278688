"""The command ``fit``: from a posts table to a run."""

from __future__ import annotations

import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotune.cli.options import (
    AllowRemote,
    AsJson,
    Plugin,
    PostsPath,
)
from cotune.cli.recorded import record
from cotune.cli.run_folder import open_run
from cotune.cli.settings import ConfigFile, Flags, Set, Table, settings_given
from cotune.cli.show import command, print_json, print_next, print_rich, repeated, reporter
from cotune.cli.stop import StoppedError
from cotune.cli.table_options import TableOptions
from cotune.environment import MADE_FROM
from cotune.errors import ConfigError, CotuneError, listed
from cotune.report.notices import estimated
from cotune.report.numbers import number, plural
from cotune.report.terminal import field_table, members_rows, members_table, score_table

if TYPE_CHECKING:
    import pandas as pd

    from cotune.progress import Progress
    from cotune.run import Run
    from cotune.settings import FitConfig
    from cotune.training.fit import FitResult

_RUN, _HOLDOUT = "Run", "Validation and stopping"


def fit(
    context: typer.Context,
    posts: PostsPath,
    out: Annotated[Path, typer.Option("--out", help="Folder for the run.", metavar="RUN", rich_help_panel=_RUN)],
    flags: Flags = None,
    config: ConfigFile = None,
    settings: Set = None,
    plugin: Plugin = None,
    start_from: Annotated[
        Path | None,
        typer.Option("--start-from", help="Continue from the weights of this run; its labels stay.",
                     metavar="RUN", rich_help_panel=_RUN),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted fit.", rich_help_panel=_RUN)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --out once the new one is finished.",
                           rich_help_panel=_RUN)
    ] = False,
    logger: Annotated[
        list[str] | None,
        typer.Option("--logger", help="tensorboard, mlflow or wandb, in addition to the CSV log; repeatable.",
                     rich_help_panel=_RUN),
    ] = None,
    table: Table = None,
    validation_where: Annotated[
        list[str] | None,
        typer.Option("--validation-where", help="Like --where, for the table that --validation names.",
                     metavar="COLUMN=VALUE", rich_help_panel=_HOLDOUT),
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate/--no-estimate", help="Where no posts are held out, cross-validate the head on "
                           "frozen encoders for an estimate of the scores.", rich_help_panel=_HOLDOUT)
    ] = True,
    allow_remote: AllowRemote = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train a model on the labelled posts in POSTS.

    First the fusion head is trained on frozen embeddings (the probe), then joint fine-tuning follows. The run folder
    holds everything that predicting needs, a report and a model card. Ctrl-C saves the last finished epoch; --resume
    continues from it, and has nothing to do where the run is finished.
    """
    from cotune.plugins import load_plugins

    load_plugins(plugin or [])
    start = None
    if start_from is not None:
        start, flags = _start(start_from, flags)
    settings_ = settings_given(flags, settings, config, table)
    # One column of a kind keeps its field's usual name, and is not a setting of the run.
    first = among_ranks(settings_, posts, context.find_root().obj)
    columns = table.columns(settings_.fields)
    validation_rows = _validation_rows(validation_where, settings_)
    # Each of several ranks looks for itself, as none may wait for another that has nothing to do.
    done = resume and not overwrite and _is_done(out)
    finished = False if done or not first else _check_out(out, resume=resume, overwrite=overwrite)
    tables = read_tables(posts, settings_, columns, table, validation_rows)
    if done:
        if first:
            _report_done(out, tables[0], settings_, start, as_json=as_json)
        return
    more = {"validation_where": validation_where, "plugins": plugin, "allow_remote": allow_remote}
    tables[0].attrs[MADE_FROM] = record(posts, table, start_from=start_from and str(start_from), **more)
    if not first:
        _follow(out, tables, settings_, resume=resume, how={"start": start, "allow_remote": allow_remote})
        return
    result, left = _train(
        out,
        tables,
        settings_,
        finished=finished,
        resume=resume,
        loggers=logger or [],
        how={"start": start, "allow_remote": allow_remote},
        estimate=estimate,
    )
    if result.interrupted:
        raise StoppedError(left)
    scores = result.run.metrics.get("validation")
    if as_json:
        print_json({"run": str(out), **result.run.metrics})
        return
    if members_rows(about := result.run.metrics.get("members", {})):
        print_rich(members_table(about), "")
    if scores is not None:
        print_rich(score_table(scores, f"Scores on {plural(scores['n'], 'held-out post')}"),
                   *(["", field_table(scores["fields"])] if "fields" in scores else []))  # fmt: skip
    elif (guess := result.run.metrics.get("estimate")) is not None:
        print_rich(score_table(guess, f"Estimated scores, {plural(guess['n'], 'post')} in {guess['folds']} folds"),
                   "", f"{estimated(result.run.config.tune)} --validation 0.2 measures the run itself.")  # fmt: skip
    else:
        last = result.run.metrics["history"][-1]
        print_rich(f"training loss {number(last['train_loss'])}; no posts were held out (--validation 0.1 does it)")
    same = [*table.flags(), *repeated("--plugin", plugin), *(["--allow-remote"] if allow_remote else [])]
    _propose(out, settings_, [*same, *repeated("--where", validation_where)])


def _propose(out: Path, config: FitConfig, same: list[str]) -> None:
    """Say where the run is and what to do with it, on posts that it was not trained on; `same` are flags to repeat."""
    held = config.validation if isinstance(config.validation, str) else None
    explain = command("cotune", "explain", out, held or "other.csv", *same, "--out", f"{out}-explained")
    saved = f"Run saved to {out}; its report is {out / 'report.html'}."
    if held is not None:
        print_next(f"{saved} Next, why it predicts what it does of the held-out posts:", explain)
        return
    evaluate = command("cotune", "evaluate", out, "other.csv", *same)
    print_next(f"{saved} Next, with labelled posts that it was not trained on as other.csv:", evaluate, explain)


def among_ranks(config: FitConfig, posts: Path, given: list[str]) -> bool:
    """Tell whether this process is the one that writes; where several devices want processes, start them and end."""
    from cotune.training.launch import follow_launcher, launch, needs_launch
    from cotune.training.ranks import launched

    if needs_launch(config):
        if str(posts) == "-":
            raise ConfigError("several devices cannot share standard input; write the posts to a file")
        raise SystemExit(launch(["-m", "cotune", *given], config.devices))
    own = launched()
    follow_launcher()
    if own is None or own.first:
        return True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first rank saves what is there
    return False


def _follow(
    out: Path, tables: tuple[pd.DataFrame, pd.DataFrame | None], config: FitConfig, *, resume: bool, how: dict[str, Any]
) -> None:
    """Train as one of several ranks, but not the first one: write and print nothing."""
    from cotune.training.callbacks import CheckpointCallback
    from cotune.training.fit import fit_posts
    from cotune.training.ranks import leave_ranks

    posts, held = tables
    kept = CheckpointCallback(out / CHECKPOINT, resume=resume)
    fit_posts(posts, config, validation_posts=held, callbacks=[kept], **how)
    leave_ranks()


def _start(folder: Path, given: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Open the run to go on from, and add the settings that are built into it to those that were given."""
    from cotune.training.start import STARTED_WITH

    run = open_run(folder)
    return run, {**{name: getattr(run.config, name) for name in STARTED_WITH}, **given}


def read_tables(
    posts: Path, config: FitConfig, columns: Any, options: TableOptions, validation_rows: dict[str, Any]
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Read the posts to train on, with those of further tables, and those of a validation table."""
    from cotune.data.also import with_also
    from cotune.data.posts import read_posts

    say = reporter().say
    table = read_posts(posts, columns=columns, require_labels=True, tell=say, **options.rows())
    table = options.reviewed(table, say)
    if config.also:
        table = with_also(
            table, config.also, columns, main=posts, weight=config.also_weight, allow_outside=options.allow_outside
        )
    if not isinstance(config.validation, str):
        return table, None
    return table, read_posts(
        config.validation, columns=columns, require_labels=True, allow_outside=options.allow_outside, **validation_rows
    )


def _train(
    out: Path,
    tables: tuple[pd.DataFrame, pd.DataFrame | None],
    config: FitConfig,
    *,
    finished: bool,
    resume: bool,
    loggers: list[str],
    how: dict[str, Any],
    estimate: bool,
) -> tuple[FitResult, str]:
    """Train, and save the run; `finished` tells whether `out` holds a run that stays until then."""
    from cotune.report.run_pages import run_pages
    from cotune.run import save_run
    from cotune.training.callbacks import CheckpointCallback, HistoryCallback
    from cotune.training.checkpoint import remove_state
    from cotune.training.fit import fit_posts
    from cotune.training.loggers import open_log

    posts, held = tables
    progress = reporter()
    if resume and not _pending(out):
        progress.say(f"note: there is nothing to resume in {out}; training starts from scratch")
    _make_writable(out)
    # A finished run keeps its own log until it is replaced.
    log_path = out / ("log.new.csv" if finished else "log.csv")
    log = open_log(log_path, out, loggers, config)
    status = "failed"
    try:
        result = fit_posts(
            posts,
            config,
            validation_posts=held,
            callbacks=[CheckpointCallback(out / CHECKPOINT, resume=resume), HistoryCallback(log)],
            progress=progress,
            **how,
        )
        status = "interrupted" if result.interrupted else "finished"
        if result.interrupted and finished:
            return result, f"stopped; the run in {out} is as it was, and --resume goes on with the new one"
        if estimate and not result.interrupted and result.held_out is None:
            _estimate(result.run, posts, how["allow_remote"], progress)
        save_run(out, result.run, pages=run_pages(result.run, result.held_out, name=out.name))
    except KeyboardInterrupt:
        status = "interrupted"
        if _pending(out):
            raise StoppedError(
                f"stopped; the last finished epoch is kept in {out}, and --resume goes on from it"
            ) from None
        raise StoppedError("stopped before the first epoch was over; no run was saved") from None
    finally:
        log.close(status)
        if status == "failed":
            with suppress(OSError):  # it stays if anything is in it
                out.rmdir()
    if finished:
        log_path.replace(out / "log.csv")
    if not result.interrupted:
        remove_state(out / CHECKPOINT)
    return result, f"stopped; the last finished epoch is saved in {out}, and --resume goes on from there"


def _estimate(run: Run, posts: pd.DataFrame, allow_remote: bool, progress: Progress) -> None:
    """Add an estimate of its scores to a run; a stop or a refusal costs the estimate and not the run."""
    from cotune.benchmark.estimate import estimate_scores
    from cotune.data.also import own_posts

    try:
        run.metrics["estimate"] = estimate_scores(own_posts(posts), run, allow_remote=allow_remote, progress=progress)
    except KeyboardInterrupt:
        progress.say("note: stopped; the run is saved without an estimate of its scores")
    except CotuneError as error:
        progress.say(f"note: no estimate of the scores: {error}")


CHECKPOINT = "checkpoint"
# What a training that was killed before its first epoch may leave.
_LEFT_BEHIND = {CHECKPOINT, "tensorboard", "log.new.csv"}


def _check_out(out: Path, *, resume: bool, overwrite: bool) -> bool:
    """Refuse to harm what is there; tell whether it is a finished run."""
    from cotune.ownership import RUN

    if resume and overwrite:
        raise ConfigError("--resume goes on and --overwrite starts again; give one of them")
    if out.exists() and not out.is_dir():
        raise CotuneError(f"{out} is a file; name a folder for the run with --out")
    if not out.is_dir() or not any(out.iterdir()):
        return False
    RUN.refuse_foreign(out)
    finished, held, pending = _is_finished(out), RUN.owns(out), _pending(out)
    begun = _is_log(out / "log.csv") or _LEFT_BEHIND.issuperset(path.name for path in out.iterdir())
    if not (held or pending or begun):
        raise CotuneError(f"{out} is not empty and holds no run; name another folder with --out")
    if not resume and not overwrite:
        what = "an unfinished run; go on with --resume, or" if pending else "a run; choose another folder, or"
        raise CotuneError(f"{out} holds {what} replace it with --overwrite")
    return finished


def _is_finished(out: Path) -> bool:
    """Tell whether a folder holds a run that was not interrupted."""
    from cotune.files import read_json
    from cotune.ownership import RUN

    if not RUN.owns(out):
        return False
    metrics: Any = None
    with suppress(CotuneError):  # a damaged run can still be replaced
        metrics = read_json(out / "metrics.json")
    return not isinstance(metrics, dict) or metrics.get("status") != "interrupted"


def _is_done(out: Path) -> bool:
    """Tell whether a folder holds a finished run, and no training that was begun to replace it."""
    return out.is_dir() and _is_finished(out) and not _pending(out)


def _report_done(out: Path, posts: pd.DataFrame, config: FitConfig, start: Run | None, *, as_json: bool) -> None:
    """Say that a run to resume is finished, as long as it is the one that is asked for; a script may ask again.

    Raises
    ------
    CotuneError
        If it was made of other posts or with other settings.
    """
    from cotune.training.checkpoint import remove_state
    from cotune.training.fit_record import differs_from

    run = open_run(out)
    if differing := differs_from(run, posts, config, start):
        raise CotuneError(
            f"{out} holds a finished run that was made with other {listed(differing)}; name another folder with --out, "
            "or replace it with --overwrite in place of --resume"
        )
    remove_state(out / CHECKPOINT)  # of which a kill may have left parts when all was done
    if as_json:
        print_json({"run": str(out), **run.metrics})
        return
    print_rich(f"{out} is finished: there is nothing to resume. --overwrite in place of --resume trains it again")


def _make_writable(out: Path) -> None:
    """Make the folder, and refuse one that cannot be written before hours are spent on what should go there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as fault:
        raise ConfigError(f"cannot write into {out}: {fault.strerror}; name another folder with --out") from fault


def _pending(out: Path) -> bool:
    """Tell whether a training, or one of several that make a run, can be resumed."""
    return any((out / CHECKPOINT).glob("**/state.json"))


def _is_log(path: Path) -> bool:
    """Tell whether a file is the log of a training that was killed before its first run was saved."""
    try:
        with path.open(encoding="utf-8", errors="replace") as log:
            return log.readline(100).startswith("stage,epoch,train_loss,")
    except OSError:
        return False


def _validation_rows(where: list[str] | None, config: FitConfig) -> dict[str, Any]:
    """Return which rows of the validation table count; `--where` is about the training table alone."""
    if where and not isinstance(config.validation, str):
        raise ConfigError("--validation-where picks rows of a validation table; name one with --validation")
    return {"where": TableOptions(where=tuple(where or ())).rows()["where"]}
