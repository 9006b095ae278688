"""What each figure of a benchmark's report shows, gathered from results and summaries."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from cotune.benchmark.compare import Summary, summarise
from cotune.benchmark.curves import learning_curves
from cotune.benchmark.plan import ANCHOR, short_name
from cotune.benchmark.results import Results, RowKey, read_results
from cotune.benchmark.tables import PAPER, Table, number, p_words, repeated, seconds
from cotune.metrics import confusion_matrix
from cotune.metrics.calibration import calibration_bins
from cotune.report.benchmark_verdict import strict_p
from cotune.report.charts import Line, Spot, legend, line_plot, scatter
from cotune.report.drawing import LOOKS
from cotune.report.interval_charts import Bar, Gap, forest_chart
from cotune.report.pages import standalone
from cotune.report.run_charts import calibration_chart

#: The looks of known methods, so that a method looks the same in every report; joint is the first.
_LOOKS = {"joint": 0, "concat": 1, "text": 2, "image": 3, "svm": 4, "probe": 5, "reference": 6, "ensemble": 7}
_MATRIX_CLASSES = 12
#: What the two sides of a difference mean.
SIDES = ("other method better", "joint better")


def looks(summaries: Sequence[Summary]) -> dict[RowKey, int]:
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


def named(summary: Summary, others: Sequence[Summary]) -> str:
    """Return a row's title, or its encoders where the method has several rows."""
    return f"{summary.key.encoders} ({summary.key.method})" if repeated(summary, others) else summary.key.title


def bars(summaries: Sequence[Summary], paper: str | None) -> list[Bar]:
    """Return the rows of the chart of intervals."""
    theirs = PAPER.get(paper or "", {})
    found = []
    for s in summaries:
        auc = next(iter(s.scores.values()), None)
        value, low, high = (auc.value, auc.low, auc.high) if auc else (s.auc_mean, math.nan, math.nan)
        found.append(
            Bar(
                s.key.title,
                value,
                low,
                high,
                list(s.fold_aucs),
                theirs.get(s.key.method),
                s.key.method == ANCHOR,
                s.key.encoders if repeated(s, summaries) else "",
            )
        )
    return found


def forest(summaries: Sequence[Summary], main: str) -> Markup:
    """Return the paired differences of the main score, reference minus row; "" where nothing was tested."""
    gaps = [
        Gap(named(s, summaries), s.test.difference, s.test.low, s.test.high, p_words(strict_p(s.test)))
        for s in summaries
        if s.test is not None
    ]
    gaps.sort(key=lambda gap: gap.value)
    return forest_chart(gaps, title=f"{main} of joint fine-tuning minus that of each other method", sides=SIDES)


def forest_svg(out: str | Path, *, n_bootstrap: int = 2000) -> str:
    """Return the paired differences of a results folder as an SVG file of its own, for light and dark pages.

    Parameters
    ----------
    out : path
        The results folder.
    n_bootstrap : int
        Resamples of the posts for the intervals.

    Raises
    ------
    RunError
        If the folder is none, or holds no finished cell.
    """
    results = read_results(out)
    return standalone(forest(summarise(results, n_bootstrap=n_bootstrap), results.folds.task.main_title))


def additive(summaries: Sequence[Summary], main: str) -> Markup:
    """Return what each row loses by its additive projection, with intervals; "" where nothing was projected."""
    lost = [
        Gap(named(s, summaries), s.emap_loss.value, s.emap_loss.low, s.emap_loss.high)
        for s in summaries
        if s.emap_loss is not None
    ]
    sides = ("projection better", "interaction adds")
    return forest_chart(lost, title=f"{main} lost by the additive projection (EMAP)", sides=sides)


def roc(results: Results, summaries: Sequence[Summary], looks: dict[RowKey, int]) -> dict[str, Any] | None:
    """Return the ROC curves of the rows that are complete, and their legend; None for a task without."""
    if results.folds.task.main_score != "auc":
        return None
    lines = [
        Line(
            named(s, summaries), roc_points(results.folds.targets, results.rows[s.key].proba), looks[s.key],
            note=f"{s.scores['auc'].value:.4f}",
        )
        for s in summaries if s.scores
    ]  # fmt: skip
    if not lines:
        return None
    drawn = line_plot(
        lines, title="ROC curves", x_name="false positive rate", y_name="true positive rate", square=True,
        finding=", ".join(f"{line.name} AUC {line.note}" for line in lines),
    )  # fmt: skip
    return {"svg": drawn, "legend": legend(lines)}


def roc_points(labels: np.ndarray, tables: np.ndarray, n: int = 101) -> list[tuple[float, float]]:
    """Return the ROC curve, macro mean of one class against the rest (of class 1 for two), mean over seeds."""
    from sklearn.metrics import roc_curve

    grid = np.linspace(0, 1, n)
    n_classes = tables.shape[2]
    columns = [1] if n_classes == 2 and labels.ndim == 1 else range(n_classes)
    rates = []
    for table in tables:
        for k in columns:
            fall, rise, _ = roc_curve(labels == k if labels.ndim == 1 else labels[:, k] > 0, table[:, k])
            rates.append(np.interp(grid, fall, rise))
    mean = np.mean(rates, axis=0)
    mean[0] = 0.0
    return [(float(a), float(b)) for a, b in zip(grid, mean, strict=True)]


def calibration(results: Results, summaries: Sequence[Summary]) -> list[tuple[str, str, Any]]:
    """Return name, calibration error and curve of each complete row (of its first seed); classes alone have any."""
    found: list[tuple[str, str, list[dict[str, Any]]]] = []
    if results.folds.task.target_type != "multiclass":
        return []
    for s in summaries:
        row = results.rows[s.key]
        if row.complete:
            proba = row.proba[0] / row.proba[0].sum(axis=1, keepdims=True)
            bins = calibration_bins(results.folds.targets, proba)
            error = sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / len(proba)
            found.append((named(s, summaries), f"{error:.3f}", bins))
    low = min((b["low"] for _, _, bins in found for b in bins), default=0.0)
    return [(name, error, calibration_chart(bins, low=low)) for name, error, bins in found]


def confusion(results: Results, summaries: Sequence[Summary]) -> dict[str, Any] | None:
    """Return the confusion matrix of each complete row, or None for too many classes."""
    classes = results.folds.classes
    if len(classes) > _MATRIX_CLASSES or results.folds.task.target_type != "multiclass":
        return None
    matrices = []
    for s in summaries:
        row = results.rows[s.key]
        if row.complete:
            counts = confusion_matrix(results.folds.targets, row.proba[0])
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            cells = [
                [
                    {"n": int(n), "share": float(share), "right": i == j}
                    for j, (n, share) in enumerate(zip(counts[i], shares[i], strict=True))
                ]
                for i in range(len(classes))
            ]
            matrices.append((named(s, summaries), cells))
    return {"classes": classes, "matrices": matrices} if matrices else None


def losses(results: Results, summaries: Sequence[Summary], looks: dict[RowKey, int]) -> dict[str, Any] | None:
    """Return the training loss by epoch of the last stage, mean over cells."""
    lines = []
    for summary in summaries:
        by_epoch: dict[int, list[float]] = defaultdict(list)
        for record in results.rows[summary.key].records:
            last = record.history[-1]["stage"] if record.history else None
            for epoch in record.history:
                if epoch["stage"] == last and epoch.get("train_loss") is not None:
                    by_epoch[int(epoch["epoch"])].append(float(epoch["train_loss"]))
        points = [(float(n), float(np.mean(values))) for n, values in sorted(by_epoch.items())]
        lines.append(Line(named(summary, summaries), points, looks[summary.key]))
    lines = [line for line in lines if line.points]
    drawn = line_plot(lines, title="Training loss by epoch", x_name="epoch of the last stage", y_name="training loss")
    return {"svg": drawn, "legend": legend(lines)} if drawn else None


def curves(results: Results, looks: dict[RowKey, int]) -> dict[str, Any] | None:
    """Return the learning curves, or None if there are none."""
    found, main = learning_curves(results), results.folds.task.main_title
    if not found:
        return None
    whole = float(results.folds.most_shots())
    lines = []
    for spare, (key, points) in enumerate(found.items()):
        look = looks.get(key, _LOOKS.get(key.method, spare % LOOKS))
        places = [(float(p.shots or whole), p.mean) for p in points]
        spread = [0.0 if math.isnan(p.std) else p.std for p in points]
        band = [(mean - s, mean + s) for (_, mean), s in zip(places, spread, strict=True)]
        lines.append(Line(key.title, places, look, band))
    sizes = sorted({p.shots for points in found.values() for p in points if p.shots})
    ticks = [(float(n), str(n)) for n in sizes]
    if any(p.shots is None for points in found.values() for p in points):
        ticks.append((whole, "all"))
    drawn = line_plot(
        lines, title=f"{main} by training posts per class", x_name="training posts per class", y_name=main, log=True,
        x_ticks=ticks,
    )  # fmt: skip
    return {"svg": drawn, "legend": legend(lines)}


def trades(summaries: Sequence[Summary], looks: dict[RowKey, int], main: str) -> dict[str, Any] | None:
    """Return the main score against parameters and against time."""
    charts, spots = [], []
    for kind, title, x_name in (
        ("parameters", f"{main} and size", "parameters"),
        ("seconds", f"{main} and time", "time to train and score a fold"),
    ):
        spots = [
            Spot(
                named(s, summaries), getattr(s, kind), s.auc_mean, looks[s.key],
                label="" if repeated(s, summaries) else s.key.method,
            )
            for s in summaries
        ]  # fmt: skip
        drawn = scatter(spots, title=title, x_name=x_name, y_name=f"mean {main}", kind=kind)
        if drawn:
            charts.append((title, drawn))
    return {"charts": charts, "legend": legend(spots)} if charts else None


def grid_figure(summaries: Sequence[Summary], method: str, table: Table, main: str) -> dict[str, Any]:
    """Return the heat map of one method's pairs of encoders, and what they cost."""
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
    charts = []
    for kind, x_name in (("parameters", "parameters"), ("seconds", "time to train and score a fold")):
        spots = [
            Spot(s.key.encoders, getattr(s, kind), s.auc_mean, texts.index(s.key.text), label=short_name(s.key.image))
            for s in mine
        ]
        charts.append(
            scatter(spots, title=f"{main} and {kind}", x_name=x_name, y_name=f"mean {main}", kind=kind, join=True)
        )
    names = legend([Spot(short_name(text), 1, 1, i) for i, text in enumerate(texts)])
    return {
        "title": mine[0].key.title, "images": [short_name(i) for i in images], "heat": heat, "charts": charts,
        "legend": names, "table": table,
    }  # fmt: skip
