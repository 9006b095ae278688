"""What a benchmark writes: ``results.md``, ``summary.json``, and one HTML page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotune.benchmark import results_store
from cotune.benchmark.compare import Summary, summarise
from cotune.benchmark.curves import grid_methods, learning_curves, table_2, table_curves, table_grid
from cotune.benchmark.results import Results, read_results
from cotune.benchmark.sanity import Checked, check_sanity, table_sanity, verdict
from cotune.benchmark.tables import Table, save_tables, seconds, table_1, table_emap
from cotune.files import write_json, write_text
from cotune.report import benchmark_figures as figures
from cotune.report.benchmark_verdict import answer, benchmark_notices, by_score, reference_of
from cotune.report.interval_charts import interval_chart
from cotune.report.pages import render

REPORT, SUMMARY = "report.html", "summary.json"
_BEST = 4


@dataclass
class Written:
    """What was written: the tables, and the same figures for programs."""

    tables: list[Table]
    summary: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return self.summary


def write_all(
    out: str | Path, *, paper: str | None = None, n_bootstrap: int = 2000, forms: Sequence[str] = ()
) -> Written:
    """Write ``results.md``, ``summary.json`` and ``report.html`` into a results folder, from its predictions alone.

    Parameters
    ----------
    out : path
        The results folder.
    paper : {"mvsa", "hateful-memes"}, optional
        Put the paper's figures beside.
    n_bootstrap : int
        Resamples of the posts for intervals and tests.
    forms : sequence of {"csv", "tex"}
        Write each table into a file of its own as well.

    Raises
    ------
    RunError
        If the folder is none, or holds no finished cell.
    """
    out = Path(out)
    results_store.settle(out)
    results = read_results(out)
    summaries = summarise(results, n_bootstrap=n_bootstrap)
    tables = [table_1(results, by_score(summaries), paper=paper), table_2(results, summaries)] if summaries else []
    checked = check_sanity(results, summaries)
    if checked is not None:
        tables.insert(0, table_sanity(results, checked))
    tables += [t for t in (table_emap(results, summaries), table_curves(results)) if t is not None]
    tables += [table_grid(summaries, method, results.folds.task.main_title) for method in grid_methods(summaries)]
    summary = {
        "settings": results.settings,
        "posts": len(results.folds.ids),
        "classes": list(results.folds.classes),
        "left_out": results.folds.left_out,
        "versions": results.versions,
        "seconds": results.seconds,
        "rows": [s.to_dict() for s in summaries],
        "learning_curves": [
            {**key.__dict__, "points": [point.__dict__ for point in points]}
            for key, points in learning_curves(results).items()
        ],
        "not_run": results.not_run(),
        "failures": results.failures,
    }
    if checked is not None:
        summary["sanity"] = [each.to_dict() for each in checked]
    save_tables(out, tables, forms)
    write_json(out / SUMMARY, summary)
    write_text(out / REPORT, benchmark_report(results, summaries, tables, paper=paper, checked=checked))
    return Written(tables, summary)


def benchmark_report(
    results: Results,
    summaries: Sequence[Summary],
    tables: Sequence[Table],
    *,
    paper: str | None = None,
    checked: Sequence[Checked] | None = None,
) -> str:
    """Return the report as one HTML page."""
    summaries = by_score(summaries)
    grids, main = grid_methods(summaries), results.folds.task.main_title
    shown = _shown(summaries, grids)
    best = next((s for s in summaries if not math.isnan(s.auc_mean)), None)
    anchor = reference_of(summaries)
    named = {table.name: table for table in tables}
    looks = figures.looks(shown)
    return render(
        "benchmark.html",
        main=main,
        answer=answer(results, summaries, grids) if checked is None else verdict(results, checked),
        notices=benchmark_notices(results, summaries, grids) if checked is None else [],
        facts=_facts(results),
        anchor=anchor,
        reference=None if anchor is None else _row_name(anchor, named.get("table1")),
        best=best if best is not anchor else None,
        best_name=best.key.encoders if best and grids else best.key.title if best else "",
        sanity=named.get("sanity"),
        table_1=named.get("table1"),
        table_2=named.get("table2"),
        emap=named.get("emap"),
        curve_table=named.get("learning_curve"),
        intervals=interval_chart(figures.bars(shown, paper), title=f"{main} by method, with 95 % intervals"),
        forest=figures.forest(shown, main),
        only_best=len(shown) < len(summaries),
        paper=paper,
        roc=figures.roc(results, shown, looks),
        calibration=figures.calibration(results, shown),
        confusion=figures.confusion(results, shown),
        losses=figures.losses(results, shown, looks),
        curves=figures.curves(results, looks),
        trades=figures.trades(summaries, looks, main) if not grids else None,
        additive=figures.additive(shown, main),
        grids=[figures.grid_figure(summaries, method, named[f"grid_{method}"], main) for method in grids],
        failures=results.failures,
        settings=_settings(results),
    )


def _shown(summaries: Sequence[Summary], grids: Sequence[str]) -> list[Summary]:
    """Return the rows that are drawn one by one: all, but only the best pairs of a grid."""
    chosen = {s.key for s in summaries if s.key.method not in grids}
    for method in grids:
        mine = [s for s in summaries if s.key.method == method and not math.isnan(s.auc_mean)]
        chosen |= {s.key for s in sorted(mine, key=lambda s: -s.auc_mean)[:_BEST]}
    return [s for s in summaries if s.key in chosen]


def _row_name(summary: Summary, table: Table | None) -> str | None:
    """Return what the table calls the row: its title, with its encoders where several pairs are in the table."""
    names = {summary.key.title, f"{summary.key.title} ({summary.key.encoders})"}
    return next((row[0] for row in table.rows if row[0] in names), None) if table is not None else None


def _facts(results: Results) -> list[tuple[str, str, str]]:
    folds, settings = results.folds, results.settings
    left = ", ".join(f"{n:,} with {reason}" for reason, n in folds.left_out.items() if n)
    return [
        (
            "Posts",
            f"{len(folds.ids):,}",
            f"left out: {left}"
            if left
            else folds.task.describe()
            if folds.task.target_type != "multiclass"
            else f"{len(folds.classes)} classes",
        ),
        ("Folds", str(settings["folds"]), f"{settings['protocol']}, seed {settings['fold_seed']}"),
        ("Total compute time", seconds(results.seconds), f"encoders tuned: {settings['fit']['tune']}"),
    ]


def _settings(results: Results) -> list[tuple[str, str]]:
    settings = results.settings
    rows = [
        (key.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for key, value in settings.items()
        if key not in ("fit", "data")
    ]
    rows.append(("hash of the posts", settings["data"][:16]))
    rows += [(key.replace("_", "-"), str(value)) for key, value in settings["fit"].items() if value is not None]
    return rows + list(results.versions.items())
