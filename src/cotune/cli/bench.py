"""The command ``bench``: methods on the same folds, tables and a report."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cotune.cli.options import (
    AllowRemote,
    AsJson,
    ClusterOption,
    Jobs,
    NumCpus,
    NumGpus,
    Plugin,
    seeds_of,
    words_of,
    workers_of,
)
from cotune.cli.settings import ConfigFile, Flags, Set, Table, settings_given
from cotune.cli.show import command, is_quiet, print_json, print_next, print_rich, repeated, reporter
from cotune.cli.stop import StoppedError
from cotune.console import tell
from cotune.errors import ConfigError, did_you_mean
from cotune.report.numbers import plural
from cotune.report.terminal import add_row, new_table

if TYPE_CHECKING:
    from cotune.benchmark.plan import Plan
    from cotune.benchmark.runner import Session
    from cotune.benchmark.tables import Table
    from cotune.report.benchmark_report import Written

# Columns of table 1 for a terminal: the main score (the paper's too), the difference to joint and p; and which of them
# go where they do not fit.
_MAIN = re.compile("paper's|, mean ±|, all posts|joint − row|^p ")
_LESS = re.compile("paper's|, mean ±|^p over folds")
_NAME = 12  # columns that a name takes at the least
_WHAT, _RUN = "What is compared", "Run"
_METHODS = "svm,image,text,concat,clip,joint,reference,probe,ensemble"


def bench(
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.", metavar="DIR", rich_help_panel=_RUN)],
    posts: Annotated[
        Path | None,
        typer.Argument(help="Posts table; not needed with --tables-only.", metavar="POSTS", show_default=False),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help=f"Methods, with commas: {_METHODS.replace(',', ', ')}. \\[default: all; joint for a grid]",
                     show_default=False, rich_help_panel=_WHAT),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Folds. \\[default: 10]", show_default=False, rich_help_panel=_WHAT)
    ] = None,
    protocol: Annotated[
        Literal["paper", "grouped"],
        typer.Option(help="paper: stratified folds; grouped: near-duplicates are kept together.",
                     rich_help_panel=_WHAT),
    ] = "grouped",
    group_by: Annotated[
        str, typer.Option(help="What makes posts near-duplicates under grouped: text,image or one of them.",
                          rich_help_panel=_WHAT),
    ] = "text,image",
    folds_from: Annotated[
        str | None,
        typer.Option(help="Published folds: a table with id and fold or split, or columns of POSTS, with commas.",
                     metavar="FILE|COLUMN", show_default=False, rich_help_panel=_WHAT),
    ] = None,
    fold_seed: Annotated[int, typer.Option(min=0, help="Seed of folds and samples.", rich_help_panel=_WHAT)] = 42,
    clip: Annotated[
        str | None,
        typer.Option(help="Dual encoder for the method clip: hf:openai/clip-vit-base-patch32 or a local folder.",
                     rich_help_panel=_WHAT),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(help="Pairs of encoders: a YAML file, or bundled or hub, which come with cotune.",
                     rich_help_panel=_WHAT),
    ] = None,
    shots: Annotated[
        str, typer.Option(help="Training posts per class, with commas, such as 8,16,32,all.", rich_help_panel=_WHAT)
    ] = "all",
    draws: Annotated[
        int, typer.Option(min=1, help="Random samples for each number of shots.", rich_help_panel=_WHAT)
    ] = 5,
    seeds: Annotated[
        str | None, typer.Option(help="Training seeds, with commas; by default the setting seed.", show_default=False,
                                 rich_help_panel=_WHAT),
    ] = None,
    emap: Annotated[
        int, typer.Option(min=0, help="Maximum posts of a fold for the additive projection (EMAP); 0 for none.",
                          rich_help_panel=_WHAT),
    ] = 1000,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="Shuffle the labels once: a method that is above chance even so sees "
                           "labels of posts it is scored on (exit code 1).", rich_help_panel=_WHAT),
    ] = False,
    paper: Annotated[
        Literal["mvsa", "hateful-memes"] | None,
        typer.Option(help="Also show the paper's figures for this data set.", rich_help_panel=_WHAT),
    ] = None,
    flags: Flags = None,
    config: ConfigFile = None,
    settings: Set = None,
    jobs: Jobs = None,
    cluster: ClusterOption = None,
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted benchmark.", rich_help_panel=_RUN)
    ] = False,
    only_folds: Annotated[
        str | None, typer.Option(help="Compute only these folds, such as 1,2; --resume adds the others.",
                                 rich_help_panel=_RUN),
    ] = None,
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="Compute nothing; rebuild tables and report from saved results.",
                           rich_help_panel=_RUN),
    ] = False,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Resamples of the posts for intervals and tests.", rich_help_panel=_RUN)
    ] = 2000,
    tables_format: Annotated[
        str | None,
        typer.Option(help="Write each table into a file of its own as well: csv,tex or one of them.",
                     show_default=False, rich_help_panel=_RUN),
    ] = None,
    plugin: Plugin = None,
    table: Table = None,
    allow_remote: AllowRemote = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Compare joint fine-tuning with baselines on the same folds of POSTS.

    Every finished result is saved at once: after a crash or Ctrl-C, --resume continues from there.
    """
    given = dict(locals())
    from cotune.benchmark.tables import parse_forms
    from cotune.plugins import load_plugins
    from cotune.report.benchmark_report import write_all

    load_plugins(plugin or [])
    forms = parse_forms(words_of(tables_format, "tables-format")) if tables_format is not None else ()
    written_how: dict[str, Any] = {"paper": paper, "n_bootstrap": bootstrap, "forms": forms}
    if tables_only:
        _answer(write_all(out, **written_how), out, _rebuild(out, paper, bootstrap, plugin or []), as_json)
        return
    if posts is None:
        raise ConfigError("name a posts table: cotune bench POSTS --out DIR (or rebuild tables with --tables-only)")
    from cotune.data.posts import read_posts

    plan = _plan(given)
    columns = table.columns(plan.fit.fields)
    say = reporter().say
    unused = say if folds_from is None else None  # what is told of a split that is not used
    found = table.reviewed(read_posts(posts, columns=columns, require_labels=True, tell=unused, **table.rows()), say)
    if folds_from is not None:
        plan = _with_published(plan, given, found, say)
    more: dict[str, Any] = {
        "plugins": plugin or (), "only_folds": _folds(only_folds), "allow_remote": allow_remote, "resume": resume
    }  # fmt: skip
    workers = workers_of(cluster, num_cpus, num_gpus, jobs if cluster else None)
    try:
        if workers is None:
            session = _run(found, plan, out, jobs=jobs or 1, **more)
        else:
            from cotune.scale.cells import spread_cells
            from cotune.scale.connect import connected

            with connected(workers) as there:
                session = _run(found, plan, out, jobs=there.size, work=spread_cells(there, plugin or ()), **more)
    except KeyboardInterrupt:
        raise StoppedError("stopped before the first cell; finished cells of earlier runs are kept") from None
    if session.interrupted:
        kept = plural(session.found + session.done, "finished cell")
        raise StoppedError(f"stopped; {kept} kept in {out}, and --resume goes on from there")
    written = None
    if session.done + session.found:
        written = write_all(out, **written_how)
    failures = {failure.cell.key: failure.reason for failure in session.failures}
    if written is not None:
        _answer(written, out, _rebuild(out, paper, bootstrap, plugin or []), as_json)
    _tell_failures(failures)
    leaking = [row for row in (written.summary.get("sanity", []) if written is not None else []) if row["leaks"]]
    for row in leaking:
        tell(
            f"error: the method {row['method']} is above chance on shuffled labels ({row['score']['value']:.3f}): it "
            "sees labels of posts it is scored on"
        )
    if failures or leaking:
        raise typer.Exit(1)


def _plan(given: dict[str, Any]) -> Plan:
    from cotune.benchmark.grid import read_grid
    from cotune.benchmark.plan import Plan, parse_shots

    flags = given["flags"]
    fit = settings_given(flags, given["settings"], given["config"], given["table"])
    pairs: tuple[tuple[str, str], ...] = ((fit.text_encoder, fit.image_encoder),)
    methods, folds = words_of(given["methods"] or _METHODS, "methods"), given["folds"]
    if given["grid"] is not None:
        if flags.keys() & {"text_encoder", "image_encoder"}:
            raise ConfigError("--grid names the encoders; leave --text-encoder and --image-encoder away")
        grid = read_grid(given["grid"])
        pairs = grid.pairs
        methods = words_of(given["methods"], "methods") if given["methods"] else grid.methods or ("joint",)
        folds = folds or grid.folds
    if given["protocol"] == "paper":
        # The paper trains at least three epochs and stops on the training loss.
        stop = {"stop": "train-loss", "min_epochs": max(3, fit.min_epochs), "epochs": max(3, fit.epochs)}
        fit = fit.model_copy(update=stop)
    return Plan(
        methods=methods,
        pairs=pairs,
        folds=folds or 10,
        protocol=given["protocol"],
        fold_seed=given["fold_seed"],
        group_by=_group_by(given["group_by"]),
        seeds=seeds_of(given["seeds"]) if given["seeds"] else (fit.seed,),
        shots=parse_shots(words_of(given["shots"], "shots")),
        draws=given["draws"],
        clip=given["clip"],
        emap=given["emap"],
        fit=fit,
        sanity=given["sanity"],
    )


def _with_published(plan: Plan, given: dict[str, Any], posts: Any, say: Callable[[str], None]) -> Plan:
    """Return the plan with the folds that `--folds-from` names, and tell what is odd about them."""
    from dataclasses import replace

    from cotune.data.published_folds import WATCH, read_published_folds

    if given["folds"] is not None or given["protocol"] == "paper":
        raise ConfigError("--folds-from brings its own folds; leave --folds and --protocol away")
    published = read_published_folds(posts, given["posts"], given["folds_from"], kind=given["table"].format)
    for note in published.notes:
        say(f"note: {note}")
    n = int((published.roles == WATCH).any(axis=1).sum())
    if n and plan.fit.stop != "validation":
        say(f"note: {plural(n, 'validation post')} of the published folds are not trained on; --stop validation "
             "stops by them")  # fmt: skip
    return replace(plan, protocol="published", published=published, folds=len(published.names))


def _group_by(given: str) -> tuple[str, ...]:
    words = words_of(given, "group-by")
    for word in words:
        if word not in ("text", "image"):
            raise ConfigError(f"--group-by takes text and image, not {word!r}{did_you_mean(word, ('text', 'image'))}")
    return words


def _folds(given: str | None) -> tuple[int, ...]:
    words = words_of(given, "only-folds") if given is not None else ()
    for word in words:
        if not word.isdigit() or int(word) < 1:
            raise ConfigError(f"--only-folds takes numbers of folds from 1 on, not {word!r}")
    return tuple(int(word) - 1 for word in words)


def _run(table: Any, plan: Plan, out: Path, **how: Any) -> Session:
    from cotune.benchmark.display import LineWatcher, LiveWatcher
    from cotune.benchmark.runner import Watcher, run_plan

    watcher = Watcher() if is_quiet() else (LiveWatcher if sys.stderr.isatty() else LineWatcher)(how["jobs"])
    showing: Any = watcher if isinstance(watcher, LiveWatcher) else nullcontext()
    with showing:
        return run_plan(table, plan, out, watcher=watcher, **how)


def _rebuild(out: Path, paper: str | None, bootstrap: int, plugins: list[str]) -> str:
    """Return the command that makes the same tables again."""
    more = ["--paper", paper] if paper else []
    more += repeated("--plugin", plugins)
    return command("cotune", "bench", "--out", out, "--tables-only", "--bootstrap", bootstrap, *more)


def _answer(written: Written, out: Path, rebuild: str, as_json: bool) -> None:
    if as_json:
        print_json(written.to_dict())
        return
    tables = [table for table in written.tables if table.name not in ("table2", "emap")]
    for i, table in enumerate(tables):
        print_rich(*([""] if i else []), _rich(table), *table.notes)
    print_next(f"{out / 'results.md'} and {out / 'report.html'} are written. Rebuild them with:", rebuild)


def _rich(table: Table) -> Any:
    """Return a table for the terminal.

    Where it is narrow, fewer columns; then intervals below their values; of tables beside the main one values alone.
    """
    from cotune.console import open_console
    from cotune.report.pages import split_cell

    console, main = open_console(), table.name == "table1"  # the whole of it is wider than any terminal
    filled = [i for i in range(len(table.head)) if i == 0 or any(row[i] != "—" for row in table.rows)]
    most = [i for i in filled if not main or i == 0 or _MAIN.search(table.head[i])]
    least = [i for i in most if not main or not _LESS.search(table.head[i])]
    if len(least) == 1:  # before all folds are done, means over folds are all there is
        least = most

    def drawn(columns: list[int], shape: Callable[[str], str]) -> Any:
        heads = [table.head[i] if shape is str else re.sub(r" (?=[\[(])", "\n", table.head[i]) for i in columns]
        made = new_table(table.title, *heads, right=heads[1:])
        for row in table.rows:
            add_row(made, *(shape(row[i]) if i else row[i] for i in columns))
        return made

    def width(made: Any) -> int:
        return console.measure(made, options=console.options.update(width=10_000)).maximum

    def below(cell: str) -> str:
        return "\n".join(filter(None, split_cell(cell)))

    forms: list[tuple[list[int], Callable[[str], str]]] = [(most, str), (least, str), (least, below)]
    if not main:
        forms.append((least, lambda cell: split_cell(cell)[0]))
    for columns, shape in forms:
        found = drawn(columns, shape)
        if width(found) <= console.width:
            return found
    if width(drawn(columns[1:], shape)) + _NAME <= console.width:
        for column in found.columns[1:]:
            column.no_wrap = True  # so that the names give way
    return found


def _tell_failures(failures: dict[str, str]) -> None:
    if not failures:
        return
    by_reason: dict[str, list[str]] = {}
    for key, reason in failures.items():
        by_reason.setdefault(reason, []).append(key)
    tell(
        f"error: {plural(len(failures), 'cell')} failed; --resume tries {'it' if len(failures) == 1 else 'them'} again"
    )
    for reason, keys in by_reason.items():
        shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        tell(f"  {reason} [{shown}]")
