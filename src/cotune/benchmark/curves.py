"""Learning curves, grids and the Pareto front, out of results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cotune.benchmark.compare import Summary
from cotune.benchmark.plan import short_name
from cotune.benchmark.results import Results, RowKey
from cotune.benchmark.tables import Table, interval_cell, mean_cell, number, seconds


@dataclass(frozen=True)
class Point:
    """A point of a learning curve.

    Attributes
    ----------
    shots : int or None
        Training posts per class; None for all.
    mean, std : float
        Of the draws' AUCs, each the mean over folds; for all posts the spread is NaN.
    draws : int
        How many draws are finished in every fold.
    """

    shots: int | None
    mean: float
    std: float
    draws: int


def learning_curves(results: Results) -> dict[RowKey, list[Point]]:
    """Return for each method its AUC by number of training posts per class; empty if none was asked for.

    All points are means over the same folds, those of :func:`curve_folds`.
    """
    if not results.shots:
        return {}
    folds = curve_folds(results)
    curves: dict[RowKey, list[Point]] = {}
    for key in dict.fromkeys([key for key, _, _ in results.shots]):
        sizes = sorted({size for other, size, _ in results.shots if other == key})
        points = []
        for size in sizes:
            draws = [float(aucs[folds].mean()) for (k, n, _), aucs in results.shots.items() if (k, n) == (key, size)]
            known = np.asarray([value for value in draws if not math.isnan(value)])
            if len(known):
                spread = float(known.std(ddof=1)) if len(known) > 1 else math.nan
                points.append(Point(size, float(known.mean()), spread, len(known)))
        if key in results.rows:
            whole = float(results.rows[key].fold_aucs(results.folds)[folds].mean())
            if not math.isnan(whole):
                points.append(Point(None, whole, math.nan, 1))
        if points:
            curves[key] = points
    return curves


def curve_folds(results: Results) -> np.ndarray:
    """Return the folds that are done for every size and draw begun; all folds where there is no such fold."""
    done = ~np.isnan(np.stack(list(results.shots.values()))).any(axis=0)
    return np.flatnonzero(done) if done.any() else np.arange(len(done))


def table_curves(results: Results) -> Table | None:
    """Return the learning curves as a table, or None if there are none."""
    curves, main = learning_curves(results), results.folds.task.main_title
    if not curves:
        return None
    sizes = sorted({p.shots for points in curves.values() for p in points if p.shots is not None})
    whole = any(p.shots is None for points in curves.values() for p in points)
    columns: list[int | None] = [*sizes, *([None] if whole else [])]
    several = len({(key.text, key.image) for key in curves if key.text and key.image}) > 1
    rows = []
    for key, points in curves.items():
        by_size = {p.shots: p for p in points}
        title = f"{key.title} ({key.encoders})" if several else key.title
        rows.append([title, *(_cell(by_size.get(size)) for size in columns)])
    head = ["training posts per class", *("all" if size is None else str(size) for size in columns)]
    notes = [
        f"{main}, mean ± standard deviation over draws of the training posts, each the mean over the same test folds."
    ]
    folds, n_folds = curve_folds(results), int(results.settings["folds"])
    if len(folds) < n_folds:
        numbers = ", ".join(str(fold + 1) for fold in folds)
        notes.append(f"Not all folds are done: tested on fold{'s' if len(folds) > 1 else ''} {numbers} of {n_folds}.")
    return Table("learning_curve", f"Learning curve: {main} by training posts per class", head, rows, notes)


def _cell(point: Point | None) -> str:
    if point is None:
        return "—"
    return f"{point.mean:.4f}" + ("" if math.isnan(point.std) else f" ± {point.std:.4f}")


def grid_methods(summaries: Sequence[Summary]) -> list[str]:
    """Return the methods that were run with several pairs of encoders."""
    pairs: dict[str, set[tuple[str, str]]] = {}
    for summary in summaries:
        if summary.key.text and summary.key.image:
            pairs.setdefault(summary.key.method, set()).add((summary.key.text, summary.key.image))
    return [method for method, found in pairs.items() if len(found) > 1]


def table_grid(summaries: Sequence[Summary], method: str, main: str = "AUC") -> Table:
    """Return one method's pairs of encoders with AUC, parameters and time, best first."""
    mine = [s for s in summaries if s.key.method == method and s.key.text and s.key.image]
    front = pareto(mine)
    rows = [
        [
            short_name(s.key.text),
            short_name(s.key.image),
            mean_cell(s),
            interval_cell(next(iter(s.scores.values()), None)),
            number(s.parameters),
            seconds(s.seconds),
            "yes" if s.key in front else "",
        ]
        for s in sorted(mine, key=lambda s: (math.isnan(s.auc_mean), -s.auc_mean))
    ]
    head = ["text encoder", "image encoder", f"{main}, mean ± std of folds", f"{main}, all posts [95 %]", "parameters",
            "time per fold", "on the front"]  # fmt: skip
    note = f"On the front: no other pair is at least as good in {main}, parameters and time, and better in one."
    return Table(f"grid_{method}", f"Pairs of encoders: {mine[0].key.title}", head, rows, [note])


def pareto(summaries: Sequence[Summary]) -> set[RowKey]:
    """Return the rows that no other row beats in AUC, parameters and time at once; what is unknown counts as worst."""

    def cost(value: float) -> float:
        return math.inf if math.isnan(value) else value

    def worse(a: Summary, b: Summary) -> bool:
        costs = ((a.parameters, b.parameters), (a.seconds, b.seconds))
        pairs = [(b.auc_mean, a.auc_mean), *((-cost(theirs), -cost(mine)) for mine, theirs in costs)]
        return all(theirs >= mine for theirs, mine in pairs) and any(theirs > mine for theirs, mine in pairs)

    known = [s for s in summaries if not math.isnan(s.auc_mean)]
    return {a.key for a in known if not any(worse(a, b) for b in known)}


def table_2(results: Results, summaries: Sequence[Summary]) -> Table:
    """Return Table 2: the parameters of this run's methods, and those of the paper's models counted again."""
    from cotune.sizes import paper_sizes

    rows = [
        [f"{s.key.title} ({s.key.encoders})", f"{s.parameters:,.0f}", number(s.parameters), number(s.trained), ""]
        for s in summaries
        if not math.isnan(s.parameters)
    ]
    for size in paper_sizes(max(2, len(results.folds.classes))):
        form = ".0f" if size.paper is not None and size.paper >= 100 else ".1f"
        paper = "" if size.paper is None else f"{size.paper:{form}}M"
        rows.append([f"The paper's {size.name}", f"{size.parameters:,}", f"{size.parameters / 1e6:{form}}M", "", paper])
    head = ["model", "parameters", "rounded", "trained", "paper"]
    notes = ["The paper's models are built from their configurations and counted; no weights are needed for that."]
    return Table("table2", "Table 2. Parameters", head, rows, notes)
