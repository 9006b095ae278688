"""The rows of the benchmark as small named recipes, and the registry a user can add to.

>>> from cotune.benchmark import METHODS, Method, Outcome
>>> def prior(task):
...     counts = np.bincount(task.labels[task.train], minlength=task.n_classes)
...     return Outcome(np.tile(counts / counts.sum(), (len(task.test), 1)), {"total": 0, "trained": 0})
>>> METHODS.add("prior", Method("Class frequencies", run=prior))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from cotune.benchmark.emap import additive_logits, embed_rows, softmax
from cotune.data.splits import holdout_split
from cotune.registry import Registry
from cotune.settings import FitConfig, make_config
from cotune.training.features import Features
from cotune.training.loop import predict_rows
from cotune.training.recipe import Trained, fit_rows


@dataclass(frozen=True)
class Task:
    """What a method is given: train on some posts, score others.

    Attributes
    ----------
    features : Features
        All posts, prepared, with the pretrained encoders.
    labels : ndarray of int
        Class index of every post.
    train, test : ndarray of int
        Positions of the posts to train on and of those to score.
    n_classes : int
        Number of classes.
    config : FitConfig
        The settings, with the method's own on top.
    groups : ndarray of int, optional
        Groups of near-duplicates, for whoever cuts a validation part.
    emap : int
        Most posts on which the additive projection is computed; 0 for not at all.
    """

    features: Features
    labels: np.ndarray
    train: np.ndarray
    test: np.ndarray
    n_classes: int
    config: FitConfig
    groups: np.ndarray | None = None
    emap: int = 0


@dataclass
class Outcome:
    """What a method gives back.

    Attributes
    ----------
    proba : ndarray
        Class probabilities of the test posts in their order, shape (len(test), n_classes).
    parameters : dict
        Numbers of parameters: ``total``, and ``trained`` where it can be told.
    history : list of dict
        One entry for each epoch.
    emap : ndarray or None
        Probabilities of the additive projection, NaN for posts left out of it.
    """

    proba: np.ndarray
    parameters: dict[str, int]
    history: list[dict[str, Any]] = field(default_factory=list)
    emap: np.ndarray | None = None


Run = Callable[[Task], Outcome]
Combine = Callable[[Sequence[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Method:
    """A row of the benchmark.

    Parameters
    ----------
    title : str
        What the row is called in tables.
    run : callable, optional
        Trains and scores.
    settings : mapping
        Settings of :class:`~cotune.settings.FitConfig` that the method fixes.
    uses : tuple of str
        The modalities it reads; a cell is shared by all pairs of encoders that do not differ in these.
    encoders : {"pair", "clip"}
        Whether it takes the pair of unimodal encoders or the dual encoder.
    needs : tuple of str
        Methods whose predictions it combines; it trains nothing then.
    combine : callable, optional
        How; given the probabilities of `needs` in their order.
    """

    title: str
    run: Run | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    uses: tuple[str, ...] = ("text", "image")
    encoders: Literal["pair", "clip"] = "pair"
    needs: tuple[str, ...] = ()
    combine: Combine | None = None

    def __post_init__(self) -> None:
        if (self.run is None) == (self.combine is None) or bool(self.needs) != (self.combine is not None):
            raise ValueError("a method either runs, or combines the methods it needs")

    def configure(self, config: FitConfig) -> FitConfig:
        """Return `config` with the method's own settings on top."""
        return make_config({**config.model_dump(), **self.settings})


METHODS: Registry[Method] = Registry("method", "cotune.methods")


def fit(task: Task) -> Outcome:
    """Train by the recipe of ``cotune fit`` and score the test posts."""
    train, held = _hold_out(task)
    trained = fit_rows(task.features, task.labels, train, task.n_classes, task.config, validation_rows=held)
    parameters = _count(trained, task.config)
    if not task.emap or len(trained.model.encoders) < 2:
        proba = predict_rows(trained.model, task.features, task.test, trained.source, device=task.features.device)
        return Outcome(proba, parameters, trained.history)
    embedded = embed_rows(trained.model, task.features, task.test, trained.source)
    logits = embedded.logits(trained.model.head)
    chosen = np.arange(len(task.test))
    if len(chosen) > task.emap:
        # By the posts and not by the seed of training, so that all seeds are projected on the same ones.
        chosen = np.sort(np.random.default_rng(task.test).permutation(len(chosen))[: task.emap])
    projected = np.full(logits.shape, np.nan)
    projected[chosen] = softmax(additive_logits(trained.model.head, embedded.subset(chosen)))
    return Outcome(softmax(logits), parameters, trained.history, projected)


def _hold_out(task: Task) -> tuple[np.ndarray, np.ndarray | None]:
    """Cut a validation part from the training posts, where early stopping or the user asks for one."""
    part = task.config.validation
    if part is None and task.config.stop != "validation":
        return task.train, None
    fraction = part if isinstance(part, float) else 0.1
    groups = None if task.groups is None else task.groups[task.train]
    kept, held = holdout_split(task.labels[task.train], fraction=fraction, seed=task.config.seed, groups=groups)
    return task.train[kept], task.train[held]


def _count(trained: Trained, config: FitConfig) -> dict[str, int]:
    counts = trained.model.parameter_counts()
    if config.tune == "joint":
        counts["trained"] = counts["total"]
    elif config.tune != "lora":  # adapters are merged by now
        counts["trained"] = counts["head"]
        for encoder in trained.model.encoders.values() if config.tune == "top" else ():
            upper = encoder.upper_parameters()
            counts["trained"] += sum(p.numel() for name, p in encoder.model.named_parameters() if name in upper)
    return counts


def svm(task: Task) -> Outcome:
    """Fit an SVM on the concatenated frozen embeddings.

    A radial kernel with C = 1 and scikit-learn's ``gamma="scale"`` on standardised embeddings (an absent one
    counts as the mean). Platt's sigmoid, fitted on five folds of the training posts, makes probabilities.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import StratifiedKFold
    from sklearn.svm import SVC

    train, test = embeddings(task.features, task.train), embeddings(task.features, task.test)
    with np.errstate(invalid="ignore"):
        mean, spread = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    train, test = (np.nan_to_num((table - mean) / spread) for table in (train, test))
    labels = task.labels[task.train]
    rarest = int(np.bincount(labels)[np.unique(labels)].min())
    machine = SVC(C=1.0, kernel="rbf", gamma="scale", random_state=task.config.seed)
    fitted: Any
    if rarest >= 2:
        folds = StratifiedKFold(min(5, rarest), shuffle=True, random_state=task.config.seed)
        fitted = CalibratedClassifierCV(machine, method="sigmoid", cv=folds, ensemble=False).fit(train, labels)
        machine = fitted.calibrated_classifiers_[0].estimator
        scores = fitted.predict_proba(test)
    else:
        fitted = machine.fit(train, labels)
        margins = fitted.decision_function(test)
        scores = softmax(np.column_stack([-margins, margins]) / 2 if margins.ndim == 1 else margins)
    proba = np.zeros((len(test), task.n_classes))
    proba[:, fitted.classes_] = scores
    learned = int(machine.dual_coef_.size + machine.intercept_.size)
    frozen = sum(encoder.n_parameters() for encoder in task.features.encoders.values())
    return Outcome(proba, {"head": learned, "trained": learned, "total": frozen + learned})


def embeddings(features: Features, rows: np.ndarray) -> np.ndarray:
    """Return the frozen embeddings of the posts at `rows` side by side; NaN for an absent modality."""
    names = tuple(features.encoders)
    batch = features.batch(rows, dict.fromkeys(names, "pooled"))
    parts = []
    for column, name in enumerate(("text", "image")):
        if name not in names:
            continue
        part = np.full((len(rows), features.encoders[name].dim), np.nan)
        if name in batch.inputs:
            part[features.present[rows, column]] = batch.inputs[name]["pooled"].numpy()
        parts.append(part)
    return np.concatenate(parts, axis=1)


def mean_of(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of several models' probabilities."""
    result: np.ndarray = np.mean(np.stack(parts), axis=0)
    return result


METHODS.add("svm", Method("SVM on frozen embeddings", run=svm, settings={"fusion": "concat", "tune": "frozen"}))
METHODS.add("image", Method("Image encoder alone", run=fit, settings={"fusion": "image"}, uses=("image",)))
METHODS.add("text", Method("Text encoder alone", run=fit, settings={"fusion": "text"}, uses=("text",)))
METHODS.add("concat", Method("Both, concatenated", run=fit, settings={"fusion": "concat"}))
METHODS.add("clip", Method("Dual encoder (CLIP)", run=fit, settings={"fusion": "concat"}, encoders="clip"))
METHODS.add("probe", Method("Fusion head on frozen encoders", run=fit, settings={"tune": "frozen"}))
METHODS.add("reference", Method("Joint, released head", run=fit, settings={"fusion": "reference"}))
METHODS.add("joint", Method("Joint fine-tuning", run=fit))
METHODS.add("ensemble", Method("Mean of text and image models", needs=("text", "image"), combine=mean_of))
