"""A number for every post: squared or Huber loss of the standardised value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cotune.errors import ConfigError, DataError, LabelError
from cotune.metrics import Evaluation, evaluate_sheet
from cotune.metrics.regression import REGRESSION_SCORES, RegressionSheet
from cotune.report.numbers import every_post
from cotune.settings import FitConfig
from cotune.tasks.base import TASKS, TargetType, Task

if TYPE_CHECKING:
    from torch import Tensor

    from cotune.tasks.losses import StandardisedLoss

_LARGEST = 1e30  # squares and differences of larger values leave single precision
_MANY_VALUES, _SOME_VALUES = 20, 5
_SCATTERED = 500
_DIGITS = 6


@TASKS.register("regression")
class Regression(Task):
    """Each post has a number.

    The model's output is the value in standard deviations from the mean.

    Parameters
    ----------
    mean, scale : float
        Mean and standard deviation of the training labels.
    """

    name: ClassVar[str] = "regression"
    target_type: ClassVar[TargetType] = "continuous"
    main_score: ClassVar[str] = "spearman"
    main_title: ClassVar[str] = "Spearman"
    loss_title: ClassVar[str] = "RMSE"
    watched_loss: ClassVar[str] = "rmse"
    chance: ClassVar[float | None] = 0.0
    scores: ClassVar[Any] = REGRESSION_SCORES
    table_scores: ClassVar[tuple[str, ...]] = ("spearman", "r2", "mae", "rmse")
    scale: ClassVar[str] = "value"

    def __init__(self, mean: float, scale: float) -> None:
        self.outputs = ("value",)
        self.mean, self.deviation = float(mean), float(scale)

    @classmethod
    def learn(cls, labels: Sequence[str]) -> Regression:
        """Return the task with the mean and the standard deviation of `labels`."""
        for label in labels:
            if (problem := _problem(str(label))) is not None:
                raise LabelError(str(label), f"{problem}, or train with --task single-label")
        targets = _encode(labels).astype(np.float64)
        _refuse_equal(targets)
        return cls(float(targets.mean()), float(targets.std()))

    @classmethod
    def recognises(cls, labels: Sequence[str]) -> bool:
        """Tell whether all labels are numbers, and more different ones than classes would be."""
        if any(_problem(str(label)) is not None for label in labels):
            return False
        values = {float(label) for label in labels}
        whole = all(value.is_integer() for value in values)
        return len(values) > (_MANY_VALUES if whole else _SOME_VALUES)

    def settings(self) -> dict[str, Any]:
        """Return the mean and the standard deviation of the training labels."""
        return {"mean": self.mean, "scale": self.deviation}

    def encode(self, labels: Sequence[str]) -> np.ndarray:
        """Return the values in their own unit, shape (N,)."""
        return _encode(labels)

    def problem(self, label: str) -> str | None:
        """Return why a label is not a number that can be used."""
        return _problem(label)

    def refuse_untrainable(self, targets: np.ndarray) -> None:
        """Refuse posts that all have the same value."""
        _refuse_equal(targets)

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Return the quintile of every value; fewer where values are equal."""
        edges = np.quantile(targets, [0.2, 0.4, 0.6, 0.8])
        return np.unique(np.searchsorted(edges, targets), return_inverse=True)[1]

    def count(self, targets: np.ndarray) -> dict[str, int]:
        """Return how many posts lie in each quarter of the range of values, such as ``1 to 2.5``."""
        if len(targets) == 0:
            return {}
        low, high = float(targets.min()), float(targets.max())
        if low == high:
            return {_readable(low, _DIGITS): len(targets)}
        counts, edges = np.histogram(targets.astype(np.float64), bins=4)
        shown = _different(edges)
        return {f"{a} to {b}": int(n) for (a, b), n in zip(pairwise(shown), counts, strict=True)}

    def note_on_held_out(self, targets: np.ndarray) -> str | None:
        """Return a note if all posts have the same value."""
        if len(set(targets.tolist())) != 1:
            return None
        return f"all {len(targets):,} held-out posts have the value {_readable(float(targets[0]), _DIGITS)}"

    def describe(self) -> str:
        """Return the mean and the standard deviation."""
        return f"regression, mean {_readable(self.mean, 4)}, standard deviation {_readable(self.deviation, 4)}"

    def loss(self, config: FitConfig, targets: np.ndarray, weights: np.ndarray | None = None) -> StandardisedLoss:
        """Return the squared loss, or the Huber loss, of the standardised values.

        Raises
        ------
        ConfigError
            If label smoothing or class weights are asked for.
        """
        from cotune.tasks.losses import StandardisedLoss

        if config.label_smoothing > 0:
            raise ConfigError("--label-smoothing is for classes and a regression has none; leave it at 0")
        if config.class_weights != "none":
            raise ConfigError("--class-weights is for classes and a regression has none; leave it at none")
        return StandardisedLoss(self.mean, self.deviation, huber=config.regression_loss == "huber")

    def prior(self, config: FitConfig, targets: np.ndarray, weights: np.ndarray | None = None) -> Tensor:
        """Return the standardised mean: zero, or what the posts' weights make of it."""
        import torch

        if weights is None:
            return torch.zeros(1)
        mean = np.average(targets.astype(np.float64), weights=weights)
        return torch.tensor([(mean - self.mean) / self.deviation], dtype=torch.float32)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return values in the unit of the labels."""
        return outputs * self.deviation + self.mean

    def contribution_scale(self, outputs: Tensor) -> Tensor:
        """Return values in the unit of the labels, so that a base and its contributions add up to the prediction."""
        return self.predictions(outputs)

    def from_scale(self, values: Tensor) -> Tensor:
        """Return the values, which are predictions."""
        return values

    def confidence(self, predictions: Tensor) -> Tensor:
        """Return NaN: a number comes without a probability."""
        return predictions.new_full((len(predictions),), math.nan)

    def decode(self, predictions: np.ndarray) -> list[Any]:
        """Return the values, rounded to six significant digits."""
        return [float(f"{value:.{_DIGITS}g}") for value in np.asarray(predictions)[:, 0].tolist()]

    def explained(self, predictions: Tensor) -> Tensor:
        """Return the only output."""
        return predictions.argmax(dim=1)

    def columns(self) -> list[str]:
        """Return none, as the column ``label`` holds the number."""
        return []

    def check_predictions(self, predictions: np.ndarray) -> str | None:
        """Return what is wrong with predictions that are not numbers."""
        return None if np.isfinite(predictions).all() else "predictions that are not finite numbers"

    def sheet(self, targets: np.ndarray, predictions: np.ndarray) -> RegressionSheet:
        """Return the score sheet of true and predicted values."""
        return RegressionSheet.of(targets, predictions)

    def evaluate(
        self, targets: np.ndarray, predictions: np.ndarray, *, n_bootstrap: int = 1000, seed: int = 0
    ) -> Evaluation:
        """Return all scores with intervals, the spread of the targets, and pairs of true and predicted values."""
        sheet = self.sheet(targets, predictions)
        true = sheet.targets
        spread = {"mean": true.mean(), "std": true.std(), "min": true.min(), "max": true.max()}
        details = {
            "targets": {name: float(value) for name, value in spread.items()},
            "scatter": _scatter(sheet, seed),
        }
        return evaluate_sheet(sheet, self.scores, details, n=sheet.n, n_bootstrap=n_bootstrap, seed=seed)


def _problem(label: str) -> str | None:
    try:
        value = math.nan if "_" in label else float(label)  # Python reads 1_000, tables do not
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        return "is not a finite number; write digits and a decimal point, such as 3.5"
    if abs(value) > _LARGEST:
        return f"is larger than {_LARGEST:g}; give it in a larger unit"
    return None


def _encode(labels: Sequence[str]) -> np.ndarray:
    return np.asarray([float(label) for label in labels], dtype=np.float32)


def _refuse_equal(targets: np.ndarray) -> None:
    if len(targets) == 0:
        raise DataError("no post has a number as its label; a regression needs at least two different values")
    if targets.min() == targets.max():
        raise DataError(
            f"{every_post(len(targets))} the value {_readable(float(targets[0]), _DIGITS)}; a regression needs at "
            "least two different values"
        )


def _readable(value: float, digits: int) -> str:
    """Return a number with so many significant digits; 250000 rather than 2.5e+05."""
    if value != 0 and not 1e-4 <= abs(value) < 1e12:
        return f"{value:.{digits}g}"
    return np.format_float_positional(value, precision=digits, unique=False, fractional=False, trim="-")


def _different(edges: np.ndarray) -> list[str]:
    """Return numbers as text, with no more digits than tell them apart."""
    texts = [[_readable(edge, digits) for edge in edges.tolist()] for digits in range(4, 18)]
    return next((shown for shown in texts if len(set(shown)) == len(shown)), texts[-1])


def _scatter(sheet: RegressionSheet, seed: int) -> list[list[float]]:
    """Return pairs of a true and a predicted value, of at most 500 posts."""
    rows = np.arange(sheet.n)
    if sheet.n > _SCATTERED:
        rows = np.sort(np.random.default_rng(seed).choice(sheet.n, _SCATTERED, replace=False))
    pairs: list[list[float]] = np.column_stack([sheet.targets, sheet.predictions])[rows].tolist()
    return pairs
