"""Posts whose label is most likely wrong, by confident learning on predictions of heads that did not see them.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal of Artificial
Intelligence Research 70 (2021), as cleanlab has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cotune.benchmark.folds import posts_of
from cotune.benchmark.out_of_fold import OutOfFold, out_of_fold
from cotune.data.tables.cells import LABEL_SEPARATOR
from cotune.errors import ConfigError
from cotune.progress import Progress
from cotune.run import Run
from cotune.tasks import Task

_MARGIN = 0.1  # of the main score above chance under which a model judges nothing
_FAR = 3.5  # robust deviations, as Iglewicz and Hoaglin (1993) have it for outliers
_NORMAL = 1.4826  # standard deviations in a median absolute deviation of normal numbers


@dataclass(frozen=True)
class LabelIssue:
    """A post whose label is likely wrong.

    Attributes
    ----------
    row : int
        Its row in the table.
    id : str
        The post.
    given : str
        Its label.
    suggested : str
        The label that the model finds most likely.
    quality : float
        How likely the given label is right, by cleanlab's score: 0 to 1, lower is worse; no probability.
    probabilities : dict
        The model's probability of each label; the predicted value for regression.
    """

    row: int
    id: str
    given: str
    suggested: str
    quality: float
    probabilities: dict[str, float]


@dataclass
class LabelReview:
    """What :func:`find_label_issues` found.

    Attributes
    ----------
    task : str
        What the labels are.
    labels : list of str
        The labels that there are; empty for regression.
    checked : int
        Posts that were looked at.
    left_out : dict
        Posts that could not be, by reason.
    folds : int
        In how many parts they were cut.
    encoders : str
        Which encoders made the predictions.
    score, score_name : float, str
        How good the out-of-fold predictions are by the given labels: the task's main score.
    issues : list of LabelIssue
        The worst first.
    note : str or None
        Why wrong labels may be missed, or the list says little.
    """

    task: str
    labels: list[str]
    checked: int
    left_out: dict[str, int]
    folds: int
    encoders: str
    score: float
    score_name: str
    issues: list[LabelIssue] = field(default_factory=list)
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class RankedLabels:
    """How much the labels of some posts can be trusted.

    Attributes
    ----------
    quality : ndarray
        Score of each post's label, 0 to 1, lower is worse, shape (N,).
    wrong : ndarray of bool
        Which labels are estimated to be wrong, shape (N,).
    suggested : list of str
        The label that the model would give each post.
    """

    quality: np.ndarray
    wrong: np.ndarray
    suggested: list[str]


def find_label_issues(
    posts: pd.DataFrame,
    run: Run,
    *,
    folds: int = 5,
    seed: int | None = None,
    allow_remote: bool = False,
    progress: Progress | None = None,
) -> LabelReview:
    """Find posts whose label is most likely wrong.

    Parameters
    ----------
    posts, run, folds, seed, allow_remote, progress
        As :func:`~cotune.benchmark.out_of_fold.out_of_fold` takes them.

    Raises
    ------
    ConfigError
        If cleanlab is not installed, or the run's task has no such method.
    DataError
        If the posts lack labels, or a label is too rare.
    """
    need_cleanlab()
    found = out_of_fold(posts, run, folds=folds, seed=seed, allow_remote=allow_remote, progress=progress)
    return review_of(posts, found, folds)


def review_of(posts: pd.DataFrame, found: OutOfFold, folds: int) -> LabelReview:
    """Return the review of posts by predictions that are there."""
    cut, task = found.folds, found.folds.task
    used = posts_of(posts, cut)
    ranked = rank_labels(task, cut.targets, found.predictions)
    labels = used["label"].tolist()
    order = [int(at) for at in np.argsort(ranked.quality, kind="stable") if ranked.wrong[at]]
    issues = [
        LabelIssue(
            int(used["row"].iloc[at]),
            str(used["id"].iloc[at]),
            labels[at],
            ranked.suggested[at],
            round(float(ranked.quality[at]), 4),
            dict(zip(task.outputs, np.round(task.of_classes(found.predictions)[at], 4).tolist(), strict=True)),
        )
        for at in order
    ]
    score = task.score(cut.targets, found.predictions)[task.main_score]
    return LabelReview(
        task.name,
        list(task.outputs) if task.text_label else [],
        len(used),
        {reason: n for reason, n in cut.left_out.items() if n},
        folds,
        found.encoders,
        score,
        task.main_title,
        issues,
        "; ".join(note for note in (found.note, _weak(task, score)) if note) or None,
    )


def _weak(task: Task, score: float) -> str | None:
    """Return a note on predictions that know too little to judge labels."""
    if task.chance is None or score >= task.chance + _MARGIN:
        return None
    return (
        f"the model predicts hardly better than chance ({task.main_title} {score:.3f} on posts that it did not see), "
        "so that its list says little about the labels"
    )


def rank_labels(task: Task, targets: np.ndarray, predictions: np.ndarray) -> RankedLabels:
    """Judge labels by out-of-fold predictions.

    Parameters
    ----------
    task : Task
        What the targets mean.
    targets : ndarray
        Of each post, as the task encodes labels.
    predictions : ndarray
        Probabilities or values, shape (N, n_outputs), of models that did not see the post.

    Raises
    ------
    ConfigError
        If cleanlab has no method for what the task predicts.
    """
    need_cleanlab()
    if task.target_type == "multiclass":
        return _classes(task, targets, task.of_classes(predictions))
    if task.target_type == "multilabel-indicator":
        return _sets(task, targets, predictions)
    if task.n_outputs == 1:
        return _amounts(targets, predictions)
    raise ConfigError(f"wrong labels of the task {task.name!r} cannot be looked for; leave --run out")


def _classes(task: Task, targets: np.ndarray, predictions: np.ndarray) -> RankedLabels:
    from cleanlab.filter import find_label_issues as flagged
    from cleanlab.rank import get_label_quality_scores

    # cleanlab sets thresholds by classes, and expects a post of each.
    classes, labels = np.unique(targets, return_inverse=True)
    proba = predictions[:, classes] / np.maximum(predictions[:, classes].sum(axis=1, keepdims=True), 1e-12)
    # The list is the beginning of the ranking, as long as confident learning estimates that labels are wrong. Of
    # cleanlab's scores and lists this one found most planted labels (benchmarks/label_noise.py).
    wrong = flagged(labels, proba, filter_by="low_self_confidence", n_jobs=1)
    quality = get_label_quality_scores(labels, proba, method="self_confidence")
    return RankedLabels(quality, wrong, [task.outputs[classes[at]] for at in proba.argmax(axis=1)])


def _sets(task: Task, targets: np.ndarray, predictions: np.ndarray) -> RankedLabels:
    from cleanlab.multilabel_classification import get_label_quality_scores
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class

    labels = [np.flatnonzero(row).tolist() for row in targets]
    each = np.asarray(find_multilabel_issues_per_class(labels, predictions, n_jobs=1), dtype=bool)
    quality = get_label_quality_scores(labels, predictions)
    better = np.where(each, 1 - targets, targets) > 0
    wrong: np.ndarray = np.asarray(each.any(axis=1))
    return RankedLabels(quality, wrong, [_joined(task.outputs, row) for row in better])


def _amounts(targets: np.ndarray, predictions: np.ndarray) -> RankedLabels:
    from cleanlab.regression.rank import get_label_quality_scores

    values, found = np.asarray(targets, dtype=float).reshape(-1), predictions[:, 0]
    residuals = values - found
    apart = np.abs(residuals - np.median(residuals))
    spread = _NORMAL * float(np.median(apart)) or float(residuals.std()) or 1.0
    quality = get_label_quality_scores(values, found)
    return RankedLabels(quality, apart > _FAR * spread, [f"{value:.4g}" for value in found])


def _joined(names: Sequence[str], there: np.ndarray) -> str:
    return LABEL_SEPARATOR.join(name for name, yes in zip(names, there, strict=True) if yes) or LABEL_SEPARATOR


def need_cleanlab() -> None:
    """Refuse to go on without cleanlab.

    Raises
    ------
    ConfigError
        With how to install it.
    """
    from importlib.util import find_spec

    if find_spec("cleanlab") is None:
        raise ConfigError("looking for wrong labels needs cleanlab: pip install 'cotune[clean]', or leave --run out")
