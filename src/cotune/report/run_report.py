"""The report of a run, or of an evaluation, as one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from cotune.evaluation import EvaluatedPosts
from cotune.model import head_title
from cotune.report import run_figures as figures
from cotune.report.numbers import SCORE_TITLES, count
from cotune.report.pages import bars, render
from cotune.report.run_charts import calibration_chart, pairs_chart
from cotune.report.run_verdict import run_notices, score_notices
from cotune.report.terminal import members_rows, slices_note
from cotune.run import Run
from cotune.settings import FitConfig

#: More classes than this would make a matrix that nobody can read; the confusions are listed instead.
MATRIX_CLASSES = 16
_LISTED = 25

SCORES = {
    "auc": ("chance that a post of the class is ranked above one of another class; 0.5 is guessing", True),
    "accuracy": ("share of posts classified right", True),
    "macro_f1": ("F1, macro average", True),
    "weighted_f1": ("F1, classes weighed by their posts", True),
    "log_loss": ("lower is better", False),
    "brier": ("squared error of the probabilities; lower is better", False),
    "calibration_error": ("gap between confidence and accuracy; lower is better", True),
    "micro_auc": ("over all pairs of a post and a label", True),
    "mean_average_precision": ("area under precision and recall, mean over labels", True),
    "micro_f1": ("F1 over all pairs of a post and a label", True),
    "subset_accuracy": ("share of posts with exactly the right labels", True),
    "mae": ("mean absolute error; lower is better", False),
    "rmse": ("root of the mean squared error; lower is better", False),
    "r2": ("share of the variance that is explained", False),
    "spearman": ("correlation of ranks; 0 is guessing", False),
    "pearson": ("linear correlation", False),
}
_COUNTED = {"multiclass": "class", "multilabel-indicator": "label", "continuous": "range of values"}


def run_report(run: Run, *, name: str, posts_page: str | None = None) -> str:
    """Return the page of a trained run.

    Parameters
    ----------
    run : Run
        The run, with metrics and environment.
    name : str
        What to call it.
    posts_page : str, optional
        Address of the page that shows the held-out posts.
    """
    posts = run.metrics.get("posts", {})
    estimate = None if "validation" in run.metrics else run.metrics.get("estimate")
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
        notices=run_notices(run),
        posts_page=posts_page,
        facts=facts,
        scores=run.metrics.get("validation") or estimate,
        scored="held-out posts" if estimate is None else f"posts, the head alone in {estimate['folds']} folds",
        class_counts=posts.get("labels", {}),
        counts_title=f"Training posts of each {_COUNTED[run.task.target_type]}",
        training=figures.training(run.metrics.get("history", []), run.task),
        members=_members(run.metrics.get("members")),
        demo=run.metrics.get("demo"),
    )


def _members(about: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what several trainings gained; None where nothing was measured, or there was one."""
    return None if about is None or not (rows := members_rows(about)) else {**about, "rows": rows}


def evaluation_report(run: Run, result: EvaluatedPosts, *, name: str, posts: str, posts_page: str | None = None) -> str:
    """Return the page of a run's evaluation on a labelled posts table.

    Parameters
    ----------
    run : Run
        The run that was evaluated.
    result : EvaluatedPosts
        What came out.
    name, posts : str
        What to call run and table.
    posts_page : str, optional
        Address of the page that shows the posts.
    """
    found = result.to_dict()
    facts = [("Posts scored", count(found["n"]))]
    facts += [(f"Left out: {reason}", count(n)) for reason, n in result.left_out.items() if n]
    return _page(
        run,
        title=f"{name} on {posts}",
        kind="Evaluation",
        notices=score_notices(run.task, found, result.notes),
        scored="posts",
        posts_page=posts_page,
        facts=facts,
        scores=found,
        class_counts={
            label: numbers["support"]
            for label, numbers in (found.get("per_class") or found.get("per_label", {})).items()
        },
        counts_title=f"Scored posts of each {_COUNTED[run.task.target_type]}",
        training=None,
        members=None,
        demo=None,
    )


def _page(run: Run, *, scores: Mapping[str, Any] | None, class_counts: Mapping[str, int], **more: Any) -> str:
    counts = run.model.parameter_counts()
    parts = [
        (f"{name[:1].upper()}{name[1:]} encoder", encoder.spec, counts[name])
        for name, encoder in run.model.distinct_encoders.items()
    ]
    parts += [("Fusion head", head_title(run.model.head), counts["head"]), ("Total", "", counts["total"])]
    return render(
        "report.html",
        main_title=run.task.main_title,
        scores=None if scores is None else _scores(scores),
        class_counts=bars(class_counts),
        parts=parts,
        settings=_settings(run.config),
        environment=_flat(run.environment),
        **more,
    )  # fmt: skip


def _scores(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for key, estimate in found["scores"].items():
        meaning, unit = SCORES.get(key, ("", False))
        title = SCORE_TITLES.get(key, key)
        rows.append({"key": key, "title": title[:1].upper() + title[1:], "meaning": meaning, "unit": unit, **estimate})
    classes, matrix = found.get("classes", []), found.get("confusion", [])
    bins, pairs = found.get("calibration", []), found.get("scatter", [])
    return {
        "n": found["n"],
        "errors": _errors(found),
        "n_bootstrap": found["n_bootstrap"],
        "confidence": found["confidence"],
        "rows": rows,
        "any_unit": any(row["unit"] for row in rows),
        "classes": classes,
        "per_class": found.get("per_class", {}),
        "per_label": found.get("per_label", {}),
        "fields": found.get("fields", {}),
        "slices": None if "slices" not in found else {**found["slices"], "note": slices_note(found["slices"])},
        "scatter": pairs_chart(pairs) if pairs else Markup(""),
        "matrix": _matrix(matrix) if matrix and len(classes) <= MATRIX_CLASSES else None,
        "confusions": _confusions(classes, matrix),
        "bins": bins,
        "calibration": calibration_chart(bins) if bins else Markup(""),
        "curves": figures.curves(found),
    }


def _errors(found: Mapping[str, Any]) -> int | None:
    """Return how many posts were classified wrong; 0 where there is no such thing, None where it is not known."""
    if found.get("scatter"):
        return 0
    matrix = found.get("confusion")
    return None if not matrix else sum(sum(row) - row[i] for i, row in enumerate(matrix))


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
