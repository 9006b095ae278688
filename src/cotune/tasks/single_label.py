"""One class for every post: softmax and cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cotune.errors import DataError, listed
from cotune.metrics import Evaluation, evaluate
from cotune.metrics.scores import SCORES, ScoreSheet
from cotune.report.numbers import every_post
from cotune.settings import FitConfig
from cotune.tasks.base import TASKS, TargetType, Task

if TYPE_CHECKING:
    from torch import Tensor

    from cotune.tasks.losses import Loss

_SHOWN = 5


@TASKS.register("single-label")
class SingleLabel(Task):
    """Each post has one of several classes.

    Parameters
    ----------
    classes : sequence of str
        The classes, in the order of the model's outputs.
    temperature : float
        What outputs are divided by before the softmax: 1, or what ``cotune calibrate`` has found.
    """

    name: ClassVar[str] = "single-label"
    target_type: ClassVar[TargetType] = "multiclass"
    scores: ClassVar[Any] = SCORES
    table_scores: ClassVar[tuple[str, ...]] = ("auc", "accuracy", "macro_f1")

    def __init__(self, classes: Sequence[str], temperature: float = 1.0) -> None:
        if not 0 < temperature < math.inf:
            raise ValueError(f"a temperature is a number above 0, not {temperature!r}")
        self.outputs, self.temperature = tuple(classes), temperature
        self._index = {label: i for i, label in enumerate(self.outputs)}

    @classmethod
    def learn(cls, labels: Sequence[str]) -> SingleLabel:
        """Return the task with the classes among `labels`, sorted; numbers by their size."""
        found = {str(label) for label in labels}
        if len(found) == 1:
            raise DataError(
                f"{every_post(len(labels))} the label {listed(found, quote=True)}; a classifier needs at least two"
            )
        return cls(sorted_labels(found))

    @classmethod
    def recognises(cls, labels: Sequence[str]) -> bool:
        """Tell that these labels can be classes, as any can."""
        return True

    def settings(self) -> dict[str, Any]:
        """Return the classes, and the temperature if there is one."""
        calibrated = {} if self.temperature == 1 else {"temperature": self.temperature}
        return {"classes": list(self.outputs), **calibrated}

    def encode(self, labels: Sequence[str]) -> np.ndarray:
        """Return class indices, shape (N,)."""
        return np.asarray([self._index[str(label)] for label in labels], dtype=np.int64)

    def problem(self, label: str) -> str | None:
        """Return what is wrong with a label that is no class."""
        return None if label in self._index else f"is not known (known are {listed(self.outputs)})"

    def note_on_unknown(self, labels: Sequence[str], n: int) -> str:
        """Return a note on posts of other classes."""
        what = "posts have a label" if n > 1 else "post has a label"
        shown = listed(labels, quote=True)
        return f"{n:,} {what} that the run does not know ({shown}), left out; it knows {listed(self.outputs)}"

    def refuse_untrainable(self, targets: np.ndarray) -> None:
        """Refuse a class with fewer than two posts."""
        counts = np.bincount(targets, minlength=len(self.outputs))
        rare = {label: int(n) for label, n in zip(self.outputs, counts, strict=True) if n < 2}
        if rare:
            shown = listed(rare, most=_SHOWN, quote=True)
            left = "only one usable post has" if min(rare.values()) else "not even two usable posts have"
            raise DataError(f"{left} the label {shown}; give each label at least two posts, or leave the label out")

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Return the classes."""
        return targets

    def count(self, targets: np.ndarray) -> dict[str, int]:
        """Return how many posts each class has."""
        return {label: int((targets == i).sum()) for i, label in enumerate(self.outputs)}

    def note_on_held_out(self, targets: np.ndarray) -> str | None:
        """Return a note if all posts have one label."""
        if len(set(targets.tolist())) != 1:
            return None
        return f"all {len(targets):,} held-out posts have the label {self.outputs[int(targets[0])]!r}"

    def describe(self) -> str:
        """Return the number of classes and their names."""
        return f"{self.name}, {len(self.outputs)} classes: {listed(self.outputs, most=20)}"

    def loss(self, config: FitConfig, targets: np.ndarray, weights: np.ndarray | None = None) -> Loss:
        """Return the cross-entropy, with the class weights and the label smoothing that are asked for."""
        from cotune.tasks.losses import CrossEntropy

        return CrossEntropy(self._class_weights(config, targets, weights), config.label_smoothing)

    def _counts(self, targets: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        return np.bincount(targets, weights, minlength=self.n_outputs)

    def _class_weights(
        self, config: FitConfig, targets: np.ndarray, weights: np.ndarray | None
    ) -> tuple[float, ...] | None:
        """Return weights inversely proportional to class frequency, mean one over the posts."""
        if config.class_weights == "none":
            return None
        counts = self._counts(targets, weights)
        return tuple(float(counts.sum() / (len(counts) * count)) if count else 0.0 for count in counts)

    def prior(self, config: FitConfig, targets: np.ndarray, weights: np.ndarray | None = None) -> Tensor:
        """Return the logarithm of the classes' shares: no constant has a smaller cross-entropy."""
        import torch

        balance = self._class_weights(config, targets, weights)
        counts = torch.as_tensor(self._counts(targets, weights) * np.asarray(balance or 1.0), dtype=torch.float64)
        counts = counts.clamp(min=0.5)  # an unseen class stays possible
        return (counts / counts.sum()).log().float()

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return class probabilities."""
        return self._divided(outputs).softmax(dim=1)

    def _divided(self, outputs: Tensor) -> Tensor:
        return outputs if self.temperature == 1 else outputs / self.temperature

    def contribution_scale(self, outputs: Tensor) -> Tensor:
        """Return ``log(p / (1 - p))`` of every class, computed without leaving the logarithm."""
        import torch

        outputs, n = self._divided(outputs), outputs.shape[1]
        if n == 2:
            return outputs - outputs.flip(1)
        rest = [outputs[:, [k for k in range(n) if k != c]].logsumexp(dim=1) for c in range(n)]
        return outputs - torch.stack(rest, dim=1)

    def decode(self, predictions: np.ndarray) -> list[Any]:
        """Return the most likely class."""
        return [self.outputs[best] for best in predictions.argmax(axis=1)]

    def explained(self, predictions: Tensor) -> Tensor:
        """Return the most likely class."""
        return predictions.argmax(dim=1)

    def check_predictions(self, predictions: np.ndarray) -> str | None:
        """Return what is wrong with rows that are not probabilities."""
        sums = np.allclose(predictions.sum(axis=1), 1, atol=1e-3)
        if predictions.min() < 0 or predictions.max() > 1 + 1e-6 or not sums:
            return (
                "scores that are no probabilities (0 to 1, each post's adding up to 1); apply a softmax to margins or "
                "logits"
            )
        return None

    def sheet(self, targets: np.ndarray, predictions: np.ndarray) -> ScoreSheet:
        """Return the score sheet of classes and their probabilities."""
        return ScoreSheet(np.asarray(targets), predictions)

    def normalised(self, predictions: np.ndarray) -> np.ndarray:
        """Return probabilities whose rows add up to one again after rounding."""
        result: np.ndarray = predictions / predictions.sum(axis=1, keepdims=True)
        return result

    def evaluate(
        self, targets: np.ndarray, predictions: np.ndarray, *, n_bootstrap: int = 1000, seed: int = 0
    ) -> Evaluation:
        """Return all scores with intervals, the confusion matrix, the scores by class and the calibration."""
        return evaluate(targets, predictions, self.outputs, n_bootstrap=n_bootstrap, seed=seed)


def sorted_labels(labels: set[str]) -> list[str]:
    """Return labels in the order of the alphabet; if all are numbers, by their size."""
    try:
        numbers = {label: float(label) for label in labels}
    except ValueError:
        return sorted(labels)
    if not all(math.isfinite(number) for number in numbers.values()):
        return sorted(labels)
    return sorted(labels, key=lambda label: (numbers[label], label))  # 2 before 10
