"""The front matter of a model card, in the hub's terms: what a run was made of, what it does, what it scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cotune.encoders.resolve import hub_name
from cotune.model import JointModel
from cotune.report.numbers import SCORE_TITLES

#: What the hub calls scores, and how they are averaged; the others have no name there and keep theirs.
_METRICS: dict[str, tuple[str, str | None]] = {
    "auc": ("roc_auc", "macro"),
    "micro_auc": ("roc_auc", "micro"),
    "macro_f1": ("f1", "macro"),
    "weighted_f1": ("f1", "weighted"),
    "micro_f1": ("f1", "micro"),
    "brier": ("brier_score", None),
    "r2": ("r_squared", None),
    "spearman": ("spearmanr", None),
    "pearson": ("pearsonr", None),
}


@dataclass(frozen=True)
class CardDetails:
    """What only its owner knows of a run.

    Attributes
    ----------
    repository : str or None
        Where it is shared: ``OWNER/NAME``.
    license : str or None
        The hub's name of a licence, such as ``apache-2.0``.
    languages : tuple of str
        ISO codes of the posts' languages.
    datasets : tuple of str
        What it was trained on: data sets of the hub.
    intended_use, limits : str
        In the owner's words.
    samples : sequence of dict
        Posts with their predictions, as rows of one table.
    specs : mapping
        What to call the encoders of fields, where not by their own names.
    """

    repository: str | None = None
    license: str | None = None
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    intended_use: str = ""
    limits: str = ""
    samples: tuple[Mapping[str, str], ...] = ()
    specs: Mapping[str, str] = field(default_factory=dict)


def front_matter(model: JointModel, metrics: Mapping[str, Any], details: CardDetails) -> str:
    """Return the YAML block of a model card, without the lines of dashes.

    Parameters
    ----------
    model : JointModel
        The run's model.
    metrics : mapping
        Its ``metrics.json``.
    details : CardDetails
        What its owner says of it.
    """
    from huggingface_hub import ModelCardData

    specs = [details.specs.get(name, encoder.spec) for name, encoder in model.distinct_encoders.items()]
    base = list(dict.fromkeys(filter(None, map(hub_name, specs))))
    scores = list(_results(model, metrics.get("validation") or {}, details))
    kinds = {str(encoder.modality) for encoder in model.distinct_encoders.values()}
    return str(
        ModelCardData(
            language=list(details.languages) or None,
            license=details.license,
            library_name="cotune",
            pipeline_tag=pipeline_tag(model),
            tags=["cotune", *(["multimodal"] if len(kinds) > 1 else []), *sorted(kinds)],
            base_model=base or None,
            # Of two base models the hub would otherwise make a merge.
            base_model_relation="finetune" if base else None,
            datasets=list(details.datasets) or None,
            metrics=list(dict.fromkeys(str(score.metric_type) for score in scores)) or None,
            model_name=(details.repository or "cotune run").rpartition("/")[2] if scores else None,
            eval_results=scores or None,
        ).to_yaml()
    )


def pipeline_tag(model: JointModel) -> str:
    """Return the hub's task that is nearest: it has none for text with images, and lists such models under text."""
    kinds = {encoder.modality for encoder in model.distinct_encoders.values()}
    if "text" in kinds:
        return "text-classification"
    if "image" in kinds:
        return "image-classification"
    return "tabular-regression" if model.task.target_type == "continuous" else "tabular-classification"


def _results(model: JointModel, found: Mapping[str, Any], details: CardDetails) -> Iterator[Any]:
    """Yield the scores on held-out posts; the hub has no field for intervals, which are among the arguments."""
    from huggingface_hub import EvalResult

    for name, estimate in found.get("scores", {}).items():
        if estimate["value"] is None:
            continue
        metric, average = _METRICS.get(name, (name, None))
        interval = {key: estimate[key] for key in ("low", "high") if estimate[key] is not None}
        yield EvalResult(
            task_type=pipeline_tag(model),
            dataset_type=details.datasets[0] if details.datasets else "held-out",
            dataset_name=details.datasets[0] if details.datasets else "held-out posts",
            dataset_split="held-out" if details.datasets else None,
            metric_type=metric,
            metric_value=estimate["value"],
            metric_name=SCORE_TITLES.get(name, name),
            metric_args={
                **({"average": average} if average else {}),
                **({"confidence": found.get("confidence", 0.95), **interval} if interval else {}),
                "posts": found["n"],
            },
        )
