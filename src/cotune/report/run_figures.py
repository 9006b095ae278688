"""What the figures of a run's or an evaluation's report show, gathered from its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cotune.report.charts import Line, legend, line_plot
from cotune.report.drawing import LOOKS
from cotune.report.numbers import number, percent
from cotune.report.run_charts import training_chart
from cotune.tasks import Task

_STAGES = {
    "probe": "Probe: the fusion head alone, on frozen embeddings",
    "top": "Joint fine-tuning of the upper layers of the encoders",
    "joint": "Joint fine-tuning of all weights",
    "lora": "Joint fine-tuning through low-rank adapters",
}


def training(history: Sequence[Mapping[str, Any]], task: Task) -> dict[str, Any] | None:
    """Return the charts of a training, over all its stages, and the epochs of each; None without a finished epoch."""
    names = list(dict.fromkeys(row["stage"] for row in history))
    rows = [row for name in names for row in history if row["stage"] == name]
    if not rows:
        return None
    stages = [(name, sum(row["stage"] == name for row in rows)) for name in names]
    score = f"validation_{task.main_score}"
    losses = {"training": "train_loss", "validation": "validation_loss"}
    charts = [
        ("Loss", {name: [row.get(key) for row in rows] for name, key in losses.items()}),
        (f"Validation {task.main_title}", {f"validation {task.main_title}": [row.get(score) for row in rows]}),
    ]
    drawn = [(title, training_chart(lines, title=title, stages=stages)) for title, lines in charts]
    return {
        "charts": [{"title": title, "svg": svg} for title, svg in drawn if svg],
        "stages": [
            {
                "title": _STAGES.get(name, name),
                "rows": [{**row, "score": row.get(score)} for row in rows if row["stage"] == name],
            }
            for name in names
        ],
    }


def curves(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the ROC and precision-recall curves of the classes with the most posts, drawn; None if there are none.

    Parameters
    ----------
    found : mapping
        The scores of an evaluation; those of older versions have no curves.
    """
    every: Mapping[str, Mapping[str, Any]] = found.get("curves") or {}
    if not every:
        return None
    names = sorted(every, key=lambda name: -every[name]["support"])[:LOOKS]
    shown = {name: every[name] for name in every if name in names}
    charts = []
    for title, key, area, x_name, y_name in (
        ("ROC", "roc", "auc", "false positive rate", "true positive rate"),
        ("Precision and recall", "precision_recall", "average_precision", "recall", "precision"),
    ):
        lines = [
            Line(name, [(x, y) for x, y in curve[key]], look, note=number(curve[area], 3))
            for look, (name, curve) in enumerate(shown.items())
        ]
        kind = "AUC" if area == "auc" else "average precision"
        drawn = line_plot(
            lines, title=f"{title} by class", x_name=x_name, y_name=y_name, square=True, diagonal=key == "roc",
            finding=", ".join(f"{line.name} {kind} {line.note}" for line in lines),
        )  # fmt: skip
        charts.append({"title": title, "kind": kind, "svg": drawn, "legend": legend(lines)})
    shares = [f"{name} {percent(curve['support'] / curve['posts'])}" for name, curve in shown.items()]
    return {"charts": charts, "shares": ", ".join(shares), "more": len(found.get("classes", shown)) - len(shown)}
