"""The report of a run, or of an evaluation, as one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from cotune.model import head_name
from cotune.predict import EvaluatedPosts
from cotune.report.charts import calibration_chart, line_chart
from cotune.report.numbers import count
from cotune.report.pages import render
from cotune.run import Run
from cotune.settings import FitConfig

#: More classes than this would make a matrix that nobody can read; the confusions are listed instead.
MATRIX_CLASSES = 16
_LISTED = 25

SCORES = {
    "auc": ("AUC", "chance that a post of the class outranks another; 0.5 is guessing", True),
    "accuracy": ("Accuracy", "share of posts classified right", True),
    "macro_f1": ("Macro F1", "F1, every class counting alike", True),
    "weighted_f1": ("Weighted F1", "F1, classes weighed by their posts", True),
    "log_loss": ("Log loss", "lower is better", False),
    "brier": ("Brier score", "squared error of the probabilities; lower is better", False),
    "calibration_error": ("Calibration error", "gap between confidence and accuracy; lower is better", True),
}
_STAGES = {
    "probe": "Probe: the fusion head alone, on frozen embeddings",
    "top": "Joint fine-tuning of the upper layers of both encoders",
    "joint": "Joint fine-tuning of all weights",
    "lora": "Joint fine-tuning through low-rank adapters",
}


def run_report(run: Run, *, name: str) -> str:
    """Return the page of a trained run.

    Parameters
    ----------
    run : Run
        The run, with metrics and environment.
    name : str
        What to call it.
    """
    posts = run.metrics.get("posts", {})
    facts = [("Posts trained on", count(posts.get("train")))]
    facts += [
        (label, count(posts[key]))
        for key, label in (
            ("held_out", "Posts held out"),
            ("validation_overlap", "Validation posts that are training posts too"),
            ("unlabelled", "Left out: no label"),
            ("unreadable_cells", "Left out: an unreadable cell"),
            ("texts_cut", f"Texts cut at {posts.get('max_tokens')} tokens"),
            ("unreadable_images", "Unreadable images"),
        )
        if posts.get(key)
    ]
    if run.metrics.get("seconds"):
        facts.append(("Time", f"{run.metrics['seconds']:,.0f} s"))
    return _page(
        run,
        title=name,
        kind="Run",
        interrupted=run.metrics.get("status") == "interrupted",
        facts=facts,
        scores=run.metrics.get("validation"),
        class_counts=posts.get("labels", {}),
        counts_title="Training posts of each class",
        stages=_stages(run.metrics.get("history", [])),
        demo=run.metrics.get("demo"),
        notes=run.metrics.get("notes", []),
    )


def evaluation_report(run: Run, result: EvaluatedPosts, *, name: str, posts: str) -> str:
    """Return the page of a run's evaluation on a labelled posts table.

    Parameters
    ----------
    run : Run
        The run that was evaluated.
    result : EvaluatedPosts
        What came out.
    name, posts : str
        What to call run and table.
    """
    found = result.to_dict()
    facts = [("Posts scored", count(found["n"]))]
    facts += [(f"Left out: {reason}", count(n)) for reason, n in result.left_out.items() if n]
    return _page(
        run,
        title=f"{name} on {posts}",
        kind="Evaluation",
        interrupted=False,
        facts=facts,
        scores=found,
        class_counts={label: numbers["support"] for label, numbers in found["per_class"].items()},
        counts_title="Scored posts of each class",
        stages=[],
        demo=None,
        notes=result.notes,
    )


def _page(run: Run, *, scores: Mapping[str, Any] | None, class_counts: Mapping[str, int], **more: Any) -> str:
    counts = run.model.parameter_counts()
    parts = [
        (f"{name.capitalize()} encoder", encoder.spec, counts[name]) for name, encoder in run.model.encoders.items()
    ]
    parts += [("Fusion head", head_name(run.model), counts["head"]), ("Total", "", counts["total"])]
    return render(
        "report.html",
        scores=None if scores is None else _scores(scores),
        class_counts=_bars(class_counts),
        parts=parts,
        settings=_settings(run.config),
        environment=_flat(run.environment),
        **more,
    )  # fmt: skip


def _scores(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for key, estimate in found["scores"].items():
        title, meaning, unit = SCORES.get(key, (key, "", False))
        rows.append({"key": key, "title": title, "meaning": meaning, "unit": unit, **estimate})
    classes, matrix = found["classes"], found["confusion"]
    bins = found.get("calibration", [])
    return {
        "n": found["n"],
        "n_bootstrap": found["n_bootstrap"],
        "confidence": found["confidence"],
        "rows": rows,
        "classes": classes,
        "per_class": found["per_class"],
        "matrix": _matrix(matrix) if len(classes) <= MATRIX_CLASSES else None,
        "confusions": _confusions(classes, matrix),
        "bins": bins,
        "calibration": calibration_chart(bins) if bins else Markup(""),
    }


def _matrix(counts: Sequence[Sequence[int]]) -> list[list[dict[str, Any]]]:
    rows = []
    for i, row in enumerate(counts):
        total = sum(row)
        shares = [n / total if total else 0.0 for n in row]
        rows.append([{"n": n, "share": shares[j], "right": i == j} for j, n in enumerate(row)])
    return rows


def _confusions(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> list[tuple[str, str, int]]:
    found = [(classes[i], classes[j], n) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n]
    return sorted(found, key=lambda item: -item[2])[:_LISTED]


def _bars(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    most, total = max(counts.values(), default=0) or 1, sum(counts.values()) or 1
    return [{"name": name, "n": n, "part": n / most, "share": n / total} for name, n in counts.items()]


def _stages(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    stages = []
    for name in dict.fromkeys(row["stage"] for row in history):
        rows = [row for row in history if row["stage"] == name]
        charts = []
        has_auc = any(row.get("validation_auc") is not None for row in rows)
        held_out = ("validation_auc", "Validation AUC") if has_auc else ("validation_loss", "Validation loss")
        for key, title in (("train_loss", "Training loss"), held_out):
            chart = line_chart([row.get(key) for row in rows], title=title, x_name="epoch")
            if chart:
                charts.append({"title": title, "svg": chart})
        stages.append({"title": _STAGES.get(name, name), "charts": charts, "rows": rows})
    return stages


def _settings(config: FitConfig) -> list[tuple[str, str, bool]]:
    usual = FitConfig().model_dump()
    return [
        (name.replace("_", "-"), "default" if value is None else str(value), value != usual[name])
        for name, value in config.model_dump().items()
    ]


def _flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += [(f"{key}", str(item)) for key, item in value.items() if item is not None]
        elif value is not None:
            rows.append((name.replace("_", " "), value if isinstance(value, str) else json.dumps(value)))
    return rows
