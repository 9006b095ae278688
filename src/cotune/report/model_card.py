"""The ``README.md`` of a run folder: a model card as the hub shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cotune.fields import DEFAULT_FIELDS
from cotune.model import JointModel, head_title
from cotune.report.card_metadata import CardDetails, front_matter
from cotune.report.numbers import SCORE_TITLES, count, interval, number, plural
from cotune.settings import FitConfig

_MADE = {
    "mean": "It predicts the mean of the probabilities of",
    "student": "It was taught by",
    "soup": "Its weights are a mean of those of",
}
_COLUMNS = {"auc": "AUC", "f1": "F1", "support": "posts"}


def model_card(
    model: JointModel, config: FitConfig, metrics: Mapping[str, Any], details: CardDetails | None = None
) -> str:
    """Return the run's ``README.md``: what the model is, how it was made and measured, how to use it.

    Parameters
    ----------
    model : JointModel
        The model.
    config : FitConfig
        How it was trained.
    metrics : mapping
        Its ``metrics.json``.
    details : CardDetails, optional
        What only its owner knows.
    """
    details = details or CardDetails()
    scores = metrics.get("validation")
    run = f"hf:{details.repository}" if details.repository else "RUN"
    lines = [
        "---",
        front_matter(model, metrics, details),
        "---",
        "",
        f"# {details.repository.rpartition('/')[2] if details.repository else 'A cotune model'}",
        "",
        _purpose(model, config),
        "",
        *_parts(model, details),
        "",
        "## Training",
        "",
        *_training(config, metrics),
        "",
        *(_scores(scores) if scores else [
            "No held-out posts were given, so nothing was measured; `cotune evaluate` does it."
        ]),
        *_samples(details.samples or metrics.get("demo", {}).get("samples", ())),
        "",
        "## Use",
        "",
        "```",
        f"cotune predict {run} posts.csv --out predictions.csv",
        "```",
        "",
        "```python",
        "import cotune",
        "",
        f'model = cotune.load("{run}")',
        'model.predict([{"text": "what a day", "image": "photo.jpg"}])',
        "```",
        "",
        "## Intended use",
        "",
        *([details.intended_use, ""] if details.intended_use else []),
        "To sort, count or search posts like those it was trained on. It is not made for decisions about single people",
        "that nobody reviews.",
        "",
        "## Limits",
        "",
        *([details.limits, ""] if details.limits else []),
        "The model knows the labels, the language and the kind of posts it was trained on, and nothing else. Check it",
        "on your own labelled posts before you rely on it, and look at the mistakes it makes on each group of people.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _parts(model: JointModel, details: CardDetails) -> list[str]:
    counts = model.parameter_counts()
    rows = [
        (f"{name} encoder", _code(details.specs.get(name, encoder.spec)), counts[name])
        for name, encoder in model.distinct_encoders.items()
    ]
    rows += [("fusion head", f"{head_title(model.head)}", counts["head"]), ("total", "", counts["total"])]
    return _table(["part", "what", "parameters"], [[part, what, f"{n:,}"] for part, what, n in rows])


def _training(config: FitConfig, metrics: Mapping[str, Any]) -> list[str]:
    lines = []
    posts = metrics.get("posts", {})
    if posts:
        counted = _listed(f"{n:,} {_code(label)}" for label, n in posts["labels"].items())
        lines.append(f"{plural(posts['train'], 'post')} ({counted}),")
    lines.append(f"tuning `{config.tune}`, seed {config.seed}; all settings are in `config.json`.")
    if also := metrics.get("also"):
        named = _listed(f"{each['train']:,} of {_code(Path(each['table']).name)}" for each in also)
        lines.append(f"Posts of further tables are among them: {named}.")
    if about := metrics.get("members"):
        lines.append(f"{_MADE[about['made']]} {about['count']} trainings that differ by their seed.")
    if metrics.get("status") == "interrupted":
        lines.append("Training was interrupted; these are the weights of its last finished epoch.")
    return lines


def _scores(found: Mapping[str, Any]) -> list[str]:
    """Return the scores on held-out posts, and those of each class or label."""
    rows = []
    for name, estimate in found["scores"].items():
        rows.append([SCORE_TITLES.get(name, name), number(estimate["value"]), interval(estimate)])
    lines = [
        "## Measured on held-out posts",
        "",
        f"{plural(found['n'], 'post')} that {'was' if found['n'] == 1 else 'were'} not trained on.",
        "",
    ]
    lines += _table(["metric", "value", f"{found.get('confidence', 0.95):.0%} interval".replace("%", " %")], rows)
    each = found.get("per_class") or found.get("per_label") or {}
    if each:
        columns = list(next(iter(each.values())))
        cells = [
            [_code(label), *(number(value) if isinstance(value, float) else count(value) for value in row.values())]
            for label, row in each.items()
        ]
        kind = "class" if "per_class" in found else "label"
        lines += ["", f"Each {kind} by itself:", ""]
        lines += _table([kind, *(_COLUMNS.get(column, column.replace("_", " ")) for column in columns)], cells)
    return lines


def _samples(samples: Sequence[Mapping[str, str]]) -> list[str]:
    """Return some posts with their predictions: those of the demo, or what the owner asked to be shown."""
    if not samples:
        return []
    rows = [[_code(value) if value else "" for value in sample.values()] for sample in samples]
    return ["", "## Sample predictions", "", *_table([_code(name) for name in samples[0]], rows)]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


def _purpose(model: JointModel, config: FitConfig) -> str:
    """Say in one sentence what the model reads and predicts."""
    fields = config.read_fields()
    reads = "text and image" if fields == DEFAULT_FIELDS else _listed(f"{_code(f.name)}: {f.kind}" for f in fields)
    names = _listed(_code(label) for label in model.task.outputs)
    what = {
        "multiclass": f"Classifies posts ({reads}) as {names}.",
        "multilabel-indicator": f"Says which of these labels apply to posts ({reads}): {names}.",
        "continuous": f"Predicts a number for posts ({reads}).",
    }
    return what[model.task.target_type]


def _code(text: str) -> str:
    """Return `text` as Markdown code that no character of it can break."""
    plain = " ".join(text.split()).replace("|", "\\|")
    return f"`` {plain} ``" if "`" in plain else f"`{plain}`"


def _listed(items: Any) -> str:
    words = [str(item) for item in items]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
