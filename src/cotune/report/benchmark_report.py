"""The report of a benchmark: tables as Markdown, CSV and LaTeX, and one HTML page that needs nothing else."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import DictLoader, Environment, StrictUndefined

from cotune.benchmark.compare import Summary, summarise
from cotune.benchmark.curves import grid_methods, learning_curves, pareto, table_2, table_curves, table_grid
from cotune.benchmark.plan import ANCHOR, short_name
from cotune.benchmark.results import Results, RowKey, read_results
from cotune.benchmark.tables import PAPER, Table, number, seconds, table_1, table_emap
from cotune.files import write_json, write_text
from cotune.metrics import confusion_matrix
from cotune.metrics.calibration import calibration_bins
from cotune.report.benchmark_plots import (
    LOOKS,
    Bar,
    Line,
    Spot,
    dumbbells,
    interval_chart,
    legend,
    line_plot,
    roc_points,
    scatter,
)
from cotune.report.plots import calibration_chart

REPORT, SUMMARY = "report.html", "summary.json"
#: The looks of known methods, so that a method looks the same in every report; joint is the first.
_LOOKS = {"joint": 0, "concat": 1, "text": 2, "image": 3, "svm": 4, "probe": 5, "reference": 6, "ensemble": 7}
_MATRIX_CLASSES = 12


@dataclass
class Written:
    """What was written: the tables, and the same figures for programs."""

    tables: list[Table]
    summary: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return self.summary


def write_all(out: str | Path, *, paper: str | None = None, n_bootstrap: int = 2000) -> Written:
    """Write tables, ``summary.json`` and ``report.html`` into a results folder, from its predictions alone.

    Parameters
    ----------
    out : path
        The results folder.
    paper : {"mvsa", "hateful-memes"}, optional
        Put the paper's figures beside.
    n_bootstrap : int
        Resamples of the posts for intervals and tests.

    Raises
    ------
    RunError
        If the folder is none, or holds no finished cell.
    """
    out = Path(out)
    results = read_results(out)
    summaries = summarise(results, n_bootstrap=n_bootstrap)
    tables = [table_1(results, summaries, paper=paper), table_2(results, summaries)] if summaries else []
    tables += [t for t in (table_emap(summaries), table_curves(results)) if t is not None]
    tables += [table_grid(summaries, method) for method in grid_methods(summaries)]
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
    for table in tables:
        table.save(out)
    write_json(out / SUMMARY, summary)
    write_text(out / REPORT, benchmark_report(results, summaries, tables, paper=paper))
    return Written(tables, summary)


def benchmark_report(
    results: Results, summaries: Sequence[Summary], tables: Sequence[Table], *, paper: str | None = None
) -> str:
    """Return the report as one HTML page."""
    grids = grid_methods(summaries)
    plain = [s for s in summaries if not grids or s.key.method not in grids]
    anchor = next((s for s in summaries if s.key.method == ANCHOR), None)
    best = max((s for s in summaries if not math.isnan(s.auc_mean)), key=lambda s: s.auc_mean, default=None)
    named = {table.name: table for table in tables}
    shown = plain if plain else list(summaries)
    looks = _looks(summaries)
    return (
        _environment()
        .get_template("benchmark.html")
        .render(
            facts=_facts(results),
            anchor=anchor,
            best=best if best is not anchor else None,
            table_1=named.get("table1"),
            table_2=named.get("table2"),
            emap=named.get("emap"),
            curve_table=named.get("learning_curve"),
            intervals=interval_chart(_bars(summaries, paper), title="AUC by method, with 95 % intervals"),
            paper=paper,
            roc=_roc(results, summaries, looks),
            calibration=_calibration(results, shown),
            confusion=_confusion(results, shown),
            losses=_losses(results, looks),
            curves=_curves(results, looks),
            trades=_trades(summaries, looks) if not grids else None,
            dumbbells=[
                (_named(s, summaries), dumbbells(list(s.emap[:, 0]), list(s.emap[:, 1]), title=f"EMAP, {s.key.title}"))
                for s in summaries
                if s.emap is not None
            ][:LOOKS],
            grids=[_grid(summaries, method, named[f"grid_{method}"]) for method in grids],
            failures=results.failures,
            settings=_settings(results),
        )
    )


@cache
def _environment() -> Environment:
    folder = files("cotune.report") / "templates"
    names = ("benchmark.html", "benchmark.css", "report.css", "parts.html")
    pages = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    page = Environment(loader=DictLoader(pages), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page.filters["split_cell"] = split_cell
    return page


def split_cell(words: str) -> tuple[str, str]:
    """Return a figure and what stands behind it (interval, spread, corrected p-value), for a second line."""
    for mark in (" ± ", " [", " (", " → "):
        first, found, rest = words.partition(mark)
        if found and first.strip("+−<. ").replace(".", "").isdigit():
            return first, mark.strip() + (" " if mark.endswith(" ") else "") + rest
    return words, ""


def _facts(results: Results) -> list[tuple[str, str, str]]:
    folds, settings = results.folds, results.settings
    left = ", ".join(f"{n:,} with {reason}" for reason, n in folds.left_out.items() if n)
    return [
        ("Posts", f"{len(folds.ids):,}", f"left out: {left}" if left else f"{len(folds.classes)} classes"),
        ("Folds", str(settings["folds"]), f"{settings['protocol']}, seed {settings['fold_seed']}"),
        ("Time of all cells", seconds(results.seconds), f"encoders tuned: {settings['fit']['tune']}"),
    ]


def _settings(results: Results) -> list[tuple[str, str]]:
    settings = results.settings
    rows = [(key.replace("_", " "), str(value)) for key, value in settings.items() if key not in ("fit", "data")]
    rows.append(("hash of the posts", settings["data"][:16]))
    rows += [(key.replace("_", "-"), str(value)) for key, value in settings["fit"].items() if value is not None]
    return rows + list(results.versions.items())


def _looks(summaries: Sequence[Summary]) -> dict[RowKey, int]:
    """Give each row a look; a known method keeps its own as long as it occurs once."""
    found: dict[RowKey, int] = {}
    free = [look for look in range(LOOKS) if look not in {_LOOKS.get(s.key.method) for s in summaries}]
    for summary in summaries:
        wanted = _LOOKS.get(summary.key.method)
        if wanted is not None and wanted not in found.values():
            found[summary.key] = wanted
        else:
            found[summary.key] = free.pop(0) if free else len(found) % LOOKS
    return found


def _named(summary: Summary, others: Sequence[Summary]) -> str:
    same = sum(other.key.method == summary.key.method for other in others)
    return f"{summary.key.title}, {summary.key.encoders}" if same > 1 else summary.key.title


def _bars(summaries: Sequence[Summary], paper: str | None) -> list[Bar]:
    theirs = PAPER.get(paper or "", {})
    bars = []
    for s in summaries:
        auc = s.scores.get("auc")
        value, low, high = (auc.value, auc.low, auc.high) if auc else (s.auc_mean, math.nan, math.nan)
        bars.append(
            Bar(
                _named(s, summaries),
                value,
                low,
                high,
                list(s.fold_aucs),
                theirs.get(s.key.method),
                s.key.method == ANCHOR,
            )
        )
    return bars


def _roc(results: Results, summaries: Sequence[Summary], looks: dict[RowKey, int]) -> dict[str, Any] | None:
    lines = [
        Line(
            _named(s, summaries), roc_points(results.folds.labels, results.rows[s.key].proba), looks[s.key],
            note=f"{s.scores['auc'].value:.4f}",
        )
        for s in summaries if s.scores
    ][: LOOKS + 1]  # fmt: skip
    if not lines:
        return None
    drawn = line_plot(lines, title="ROC curves", x_name="false positives", y_name="true positives", square=True)
    return {"svg": drawn, "legend": legend(lines)}


def _calibration(results: Results, summaries: Sequence[Summary]) -> list[tuple[str, str, Any]]:
    found = []
    for s in summaries:
        row = results.rows[s.key]
        if row.complete:
            proba = row.proba[0] / row.proba[0].sum(axis=1, keepdims=True)
            bins = calibration_bins(results.folds.labels, proba)
            error = sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / len(proba)
            found.append((_named(s, summaries), f"{error:.3f}", calibration_chart(bins)))
    return found


def _confusion(results: Results, summaries: Sequence[Summary]) -> dict[str, Any] | None:
    classes = results.folds.classes
    if len(classes) > _MATRIX_CLASSES:
        return None
    matrices = []
    for s in summaries:
        row = results.rows[s.key]
        if row.complete:
            counts = confusion_matrix(results.folds.labels, row.proba[0])
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            cells = [
                [
                    {"n": int(n), "share": float(share), "right": i == j}
                    for j, (n, share) in enumerate(zip(counts[i], shares[i], strict=True))
                ]
                for i in range(len(classes))
            ]
            matrices.append((_named(s, summaries), cells))
    return {"classes": classes, "matrices": matrices} if matrices else None


def _losses(results: Results, looks: dict[RowKey, int]) -> dict[str, Any] | None:
    """Return the training loss by epoch of the last stage, mean over cells."""
    lines = []
    for key, row in results.rows.items():
        by_epoch: dict[int, list[float]] = defaultdict(list)
        for record in row.records:
            last = record.history[-1]["stage"] if record.history else None
            for epoch in record.history:
                if epoch["stage"] == last and epoch.get("train_loss") is not None:
                    by_epoch[int(epoch["epoch"])].append(float(epoch["train_loss"]))
        points = [(float(n), float(np.mean(values))) for n, values in sorted(by_epoch.items())]
        if points and key in looks:
            many = sum(other.method == key.method for other in results.rows) > 1
            lines.append(Line(f"{key.title}, {key.encoders}" if many else key.title, points, looks[key]))
    lines = lines[: LOOKS + 1]
    drawn = line_plot(lines, title="Training loss by epoch", x_name="epoch of the last stage", y_name="training loss")
    return {"svg": drawn, "legend": legend(lines)} if drawn else None


def _curves(results: Results, looks: dict[RowKey, int]) -> dict[str, Any] | None:
    curves = learning_curves(results)
    if not curves:
        return None
    whole = float(results.folds.most_shots())
    lines = []
    for spare, (key, points) in enumerate(curves.items()):
        look = looks.get(key, _LOOKS.get(key.method, spare % LOOKS))
        places = [(float(p.shots or whole), p.mean) for p in points]
        spread = [0.0 if math.isnan(p.std) else p.std for p in points]
        band = [(mean - s, mean + s) for (_, mean), s in zip(places, spread, strict=True)]
        lines.append(Line(key.title, places, look, band))
    sizes = sorted({p.shots for points in curves.values() for p in points if p.shots})
    ticks = [(float(n), str(n)) for n in sizes]
    if any(p.shots is None for points in curves.values() for p in points):
        ticks.append((whole, "all"))
    drawn = line_plot(
        lines, title="AUC by training posts per class", x_name="training posts per class", y_name="AUC", log=True,
        x_ticks=ticks,
    )  # fmt: skip
    return {"svg": drawn, "legend": legend(lines)}


def _trades(summaries: Sequence[Summary], looks: dict[RowKey, int]) -> dict[str, Any] | None:
    charts, spots = [], []
    for kind, title, x_name in (
        ("parameters", "AUC and size", "parameters"),
        ("seconds", "AUC and time", "time to train and score a fold"),
    ):
        spots = [Spot(_named(s, summaries), getattr(s, kind), s.auc_mean, looks[s.key]) for s in summaries]
        drawn = scatter(spots, title=title, x_name=x_name, y_name="mean AUC", kind=kind)
        if drawn:
            charts.append((title, drawn))
    return {"charts": charts, "legend": legend(spots)} if charts else None


def _grid(summaries: Sequence[Summary], method: str, table: Table) -> dict[str, Any]:
    mine = [s for s in summaries if s.key.method == method and s.key.text and s.key.image]
    texts = list(dict.fromkeys(s.key.text for s in mine))
    images = list(dict.fromkeys(s.key.image for s in mine))
    by_pair = {(s.key.text, s.key.image): s for s in mine}
    known = [s.auc_mean for s in mine if not math.isnan(s.auc_mean)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    heat = []
    for text in texts:
        cells: list[dict[str, Any] | None] = []
        for image in images:
            s = by_pair.get((text, image))
            if s is None or math.isnan(s.auc_mean):
                cells.append(None)
                continue
            share = (s.auc_mean - low) / (high - low) if high > low else 0.5
            cells.append({"auc": f"{s.auc_mean:.4f}", "share": share, "best": s.auc_mean == high,
                          "size": number(s.parameters), "time": seconds(s.seconds)})  # fmt: skip
        heat.append((short_name(text), cells))
    front = pareto(mine)
    charts = []
    for kind, x_name in (("parameters", "parameters"), ("seconds", "time to train and score a fold")):
        spots = [
            Spot(s.key.encoders, getattr(s, kind), s.auc_mean, texts.index(s.key.text), s.key in front) for s in mine
        ]
        charts.append(scatter(spots, title=f"AUC and {kind}", x_name=x_name, y_name="mean AUC", kind=kind))
    names = legend([Spot(short_name(text), 1, 1, i) for i, text in enumerate(texts)])
    return {
        "title": mine[0].key.title, "images": [short_name(i) for i in images], "heat": heat, "charts": charts,
        "legend": names, "table": table,
    }  # fmt: skip
