"""The ``README.md`` of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.fields import DEFAULT_FIELDS
from cotune.model import JointModel, head_name
from cotune.report.numbers import number
from cotune.settings import FitConfig


def model_card(model: JointModel, config: FitConfig, metrics: Mapping[str, Any]) -> str:
    """Return the run's ``README.md``: what the model is, how it was made and measured, how to use it."""
    lines = [
        "---",
        "library_name: cotune",
        "pipeline_tag: text-classification",
        "tags: [multimodal, image-text, cotune]",
        "---",
        "",
        "# A cotune model",
        "",
        _purpose(model, config),
        "",
        "| part | what | parameters |",
        "|---|---|---|",
    ]
    counts = model.parameter_counts()
    for name, encoder in model.distinct_encoders.items():
        lines.append(f"| {name} encoder | {_code(encoder.spec)} | {counts[name]:,} |")
    lines.append(f"| fusion head | `{head_name(model)}` | {counts['head']:,} |")
    lines.append(f"| total | | {counts['total']:,} |")
    lines += ["", "## Training", ""]
    posts = metrics.get("posts", {})
    if posts:
        counted = _listed(f"{n:,} {_code(label)}" for label, n in posts["labels"].items())
        lines.append(f"{posts['train']:,} posts ({counted}),")
    lines.append(f"tuning `{config.tune}`, seed {config.seed}; all settings are in `config.json`.")
    if metrics.get("status") == "interrupted":
        lines.append("Training was interrupted; these are the weights of its last finished epoch.")
    scores = metrics.get("validation")
    if scores:
        lines += [
            "",
            "## Measured on held-out posts",
            "",
            f"{scores['n']:,} posts that were not trained on.",
            "",
            "| metric | value | 95 % interval |",
            "|---|---|---|",
        ]
        for name, estimate in scores["scores"].items():
            value, low, high = (number(estimate[key]) for key in ("value", "low", "high"))
            lines.append(f"| {name} | {value} | {low} to {high} |")
    else:
        lines += ["", "No held-out posts were given, so nothing was measured; `cotune evaluate` does it."]
    lines += [
        "",
        "## Use",
        "",
        "```",
        "cotune predict RUN posts.csv --out predictions.csv",
        "```",
        "",
        "```python",
        "import cotune",
        "",
        'model = cotune.load("RUN")',
        'model.predict([{"text": "what a day", "image": "photo.jpg"}])',
        "```",
        "",
        "## Limits",
        "",
        "The model knows the labels, the language and the kind of posts it was trained on, and nothing else. Check it",
        "on your own labelled posts before you rely on it, and look at the mistakes it makes on each group of people.",
        "",
    ]
    return "\n".join(lines)


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
