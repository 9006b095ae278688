"""Any number of labels for every post: a sigmoid and binary cross-entropy for each."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cotune.data.tables.cells import LABEL_SEPARATOR
from cotune.errors import DataError, LabelError, clip, listed
from cotune.metrics import Evaluation, evaluate_sheet
from cotune.metrics.curves import ranking_curves
from cotune.metrics.multi_label import (
    DEFAULT_THRESHOLD,
    MULTI_LABEL_SCORES,
    MultiLabelSheet,
    best_f1_threshold,
    per_label,
)
from cotune.report.numbers import plural
from cotune.settings import FitConfig
from cotune.tasks.base import TASKS, TargetType, Task
from cotune.tasks.single_label import sorted_labels

if TYPE_CHECKING:
    from torch import Tensor

    from cotune.tasks.losses import BinaryCrossEntropy

_SHOWN = 5
_OTHER_SEPARATORS = ",;"
_LEAST_STRATUM = 10
_LEAST_FOR_THRESHOLD = 5


@TASKS.register("multi-label")
class MultiLabel(Task):
    """Each post has any number of several labels.

    A label, as tables hold it, is the names joined with ``|``, as in ``funny|sad``; ``|`` alone for none of them.

    Parameters
    ----------
    classes : sequence of str
        Names of the labels, in the order of the model's outputs.
    thresholds : sequence of float, optional
        The probability from which each label is predicted; 0.5 if not given.
    temperature : float
        What outputs are divided by before the sigmoid: 1, or what ``cotune calibrate`` has found.
    """

    name: ClassVar[str] = "multi-label"
    target_type: ClassVar[TargetType] = "multilabel-indicator"
    main_title: ClassVar[str] = "macro AUC"
    scores: ClassVar[Any] = MULTI_LABEL_SCORES
    table_scores: ClassVar[tuple[str, ...]] = ("auc", "micro_auc", "mean_average_precision", "macro_f1")

    def __init__(
        self, classes: Sequence[str], thresholds: Sequence[float] | None = None, temperature: float = 1.0
    ) -> None:
        if not 0 < temperature < math.inf:
            raise ValueError(f"a temperature is a number above 0, not {temperature!r}")
        self.outputs, self.temperature = tuple(classes), temperature
        self.thresholds = np.full(len(self.outputs), DEFAULT_THRESHOLD)
        if thresholds is not None:
            self.thresholds = np.asarray(thresholds, dtype=np.float64)
        if self.thresholds.shape != (self.n_outputs,):
            raise DataError(f"{self.n_outputs} labels need as many thresholds, not {self.thresholds.size}")
        self._index = {name: i for i, name in enumerate(self.outputs)}

    @classmethod
    def learn(cls, labels: Sequence[str]) -> MultiLabel:
        """Return the task with the names among `labels`, sorted; numbers by their size."""
        found: set[str] = set()
        for label in dict.fromkeys(map(str, labels)):
            if (problem := _problem_of_form(label)) is not None:
                raise LabelError(label, problem)
            found.update(_names(label))
        plain = {name for name in found if not any(mark in name for mark in _OTHER_SEPARATORS)}
        for label in dict.fromkeys(map(str, labels)):
            if (problem := _mixture(label, plain)) is not None:
                raise LabelError(label, problem)
        if len(found) < 2:
            what = f"name only {listed(found, quote=True)}" if found else "name none"
            raise DataError(
                f"the labels of all {plural(len(labels), 'post')} {what}; multi-label needs at least two names, joined "
                f"with {LABEL_SEPARATOR} where a post has several"
            )
        return cls(sorted_labels(found))

    @classmethod
    def recognises(cls, labels: Sequence[str]) -> bool:
        """Tell whether any label holds the separator of names."""
        return any(LABEL_SEPARATOR in str(label) for label in labels)

    def settings(self) -> dict[str, Any]:
        """Return the names of the labels and their thresholds, and the temperature if there is one."""
        calibrated = {} if self.temperature == 1 else {"temperature": self.temperature}
        return {"classes": list(self.outputs), "thresholds": self.thresholds.tolist(), **calibrated}

    def at_temperature(self, temperature: float) -> MultiLabel:
        """Return the task with another temperature, and thresholds that choose the same labels."""
        cuts = np.clip(self.thresholds, np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).epsneg)
        log_odds = (np.log(cuts) - np.log1p(-cuts)) * self.temperature / temperature
        moved = 1 / (1 + np.exp(-np.clip(log_odds, -700, 700)))
        moved = np.where(self.thresholds == DEFAULT_THRESHOLD, DEFAULT_THRESHOLD, moved)
        return MultiLabel(self.outputs, moved.tolist(), temperature)

    def encode(self, labels: Sequence[str]) -> np.ndarray:
        """Return 1 where a post has a label, else 0, shape (N, n_outputs)."""
        targets = np.zeros((len(labels), self.n_outputs), dtype=np.float32)
        for row, label in zip(targets, labels, strict=True):
            row[[self._index[name] for name in _names(str(label))]] = 1
        return targets

    def problem(self, label: str) -> str | None:
        """Return what is wrong with the form of a label, or which of its names are not known."""
        if (problem := _problem_of_form(label) or _mixture(label, self._index)) is not None:
            return problem
        unknown = [name for name in _names(label) if name not in self._index]
        if not unknown:
            return None
        are = "is" if len(unknown) == 1 else "are"
        return f"names {listed(unknown, quote=True)}, which {are} not known (known are {listed(self.outputs)})"

    def refuse_untrainable(self, targets: np.ndarray) -> None:
        """Refuse a label with fewer than two posts, or that fewer than two posts do not have."""
        held = self.count(targets)
        rare = [name for name, n in held.items() if n < 2]
        if rare:
            raise DataError(
                f"fewer than two usable posts have the label {listed(rare, most=_SHOWN, quote=True)}; give each label "
                "at least two posts, or leave the label out"
            )
        common = [name for name, n in held.items() if len(targets) - n < 2]
        if common:
            raise DataError(
                f"all usable posts but at most one have the label {listed(common, most=_SHOWN, quote=True)}; add at "
                "least two posts without it, or leave the label out"
            )

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Return a class index for every set of labels; sets that are too rare share one by their number of labels."""
        least = max(_LEAST_STRATUM, len(targets) / 50)
        sets, place = np.unique(targets, axis=0, return_inverse=True)
        place = place.reshape(-1)  # numpy 2.0 keeps a second axis
        sizes = len(sets) + targets.sum(axis=1).astype(np.int64)
        place = np.where(_too_few(place, least), sizes, place)
        rest = len(sets) + self.n_outputs + 1
        place = np.where(_too_few(place, least), rest, place)
        others = place[place != rest]
        if len(others) and len(place) - len(others) < 2:
            place = np.where(place == rest, np.bincount(others).argmax(), place)
        if len(set(place.tolist())) == 1:  # too few posts for any set to be frequent
            place = _most_even(targets)
        return np.unique(place, return_inverse=True)[1]

    def count(self, targets: np.ndarray) -> dict[str, int]:
        """Return how many posts have each label."""
        return {name: int(n) for name, n in zip(self.outputs, targets.sum(axis=0), strict=True)}

    def note_on_held_out(self, targets: np.ndarray) -> str | None:
        """Return a note if no label is given to some posts and not to others."""
        held = targets.sum(axis=0)
        if ((held > 0) & (held < len(targets))).any():
            return None
        return f"no label is given to some of the {len(targets):,} held-out posts and not to others"

    def describe(self) -> str:
        """Return the number of labels and their names."""
        return f"multi-label, {self.n_outputs} labels: {listed(self.outputs, most=20)}"

    def loss(self, config: FitConfig, targets: np.ndarray, weights: np.ndarray | None = None) -> BinaryCrossEntropy:
        """Return the binary cross-entropy, with the class weights and the label smoothing that are asked for."""
        from cotune.tasks.losses import BinaryCrossEntropy

        with_label, without = self._counts(targets, weights)
        balance = None if config.class_weights == "none" else tuple((without / with_label).tolist())
        return BinaryCrossEntropy(balance, config.label_smoothing)

    def _counts(self, targets: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the weight of the posts with and without each label, shape (n_outputs,) each."""
        each = np.ones(len(targets)) if weights is None else np.asarray(weights, dtype=np.float64)
        with_label = each @ targets.astype(np.float64)
        # A label that no post has, or every one, stays possible.
        return np.maximum(with_label, 0.5), np.maximum(each.sum() - with_label, 0.5)

    def prior(self, config: FitConfig, targets: np.ndarray, weights: np.ndarray | None = None) -> Tensor:
        """Return the log-odds of the labels' shares; zeros where class weights balance both sides."""
        import torch

        if config.class_weights == "balanced":
            return torch.zeros(self.n_outputs)
        with_label, without = self._counts(targets, weights)
        return torch.as_tensor(np.log(with_label / without)).float()

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the probability of each label on its own."""
        return self._divided(outputs).sigmoid()

    def _divided(self, outputs: Tensor) -> Tensor:
        return outputs if self.temperature == 1 else outputs / self.temperature

    def contribution_scale(self, outputs: Tensor) -> Tensor:
        """Return the outputs, which are log-odds, divided by the temperature."""
        return self._divided(outputs)

    def confidence(self, predictions: Tensor) -> Tensor:
        """Return how sure the model is of each label, mean over labels."""
        return predictions.maximum(1 - predictions).mean(dim=1)

    def decode(self, predictions: np.ndarray) -> list[Any]:
        """Return the names of the labels whose probability reaches the threshold, joined; ``|`` for none."""
        chosen = np.asarray(predictions) >= self.thresholds
        return [LABEL_SEPARATOR.join(self.outputs[k] for k in np.flatnonzero(row)) or LABEL_SEPARATOR for row in chosen]

    def explained(self, predictions: Tensor) -> Tensor:
        """Return the most likely label."""
        return predictions.argmax(dim=1)

    def choose_thresholds(self, targets: np.ndarray, predictions: np.ndarray) -> None:
        """Choose for each label the threshold with the best F1; 0.5 where that is as good or posts are too few."""
        self.thresholds = np.full(self.n_outputs, DEFAULT_THRESHOLD)
        for k in range(self.n_outputs):
            positive, proba = targets[:, k] == 1, predictions[:, k].astype(np.float64)
            fewest = min(positive.sum(), (~positive).sum())
            if fewest >= _LEAST_FOR_THRESHOLD and np.isfinite(proba).all():
                self.thresholds[k] = best_f1_threshold(positive, proba)

    def check_predictions(self, predictions: np.ndarray) -> str | None:
        """Return what is wrong with predictions that are not probabilities."""
        if np.all((predictions >= 0) & (predictions <= 1)):
            return None
        return (
            "scores that are no probabilities (0 to 1, each label's on its own); apply a sigmoid to margins or logits"
        )

    def sheet(self, targets: np.ndarray, predictions: np.ndarray) -> MultiLabelSheet:
        """Return the score sheet of the labels, their probabilities and the thresholds."""
        return MultiLabelSheet.of(targets, predictions, self.thresholds)

    def evaluate(
        self, targets: np.ndarray, predictions: np.ndarray, *, n_bootstrap: int = 1000, seed: int = 0
    ) -> Evaluation:
        """Return all scores with intervals, and the scores of each label."""
        sheet = self.sheet(targets, predictions)
        details = {
            "classes": list(self.outputs),
            "per_label": per_label(sheet, self.outputs),
            "curves": ranking_curves(sheet.targets == 1, sheet.proba, self.outputs),
        }
        return evaluate_sheet(sheet, self.scores, details, n=sheet.n, n_bootstrap=n_bootstrap, seed=seed)


def _names(label: str) -> list[str]:
    """Return the names in a label, without blanks around them; none for the separator alone."""
    return [] if label.strip() == LABEL_SEPARATOR else [name.strip() for name in label.split(LABEL_SEPARATOR)]


def _problem_of_form(label: str) -> str | None:
    """Return what is wrong with a label whatever names there are, as the rest of "the label ..."; None if nothing."""
    names = _names(label)
    if not all(names):
        return (
            f"has an empty name; write one {LABEL_SEPARATOR} between two names, or {LABEL_SEPARATOR} alone if no label "
            "applies"
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    return None if twice is None else f"has the name {clip(twice, 60)!r} twice; write each name once"


def _mixture(label: str, known: Collection[str]) -> str | None:
    """Return that a label joins known names with another separator than ``|``; None if it does not.

    Names may hold commas. What gives a separator away is that it stands between names that occur by themselves: between
    one and anything in a label that has ``|`` too, else between nothing but such names.
    """
    several = LABEL_SEPARATOR in label
    for name in _names(label):
        for mark in _OTHER_SEPARATORS if name not in known else ():
            parts = {part.strip() for part in name.split(mark)}
            if len(parts) > 1 and (parts & set(known) if several else parts <= set(known)):
                what = f"mixes the separators {LABEL_SEPARATOR} and {mark}" if several else f"joins labels with {mark}"
                return f"{what}; write {LABEL_SEPARATOR} between all names"
    return None


def _too_few(place: np.ndarray, least: float) -> np.ndarray:
    """Tell for each post whether fewer than `least` are in the same place."""
    few: np.ndarray = np.bincount(place)[place] < least
    return few


def _most_even(targets: np.ndarray) -> np.ndarray:
    """Return the label that splits the posts most evenly; zeros if it leaves fewer than two on one side."""
    held = targets.sum(axis=0)
    smaller = np.minimum(held, len(targets) - held)
    best: np.ndarray = targets[:, smaller.argmax()]
    return best if smaller.max() >= 2 else np.zeros_like(best)
