"""The command ``tune``: a search for settings of training, and its verdict on posts that no trial saw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cotune.cli.options import AllowRemote, AsJson, ClusterOption, Jobs, NumCpus, NumGpus, Plugin, seeds_of, workers_of
from cotune.cli.settings import ConfigFile, Flags, Set, Table, settings_given
from cotune.cli.show import command, print_json, print_next, print_rich, repeated, reporter
from cotune.cli.stop import StoppedError
from cotune.errors import ConfigError
from cotune.report.numbers import plural
from cotune.report.terminal import compared_settings_table

if TYPE_CHECKING:
    from cotune.tuning import TuneResult

_SEARCH, _RUN = "Search", "Run"


def tune(
    posts: Annotated[
        Path | None, typer.Argument(help="Posts table; not needed with --show-space.", metavar="POSTS",
                                    show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the search.", metavar="DIR", rich_help_panel=_RUN,
                                  show_default=False),
    ] = None,
    trials: Annotated[
        int, typer.Option(help="Trials to finish, those that were pruned included.", rich_help_panel=_SEARCH)
    ] = 30,
    space: Annotated[
        Path | None,
        typer.Option(help="YAML file of settings to search, each with low and high (log, step) or a list of choices. "
                     "\\[default: a space for --tune]", metavar="FILE", rich_help_panel=_SEARCH, show_default=False),
    ] = None,
    show_space: Annotated[
        bool, typer.Option("--show-space", help="Print the space as YAML and end.", rich_help_panel=_SEARCH)
    ] = False,
    test: Annotated[
        float, typer.Option(help="Fraction of the posts that no trial sees; the best settings and the defaults are "
                            "compared on them.", rich_help_panel=_SEARCH)
    ] = 0.2,
    pruner: Annotated[
        Literal["median", "hyperband", "none"],
        typer.Option(help="What gives up a trial that does badly in its first epochs.", rich_help_panel=_SEARCH),
    ] = "median",
    seeds: Annotated[
        str | None,
        typer.Option(help="Seeds of the trainings that are compared in the end, with commas; by default the setting "
                     "seed.", show_default=False, rich_help_panel=_SEARCH),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=1, help="Resamples of the test posts for intervals and the test.",
                          rich_help_panel=_SEARCH)
    ] = 2000,
    flags: Flags = None,
    config: ConfigFile = None,
    settings: Set = None,
    jobs: Jobs = None,
    cluster: ClusterOption = None,
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted search, add trials to it, or help another process "
                           "that is at it.", rich_help_panel=_RUN)
    ] = False,
    plugin: Plugin = None,
    table: Table = None,
    allow_remote: AllowRemote = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Search for settings that suit POSTS, and tell whether they are better than the defaults.

    The posts are cut once: trials are trained on one part and scored on another, and a test part is kept from all of
    them. In the end the best settings and the defaults are trained on all but the test part and compared on it. The
    best settings are in best.yaml, which `cotune fit --config` takes. Every finished trial is saved at once: after a
    crash or Ctrl-C, --resume continues from there.
    """
    from cotune.plugins import load_plugins
    from cotune.tuning import TunePlan, default_space, read_space

    load_plugins(plugin or [])
    fit = settings_given(flags, settings, config, table)
    searched = None if space is None else read_space(space, fit)
    if show_space:
        typer.echo((searched or default_space(fit)).yaml(), nl=False)
        return
    if posts is None or out is None:
        raise ConfigError("name a posts table and a folder: cotune tune POSTS --out DIR (or print the --show-space)")
    plan = TunePlan(fit, searched, trials, test, pruner, seeds_of(seeds) if seeds is not None else (), bootstrap)

    from cotune.data.posts import read_posts
    from cotune.files import write_text
    from cotune.report.tune_report import REPORT, tune_report
    from cotune.tuning import tune as search

    progress = reporter()
    columns = table.columns(fit.fields)
    found = read_posts(posts, columns=columns, require_labels=True, tell=progress.say, **table.rows())
    found = table.reviewed(found, progress.say)
    how: dict[str, Any] = {"resume": resume, "plugins": plugin or (), "allow_remote": allow_remote}
    workers = workers_of(cluster, num_cpus, num_gpus, jobs if cluster else None)
    try:
        if workers is None:
            result = search(found, out, plan, jobs=jobs or 1, progress=progress, **how)
        else:
            from cotune.scale.connect import connected
            from cotune.scale.trials import spread_trials

            with connected(workers) as there:
                result = search(found, out, plan, work=spread_trials(there, plugin or ()), progress=progress, **how)
    except KeyboardInterrupt:
        raise StoppedError("stopped before the first trial; finished trials of earlier runs are kept") from None
    write_text(out / REPORT, tune_report(result))
    if result.interrupted:
        kept = plural(len(result.trials), "finished trial")
        raise StoppedError(f"stopped; {kept} kept in {out}, and --resume goes on from there")
    if as_json:
        print_json(result.to_dict())
        return
    name = "posts.csv" if str(posts) == "-" else posts
    same = [*table.flags(where=True), *repeated("--plugin", plugin), *(["--allow-remote"] if allow_remote else [])]
    _answer(result, out, command("cotune", "fit", name, "--config", out / "best.yaml", *same, "--out", "run"))


def _answer(result: TuneResult, out: Path, following: str) -> None:
    compared, best = result.compared, result.best
    assert compared is not None
    assert best is not None
    main = result.task.main_title
    chosen = ", ".join(f"{name.replace('_', '-')} {_short(value)}" for name, value in best.settings.items())
    print_rich(
        compared_settings_table(compared.to_dict(), result.task.main_score, main),
        f"{compared.verdict} ({compared.test.name})\n",
        f"Best settings, trial {best.number} of {len(result.trials)}: {chosen}",
        f"Score it was searched on (too good): validation {main} {best.score:.4f}",
    )
    print_next(f"Settings saved to {out / 'best.yaml'}; the report is {out / 'report.html'}. Next:", following)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
