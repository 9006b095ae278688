"""A run's probabilities calibrated: one temperature, fitted on labelled posts that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cotune.decide.choose import score_unseen
from cotune.errors import ConfigError, DataError, clip
from cotune.metrics import evaluate, evaluate_sheet
from cotune.metrics.checks import Floats
from cotune.metrics.multi_label import CALIBRATION_SCORES, MultiLabelSheet
from cotune.metrics.temperature import at_temperature, fit_temperature, is_at_limit
from cotune.progress import Progress
from cotune.scoring import Scorer
from cotune.tasks import Task
from cotune.tasks.annotated import Annotated
from cotune.tasks.multi_label import MultiLabel
from cotune.tasks.single_label import SingleLabel

SCORES = ("log_loss", "brier", "calibration_error")
_FOLDS = 5
_FEWEST = 30
_LEFT = 2.0**-25  # what a probability of 1 leaves: less is lost in 32 bits


@dataclass(frozen=True)
class Calibration:
    """A temperature and what it changes.

    Attributes
    ----------
    temperature : float
        What outputs are divided by; above 1 where the run was overconfident.
    posts : int
        Labelled posts that it was fitted on.
    before, after : dict
        Scores with their intervals; after: each post at the temperature that the other folds give.
    left_out : dict
        How many posts could not be used, by reason.
    """

    temperature: float
    posts: int
    before: dict[str, Any]
    after: dict[str, Any]
    left_out: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**vars(self), "folds": _FOLDS}


def refuse_other_tasks(task: Task) -> None:
    """Refuse a task that has no temperature.

    Raises
    ------
    ConfigError
        With what is calibrated.
    """
    if not isinstance(task, SingleLabel | MultiLabel) or isinstance(task, Annotated):
        raise ConfigError(
            f"a temperature is fitted for the tasks {SingleLabel.name} and {MultiLabel.name}; the run's task is "
            f"{task.describe()}"
        )


def calibrate(
    predictor: Scorer[Any],
    chunks: Iterable[pd.DataFrame],
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """Fit a temperature on labelled posts.

    Calibrating again starts from scratch: the result is what the outputs are divided by in all. The scores after it
    are of posts that the temperature was not fitted on, by five folds.

    Raises
    ------
    ConfigError
        If the task is neither single-label nor multi-label.
    DataError
        If fewer than 30 posts can be used; those that the run was trained on cannot.
    """
    task = predictor.task
    refuse_other_tasks(task)
    assert isinstance(task, SingleLabel | MultiLabel)
    found = score_unseen(predictor, chunks, progress)
    table = found.predictions[found.scored]
    if len(table) < _FEWEST:
        raise DataError(f"{len(table)} labelled posts can be used, too few for a temperature; give at least {_FEWEST}")
    if table["true"].nunique() < 2:
        only = clip(str(table["true"].iloc[0]), 60)
        raise DataError(
            f"all {len(table)} labelled posts have the label {only!r}; a temperature needs posts of another too"
        )
    y = task.encode(table["true"].tolist())
    now = task.normalised(table[task.columns()].to_numpy(dtype=np.float64))
    raw = _tempered(task, now, 1 / task.temperature)
    fold = np.random.default_rng(seed).permutation(len(y)) % _FOLDS
    after = raw.copy()
    for k in range(_FOLDS):
        after[fold == k] = _tempered(task, raw[fold == k], _fitted(task, y[fold != k], raw[fold != k]))
    temperature = _fitted(task, y, raw)
    if is_at_limit(temperature):
        why = (
            "tell nothing of these labels (swapped?)"
            if temperature > 1
            else "are right for all of these posts (too few?)"
        )
        raise DataError(f"the run's probabilities {why}, so that no temperature fits; give other labelled posts")
    before_, after_ = (_scores(task, y, proba, n_bootstrap, seed) for proba in (raw, after))
    return Calibration(temperature, len(y), before_, after_, found.left_out)


def _as_classes(task: Task, y: np.ndarray, proba: Floats) -> tuple[np.ndarray, Floats]:
    """Return posts with a class each: of several labels, every pair of a post and a label with or without it."""
    if isinstance(task, SingleLabel):
        return y, proba
    without = np.maximum(1 - proba, _LEFT).ravel()
    return y.ravel().astype(np.int64), np.column_stack([without, 1 - without])


def _fitted(task: Task, y: np.ndarray, proba: Floats) -> float:
    return fit_temperature(*_as_classes(task, y, proba))


def _tempered(task: Task, proba: Floats, temperature: float) -> Floats:
    _, classes = _as_classes(task, np.zeros(proba.shape), proba)
    found = at_temperature(classes, temperature)
    return found if isinstance(task, SingleLabel) else found[:, 1].reshape(proba.shape)


def _scores(task: Task, y: np.ndarray, proba: Floats, n_bootstrap: int, seed: int) -> dict[str, Any]:
    """Return what a temperature changes, with intervals over posts."""
    if isinstance(task, SingleLabel):
        made = evaluate(y, proba, task.outputs, n_bootstrap=n_bootstrap, seed=seed).to_dict()
        return {**{name: made["scores"][name] for name in SCORES}, "calibration": made["calibration"]}
    sheet = MultiLabelSheet.of(y, proba)
    found = evaluate_sheet(sheet, CALIBRATION_SCORES, {}, n=sheet.n, n_bootstrap=n_bootstrap, seed=seed)
    return dict(found.to_dict()["scores"])


def calibrated(task: Task, temperature: float) -> Task:
    """Return a run's task with another temperature."""
    if isinstance(task, MultiLabel):
        return task.at_temperature(temperature)
    return SingleLabel(task.outputs, temperature)
