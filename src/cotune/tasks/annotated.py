"""One class for every post, learned from the labels of its fields as well: of the text alone, of the image alone.

The model's outputs are scores of cells, combinations of labels, and what is known of a post is an event, a set of
cells (see :mod:`cotune.tasks.label_cells`). The loss is the negative logarithm of the event's probability, the sum over
its cells, so that posts teach whatever they are labelled with. Where annotators disagree, each event counts by their
votes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from cotune.data.tables.cells import FIELD_LABEL, field_labels
from cotune.errors import DataError, clip, listed
from cotune.metrics import Evaluation
from cotune.metrics.scores import ScoreSheet
from cotune.report.numbers import plural
from cotune.settings import FitConfig
from cotune.tasks.base import TASKS
from cotune.tasks.label_cells import UNKNOWN, LabelCells
from cotune.tasks.label_rule import Rule, votes_of
from cotune.tasks.single_label import SingleLabel, sorted_labels

if TYPE_CHECKING:
    from torch import Tensor

    from cotune.tasks.losses import EventLikelihood

#: Column of the probability that the fields contradict each other.
CONFLICT = "conflict"
_EM_STEPS = 200


@TASKS.register("annotated")
class Annotated(SingleLabel):
    """Each post has a class; labels of its fields help to learn it.

    Parameters
    ----------
    classes : sequence of str
        The classes of posts.
    field_labels : mapping
        The labels of every field that has some, in their order.
    rule : sequence of sequence, optional
        The class (None for a contradiction) and the fields' labels of every combination; without it, every class goes
        with every combination.
    """

    name: ClassVar[str] = "annotated"

    def __init__(
        self,
        classes: Sequence[str],
        field_labels: Mapping[str, Sequence[str]],
        rule: Sequence[Sequence[str | None]] | None = None,
    ) -> None:
        super().__init__(classes)
        self.field_labels = {field: tuple(labels) for field, labels in field_labels.items()}
        self.rule = None if rule is None else [tuple(row) for row in rule]
        self.cells = LabelCells(self.outputs, self.field_labels, self.rule)
        self.label_rule = self.cells.label_rule

    @classmethod
    def learn(cls, labels: Sequence[str]) -> SingleLabel:
        """Refuse: labels alone say nothing of fields."""
        raise DataError(
            f"the task annotated needs labels of fields, in columns such as {FIELD_LABEL}text and {FIELD_LABEL}image"
        )

    @classmethod
    def learn_posts(cls, posts: pd.DataFrame, rule: Rule | None = None) -> Annotated:
        """Return the task that training posts with labels of fields set.

        Parameters
        ----------
        posts : DataFrame
            As :func:`cotune.data.posts.read_posts` gives it.
        rule : Rule, optional
            How a post's label comes from those of its fields.

        Raises
        ------
        DataError
            If no field has labels, the rule does not know one, or posts lack labels of their own without a rule.
        """
        columns = field_labels(posts)
        if not columns:
            cls.learn(())
        if rule is None:
            found = {str(label) for label in posts["label"] if label is not None}
            if len(found) < 2:
                what = f"only {listed(found, quote=True)}" if found else "no label"
                raise DataError(
                    f"the posts have {what} of their own; name the table that makes their label of the fields' labels "
                    "with --rule, such as xu-mao, or fill the `label` column"
                )
            known = {
                field: sorted_labels({vote for cell in posts[column] for vote in votes_of(cell)})
                for field, column in columns.items()
            }
            return cls(sorted_labels(found), known)
        unread = [column for field, column in columns.items() if field not in rule.fields]
        if unread:
            raise DataError(
                f"the rule reads the labels of {listed(rule.fields)}, and the posts have {listed(unread)}; name the "
                "rule's columns as the fields"
            )
        task = cls(
            sorted_labels(set(rule.classes)),
            {field: rule.known(field) for field in rule.fields},
            [(label, *combination) for combination, label in rule.labels.items()],
        )
        task.refuse_unknown(posts)
        return task

    def settings(self) -> dict[str, Any]:
        """Return the classes, the fields' labels and the rule."""
        fields = {field: list(labels) for field, labels in self.field_labels.items()}
        rule = None if self.rule is None else [list(row) for row in self.rule]
        return {"classes": list(self.outputs), "field_labels": fields, "rule": rule}

    def describe(self) -> str:
        """Return the classes, the fields with labels, and whether a rule joins them."""
        by = "without a rule" if self.rule is None else "joined by a rule"
        return f"{super().describe()}; labels of {listed(self.field_labels)}, {by}"

    # ---- labels and targets --------------------------------------------------------------------------

    def refuse_unknown(self, posts: pd.DataFrame) -> None:
        """Refuse labels of fields that the task does not know, naming the first one's row and column.

        Raises
        ------
        DataError
            With the labels that are known.
        """
        for field, column in field_labels(posts).items():
            if field not in self.field_labels:
                continue
            known = self.field_labels[field]
            for row, cell in zip(posts["row"], posts[column], strict=True):
                for vote in votes_of(cell):
                    if vote not in known:
                        raise DataError(
                            f"row {row}: {column} is {clip(vote)!r}, which is not known (known are {listed(known)}); "
                            "correct the cell, or train with a --rule that knows it"
                        )

    def complete(self, posts: pd.DataFrame) -> pd.DataFrame:
        """Return the posts with the class that the rule makes of their fields' labels where they have none."""
        columns = field_labels(posts)
        if self.label_rule is None or not set(self.field_labels) <= set(columns):
            return posts
        self.refuse_unknown(posts)
        missing = posts["label"].isna().to_numpy()
        labels = posts["label"].to_numpy(dtype=object).copy()
        for at in np.flatnonzero(missing):
            votes = {field: votes_of(posts[columns[field]].iloc[at]) for field in self.field_labels}
            labels[at] = self.label_rule.label_of(votes)
        return posts.assign(label=pd.Series(labels, index=posts.index, dtype=object))

    def encode(self, labels: Sequence[str | None]) -> np.ndarray:
        """Return class indices, -1 for a post without a class; shape (N,)."""
        return np.asarray([UNKNOWN if label is None else self._index[str(label)] for label in labels], dtype=np.int64)

    def learned(self, posts: pd.DataFrame) -> np.ndarray:
        """Return how much each event counts for each post, shape (N, n_events); zeros where nothing is known."""
        self.refuse_unknown(posts)
        columns = field_labels(posts)
        votes = {f: [votes_of(cell) for cell in posts[columns[f]]] for f in self.field_labels if f in columns}
        return self.cells.known(posts["label"].tolist(), votes)

    def notes(self, posts: pd.DataFrame) -> list[str]:
        """Return notes on what the posts' labels are: how many have no class, and how many contradict the rule."""
        columns = field_labels(posts)
        found: Counter[str] = Counter()
        for i, label in enumerate(posts["label"]):
            votes = {f: votes_of(posts[columns[f]].iloc[i]) if f in columns else [] for f in self.field_labels}
            if label is None:
                found["without"] += 1
            elif (
                self.label_rule is not None
                and all(votes.values())
                and (self.label_rule.label_of(votes) not in (label, None))
            ):
                found["against"] += 1
        notes = []
        if n := found["without"]:
            what = "post has no class: its fields' labels teach all the same" if n == 1 else (
                "posts have no class: their fields' labels teach all the same"
            )  # fmt: skip
            notes.append(f"{n:,} {what}")
        if n := found["against"]:
            notes.append(f"{plural(n, 'post')} with a label other than the rule makes of the fields': the label counts")
        return notes

    def scored(self, targets: np.ndarray) -> np.ndarray:
        """Return which posts have a class, and so can be scored, shape (N,)."""
        has: np.ndarray = np.asarray(targets) >= 0
        return has

    def refuse_untrainable(self, targets: np.ndarray) -> None:
        """Refuse a class with fewer than two posts, where posts have classes of their own."""
        super().refuse_untrainable(targets[targets >= 0])

    # ---- training ------------------------------------------------------------------------------------

    @property
    def n_outputs(self) -> int:
        """How many cells there are."""
        return len(self.cells)

    def loss(self, config: FitConfig, targets: np.ndarray, weights: np.ndarray | None = None) -> EventLikelihood:
        """Return the negative log-likelihood of what is known; `targets` are weights of events, shape (N, n_events)."""
        from cotune.tasks.losses import EventLikelihood

        return EventLikelihood(
            self.cells.of_events(), self._event_weights(config, targets, weights), config.label_smoothing
        )

    def _event_weights(
        self, config: FitConfig, targets: np.ndarray, weights: np.ndarray | None
    ) -> tuple[float, ...] | None:
        """Return how much each event counts so that rare classes count as much as frequent ones."""
        if config.class_weights == "none":
            return None
        each = np.asarray(targets, dtype=np.float64) * (1.0 if weights is None else weights[:, None])
        of_event = np.asarray([self.cells.class_of_event(event) for event in self.cells.events])
        counts = np.asarray([each[:, of_event == c].sum() for c in range(len(self.outputs))])
        share = [counts.sum() / (len(counts) * count) if count else 0.0 for count in counts]
        return tuple(1.0 if c == UNKNOWN else float(share[c]) for c in of_event)

    def prior(self, config: FitConfig, targets: np.ndarray, weights: np.ndarray | None = None) -> Tensor:
        """Return the logarithm of the cells' shares under which what is known is most likely, by the EM algorithm."""
        import torch

        mass = np.asarray(targets, dtype=np.float64) * (1.0 if weights is None else weights[:, None])
        balance = self._event_weights(config, targets, weights)
        counts, masks = mass.sum(axis=0) * np.asarray(balance or 1.0), self.cells.of_events()
        shares = np.full(self.n_outputs, 1 / self.n_outputs)
        for _ in range(_EM_STEPS):
            parts = masks * shares
            parts *= (counts / np.maximum(parts.sum(axis=1), 1e-12))[:, None]
            shares = np.maximum(parts.sum(axis=0), 0.5)  # an unseen cell stays possible
            shares /= shares.sum()
        return torch.as_tensor(shares).log().float()

    # ---- outputs -------------------------------------------------------------------------------------

    @property
    def n_predictions(self) -> int:
        """How many probabilities there are: of classes, of the labels of each field, and of a contradiction."""
        return len(self.columns())

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return probabilities of classes given that fields do not contradict, of each field's labels, of a conflict.

        Shape (B, n_predictions), in the order of :meth:`columns`.
        """
        import torch

        of, shares = self.cells, outputs.softmax(dim=1)
        parts = [self._class_scores(outputs).softmax(dim=1)]
        for f, labels in enumerate(self.field_labels.values()):
            of_labels = [shares[:, of.of_label(f, k)].sum(1) for k in range(len(labels))]
            parts.append(torch.stack(of_labels, dim=1))
        if self.contradicts:
            parts.append(shares[:, of.of_class(UNKNOWN)].sum(1, keepdim=True))
        return torch.cat(parts, dim=1)

    def _class_scores(self, outputs: Tensor) -> Tensor:
        """Return the logarithm of every class's sum over its cells, shape (B, number of classes)."""
        import torch

        of_classes = [outputs[:, self.cells.of_class(c)].logsumexp(1) for c in range(len(self.outputs))]
        return torch.stack(of_classes, dim=1)

    @property
    def has_rule(self) -> bool:
        """Whether there is a rule."""
        return self.rule is not None

    @property
    def contradicts(self) -> bool:
        """Whether the rule calls some labels of fields a contradiction."""
        return self.cells.contradicts

    def columns(self) -> list[str]:
        """Return the columns of the probabilities."""
        of_fields = [f"p:{field}_{label}" for field, labels in self.field_labels.items() for label in labels]
        return [*super().columns(), *of_fields, *([CONFLICT] if self.contradicts else [])]

    def label_columns(self) -> list[str]:
        """Return the columns of labels: the post's, and each field's."""
        return ["label", *(f"{FIELD_LABEL}{field}" for field in self.field_labels)]

    def decode_fields(self, predictions: np.ndarray) -> dict[str, list[str]]:
        """Return each field's most likely label, by its column."""
        found = {}
        for field, part in self.parts(predictions).items():
            labels = self.field_labels[field]
            found[f"{FIELD_LABEL}{field}"] = [labels[best] for best in part.argmax(axis=1)]
        return found

    def parts(self, predictions: np.ndarray) -> dict[str, np.ndarray]:
        """Return the probabilities of each field's labels, shapes (N, number of its labels)."""
        found, at = {}, len(self.outputs)
        for field, labels in self.field_labels.items():
            found[field] = predictions[:, at : at + len(labels)]
            at += len(labels)
        return found

    def conflict(self, predictions: np.ndarray) -> np.ndarray | None:
        """Return the probability that the fields contradict each other, shape (N,); None where no rule says so."""
        return predictions[:, -1] if self.contradicts else None

    def of_classes(self, predictions: Any) -> Any:
        """Return the probabilities of the classes, shape (..., number of classes)."""
        return predictions[..., : len(self.outputs)]

    def contribution_scale(self, outputs: Tensor) -> Tensor:
        """Return the log-odds of every class, given that the fields do not contradict each other."""
        return super().contribution_scale(self._class_scores(outputs))

    def confidence(self, predictions: Tensor) -> Tensor:
        """Return the probability of the most likely class."""
        return super().confidence(self.of_classes(predictions))

    def decode(self, predictions: np.ndarray) -> list[Any]:
        """Return the most likely class."""
        return super().decode(self.of_classes(predictions))

    def explained(self, predictions: Tensor) -> Tensor:
        """Return the most likely class."""
        return super().explained(self.of_classes(predictions))

    def check_predictions(self, predictions: np.ndarray) -> str | None:
        """Return what is wrong with rows that are not probabilities; a method may say nothing of fields."""
        for part in (self.of_classes(predictions), *self.parts(predictions).values()):
            if not np.isnan(part).all() and (problem := super().check_predictions(part)) is not None:
                return problem
        return None

    # ---- scores --------------------------------------------------------------------------------------

    def sheet(self, targets: np.ndarray, predictions: np.ndarray) -> ScoreSheet:
        """Return the score sheet of classes and their probabilities."""
        return super().sheet(targets, self.of_classes(predictions))

    def normalised(self, predictions: np.ndarray) -> np.ndarray:
        """Return probabilities of which those of the classes, and of each field, add up to one again."""
        to_one = super().normalised  # Python before 3.12 knows no super() within a list
        if predictions.shape[1] == len(self.outputs):  # of a benchmark, which keeps those of the classes
            return to_one(predictions)
        parts = [to_one(part) for part in (self.of_classes(predictions), *self.parts(predictions).values())]
        conflict = self.conflict(predictions)
        return np.concatenate([*parts, *([] if conflict is None else [conflict[:, None]])], axis=1)

    def evaluate(
        self, targets: np.ndarray, predictions: np.ndarray, *, n_bootstrap: int = 1000, seed: int = 0
    ) -> Evaluation:
        """Return all scores of the classes."""
        return super().evaluate(targets, self.of_classes(predictions), n_bootstrap=n_bootstrap, seed=seed)

    def score_fields(self, posts: pd.DataFrame, predictions: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
        """Return how well the labels of fields, and contradictions, are told."""
        from cotune.tasks.field_scores import field_scores

        return field_scores(self, posts, predictions, seed=seed)
