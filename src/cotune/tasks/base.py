"""What every task is, and the registry of tasks.

A task says what a target is: which labels there are, what the model's outputs mean, the loss, and the scores. Labels
are text, as tables and run folders hold them; targets are numbers, as the loss needs them; outputs are what the fusion
head gives; predictions are what a user reads: probabilities, or values. None of it imports torch before a tensor is at
hand, so that an exported model starts without.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from cotune.errors import clip
from cotune.registry import Registry

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from cotune.metrics import Evaluation
    from cotune.settings import FitConfig
    from cotune.tasks.links import Link
    from cotune.tasks.losses import Loss

TASKS: Registry[type[Task]] = Registry("task", "cotune.tasks", base=lambda: Task)
Score = Callable[[Any, np.ndarray], np.ndarray]
#: As scikit-learn's ``type_of_target`` names them: one class, any number of labels, or a number.
TargetType = Literal["multiclass", "multilabel-indicator", "continuous"]


@dataclass(frozen=True)
class Watched:
    """Scores of held-out posts after an epoch; None where one is undefined.

    Attributes
    ----------
    score : float or None
        The task's main score, such as the AUC; larger is better.
    loss : float or None
        A loss; None where the model's answer is not a number.
    """

    score: float | None
    loss: float | None

    @property
    def value(self) -> float:
        """What early stopping maximises: the score, else the negative loss, else minus infinity; never NaN."""
        if self.score is not None:
            return self.score
        return -math.inf if self.loss is None else -self.loss


class Task(abc.ABC):
    """What a target is.

    Attributes
    ----------
    name : str
        The name it is registered by.
    main_score : str
        The score, out of `scores`, that early stopping watches and the benchmark compares.
    main_title : str
        What tables call it, such as "AUC".
    watched_loss : str
        The score, out of `scores`, that is shown of held-out posts beside the main one; smaller is better.
    loss_title : str
        What tables call it, such as "log loss".
    chance : float or None
        The main score of a model that knows nothing; None if there is no such value.
    scores : dict
        Functions of a sheet (see :meth:`sheet`) and resampling counts of shape (B, N), each giving B values.
    table_scores : tuple of str
        The scores that a benchmark's table shows, the main score first.
    scale : str
        Unit of contributions.
    outputs : tuple of str
        What is predicted: class names, or what is measured.
    target_type : {"multiclass", "multilabel-indicator", "continuous"}
        What a post's target is: one of the outputs, any number of them, or a number.
    """

    name: ClassVar[str]
    main_score: ClassVar[str] = "auc"
    main_title: ClassVar[str] = "AUC"
    watched_loss: ClassVar[str] = "log_loss"
    loss_title: ClassVar[str] = "log loss"
    chance: ClassVar[float | None] = 0.5
    scores: ClassVar[Mapping[str, Score]]
    table_scores: ClassVar[tuple[str, ...]]
    scale: ClassVar[str] = "log-odds"
    target_type: ClassVar[TargetType]
    outputs: tuple[str, ...]

    # ---- labels and targets --------------------------------------------------------------------------

    @classmethod
    @abc.abstractmethod
    def learn(cls, labels: Sequence[str]) -> Task:
        """Return the task that training posts with these labels set.

        Raises
        ------
        DataError
            If nothing can be learned from them; the message names a row's label and the way out.
        """

    @classmethod
    @abc.abstractmethod
    def recognises(cls, labels: Sequence[str]) -> bool:
        """Tell whether ``--task auto`` takes these labels for this task."""

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the arguments that build this task again, as plain JSON values."""

    @abc.abstractmethod
    def encode(self, labels: Sequence[str]) -> np.ndarray:
        """Return the targets of labels that have no :meth:`problem`: shape (N,) or (N, n_outputs)."""

    @abc.abstractmethod
    def problem(self, label: str) -> str | None:
        """Return why a label is not one of this task, as the rest of "the label ..."; None if it is one."""

    def complete(self, posts: pd.DataFrame) -> pd.DataFrame:
        """Return posts whose labels are filled in where something else in them says what they are."""
        return posts

    def learned(self, posts: pd.DataFrame) -> np.ndarray | None:
        """Return what the loss reads of training posts, first axis the posts; None if it is their targets."""
        return None

    def notes(self, posts: pd.DataFrame) -> list[str]:
        """Return notes on the labels of training posts."""
        return []

    def scored(self, targets: np.ndarray) -> np.ndarray:
        """Return which posts have a target, and so can be scored; others only teach. Shape (N,)."""
        return np.ones(len(targets), dtype=bool)

    def note_on_unknown(self, labels: Sequence[str], n: int) -> str:
        """Return a note on `n` posts whose labels have a :meth:`problem`."""
        what = "posts have labels" if n > 1 else "post has a label"
        return (
            f"{n:,} {what} that the run cannot score, left out: the label {clip(labels[0])!r} {self.problem(labels[0])}"
        )

    @abc.abstractmethod
    def refuse_untrainable(self, targets: np.ndarray) -> None:
        """Refuse training posts from which nothing can be learned.

        Raises
        ------
        DataError
            With the labels that are too rare.
        """

    @abc.abstractmethod
    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Return a class index for every post by which folds and held-out parts are stratified, shape (N,)."""

    @abc.abstractmethod
    def count(self, targets: np.ndarray) -> dict[str, int]:
        """Return how many posts carry each label, or lie in each range of values."""

    def note_on_held_out(self, targets: np.ndarray) -> str | None:
        """Return why no main score of these held-out posts can be given, or None if one can."""
        return None

    @abc.abstractmethod
    def describe(self) -> str:
        """Return one line for people, such as ``single-label, 3 classes: negative, neutral, positive``."""

    # ---- training ------------------------------------------------------------------------------------

    @property
    def text_label(self) -> bool:
        """Whether predicted labels are text rather than numbers."""
        return self.target_type != "continuous"

    @property
    def n_outputs(self) -> int:
        """How many outputs the model has."""
        return len(self.outputs)

    @property
    def n_predictions(self) -> int:
        """How many predictions :meth:`predictions` makes of a post's outputs."""
        return self.n_outputs

    @abc.abstractmethod
    def loss(self, config: FitConfig, targets: np.ndarray, weights: np.ndarray | None = None) -> Loss:
        """Return the loss for training on posts with these targets.

        Parameters
        ----------
        config : FitConfig
            ``label_smoothing``, ``class_weights`` and what else the task reads of it.
        targets : ndarray
            Targets of the training posts.
        weights : ndarray, optional
            How much each of them counts, of mean one.

        Raises
        ------
        ConfigError
            If a setting makes no sense for this task.
        """

    @abc.abstractmethod
    def prior(self, config: FitConfig, targets: np.ndarray, weights: np.ndarray | None = None) -> Tensor:
        """Return the outputs for a post of which nothing is known: the constant of least loss, shape (n_outputs,)."""

    # ---- outputs -------------------------------------------------------------------------------------

    @property
    def link(self) -> Link:
        """The function from outputs to the probabilities that several models of this task are averaged by."""
        if self.target_type == "continuous":
            return "identity"
        return "softmax" if self.target_type == "multiclass" else "sigmoid"

    @abc.abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """Return probabilities, or values, of outputs of shape (B, n_outputs); shape (B, n_predictions)."""

    @abc.abstractmethod
    def contribution_scale(self, outputs: Tensor) -> Tensor:
        """Return outputs on the scale on which contributions add up, such as log-odds, of everything in `outputs`."""

    def from_scale(self, values: Tensor) -> Tensor:
        """Return predictions of values on the scale of contributions; the same shape."""
        return values.sigmoid()

    def confidence(self, predictions: Tensor) -> Tensor:
        """Return how sure the model is of what it says of each post, shape (B,); NaN where there is no such thing."""
        return predictions.amax(dim=1)

    @abc.abstractmethod
    def decode(self, predictions: np.ndarray) -> list[Any]:
        """Return a label for every row of predictions, shape (N, n_predictions)."""

    def label_columns(self) -> list[str]:
        """Return the columns of labels that a predictions table has, that of the posts' labels first."""
        return ["label"]

    def decode_fields(self, predictions: np.ndarray) -> dict[str, list[str]]:
        """Return the further labels of every row of predictions, by column."""
        return {}

    @abc.abstractmethod
    def explained(self, predictions: Tensor) -> Tensor:
        """Return the index of the output that an explanation is about, shape (B,)."""

    @property
    def has_rule(self) -> bool:
        """Whether a post's label may follow from the labels of its fields, by a rule that the task holds."""
        return False

    @property
    def contradicts(self) -> bool:
        """Whether the last prediction is the probability that a post's fields contradict each other."""
        return False

    def choose_thresholds(self, targets: np.ndarray, predictions: np.ndarray) -> None:
        """Choose on held-out posts where to cut, if decoding cuts anywhere."""
        return

    def of_classes(self, predictions: Any) -> Any:
        """Return the predictions of `outputs` alone, where there are more."""
        return predictions

    def columns(self) -> list[str]:
        """Return the columns of numbers that a predictions table has, those of the outputs first."""
        return [f"p_{name}" for name in self.outputs]

    @abc.abstractmethod
    def check_predictions(self, predictions: np.ndarray) -> str | None:
        """Return what is wrong with predictions that a method made, or None."""

    # ---- scores --------------------------------------------------------------------------------------

    @abc.abstractmethod
    def sheet(self, targets: np.ndarray, predictions: np.ndarray) -> Any:
        """Return what the functions in `scores` take: targets and predictions, prepared for any resample."""

    def normalised(self, predictions: np.ndarray) -> np.ndarray:
        """Return stored predictions as probabilities again where rounding has changed their sum; else as they are."""
        return predictions

    def score(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Return every score of a set of predictions; NaN for one that is undefined."""
        sheet, once = self.sheet(targets, predictions), np.ones((1, len(targets)))
        return {name: float(function(sheet, once)[0]) for name, function in self.scores.items()}

    def watch(self, targets: np.ndarray, predictions: np.ndarray) -> Watched:
        """Score held-out posts after an epoch; predictions may hold NaN, as those of a model that has diverged do."""
        if not np.isfinite(predictions).all():
            return Watched(None, None)
        sheet, once = self.sheet(targets, predictions), np.ones((1, len(targets)))
        score, loss = (float(self.scores[name](sheet, once)[0]) for name in (self.main_score, self.watched_loss))
        return Watched(None if math.isnan(score) else score, loss)

    @abc.abstractmethod
    def evaluate(
        self, targets: np.ndarray, predictions: np.ndarray, *, n_bootstrap: int = 1000, seed: int = 0
    ) -> Evaluation:
        """Return every score with its bootstrap interval, and what else a report shows of the task."""

    def score_fields(self, posts: pd.DataFrame, predictions: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
        """Return scores of what else is predicted of posts, where they have labels of it; see ``field_scores``."""
        return {}
