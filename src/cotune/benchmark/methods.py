"""The rows of the benchmark as small named recipes, and the registry a user can add to.

>>> from cotune.benchmark import METHODS, Method, Outcome
>>> def prior(trial):
...     known = trial.task.prior(trial.config, trial.targets[trial.train])
...     predicted = trial.task.predictions(known[None]).repeat(len(trial.test), 1)
...     return Outcome(predicted.numpy(), {"total": 0, "trained": 0})
>>> METHODS.add("prior", Method("What is most frequent", run=prior))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from cotune.explain.emap import additive_outputs, can_project
from cotune.heads import Embeddings
from cotune.heads.base import concatenate
from cotune.model import JointModel
from cotune.registry import Registry
from cotune.settings import FitConfig, make_config
from cotune.tasks import Task
from cotune.training.features import Features, iterate
from cotune.training.fit_members import fit_members
from cotune.training.held_out_rows import hold_out
from cotune.training.kept import Source
from cotune.training.model_rows import predict_rows
from cotune.training.trainer import Trained, Trainer
from cotune.training.training_data import HeldOut, TrainingData


@dataclass(frozen=True)
class Trial:
    """What a method is given: train on some posts, score others.

    Attributes
    ----------
    features : Features
        All posts, prepared, with the pretrained encoders.
    targets : ndarray
        The task's targets of every post.
    train, test : ndarray of int
        Positions of the posts to train on and of those to score.
    task : Task
        What the targets mean.
    config : FitConfig
        The settings, with the method's own on top.
    groups : ndarray of int, optional
        Groups of near-duplicates, for whoever cuts a validation part.
    emap : int
        Most posts on which the additive projection is computed; 0 for not at all.
    watched : ndarray of int, optional
        Posts that early stopping may watch instead of a part of the training posts.
    learned : ndarray, optional
        What the loss reads of every post, where that is more than its target.
    """

    features: Features
    targets: np.ndarray
    train: np.ndarray
    test: np.ndarray
    task: Task
    config: FitConfig
    groups: np.ndarray | None = None
    emap: int = 0
    watched: np.ndarray | None = None
    learned: np.ndarray | None = None


@dataclass
class Outcome:
    """What a method gives back.

    Attributes
    ----------
    predictions : ndarray
        Probabilities or values of the test posts in their order, shape (len(test), n_outputs).
    parameters : dict
        Numbers of parameters: ``total``, and ``trained`` where it is known.
    history : list of dict
        One entry for each epoch.
    emap : ndarray or None
        Predictions of the additive projection, NaN for posts left out of it.
    """

    predictions: np.ndarray
    parameters: dict[str, int]
    history: list[dict[str, Any]] = field(default_factory=list)
    emap: np.ndarray | None = None


Run = Callable[[Trial], Outcome]
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
        The kinds of fields it reads; a cell is shared by all pairs of encoders that do not differ in these.
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

    def reads(self, kind: str) -> bool:
        """Tell whether the method reads fields of a kind; one that is not of one kind alone reads all there are."""
        return kind in self.uses or len(self.uses) > 1

    def configure(self, config: FitConfig) -> FitConfig:
        """Return `config` with the method's own settings on top."""
        return make_config({**config.model_dump(), **self.settings})


METHODS: Registry[Method] = Registry("method", "cotune.methods", base=lambda: Method, instances=True)


def fit(trial: Trial) -> Outcome:
    """Train by the recipe of ``cotune fit`` and score the test posts."""
    train, held = _hold_out(trial)
    held_out = None if held is None else HeldOut(trial.features, trial.targets, held)
    data = TrainingData(trial.features, trial.targets, train, held_out=held_out, learned=trial.learned)
    if trial.config.members > 1:
        trained, _ = fit_members(data, trial.task, trial.config, groups=trial.groups)
    else:
        trained = Trainer(data, trial.task, trial.config).fit()
    parameters = _count(trained, trial.config)
    head = trained.model.head
    if not trial.emap or not can_project(head):
        found = predict_rows(trained.model, trial.task, trial.features, trial.test, trained.source)
        return Outcome(found, parameters, trained.history)
    embedded = embed_rows(trained.model, trial.features, trial.test, trained.source)
    with torch.inference_mode():
        outputs = head(embedded).cpu().double()
    chosen = np.arange(len(trial.test))
    if len(chosen) > trial.emap:
        # By the posts and not by the seed of training, so that all seeds are projected on the same ones.
        chosen = np.sort(np.random.default_rng(trial.test).permutation(len(chosen))[: trial.emap])
    projected = np.full((len(outputs), trial.task.n_predictions), np.nan)
    at = torch.from_numpy(chosen).to(embedded.present.device)
    additive = torch.from_numpy(additive_outputs(head, embedded.rows(at)))
    projected[chosen] = trial.task.predictions(additive).numpy()
    return Outcome(trial.task.predictions(outputs).numpy(), parameters, trained.history, projected)


def embed_rows(
    model: JointModel, features: Features, rows: np.ndarray, source: Mapping[str, Source], *, batch_size: int = 64
) -> Embeddings:
    """Return the embeddings of the posts at `rows` by a trained model, in their order."""
    where = {int(row): i for i, row in enumerate(rows)}
    parts, order = [], []
    with torch.inference_mode():
        for batch in iterate(features, rows, source, batch_size):
            moved = batch.to(next(model.parameters()).device)
            parts.append(model.eval().embed(moved))
            assert batch.rows is not None
            order += [where[int(row)] for row in batch.rows]
    whole = concatenate(parts)
    return whole.rows(torch.from_numpy(np.argsort(order)).to(whole.present.device))


def _hold_out(trial: Trial) -> tuple[np.ndarray, np.ndarray | None]:
    """Cut a validation part from the training posts, where early stopping or the user asks for one."""
    part = trial.config.validation
    if part is None and trial.config.stop != "validation":
        return trial.train, None
    if trial.watched is not None and len(trial.watched):
        return trial.train, trial.watched
    fraction = part if isinstance(part, float) else 0.1
    seed = trial.config.seed
    return hold_out(trial.task, trial.targets, trial.train, fraction=fraction, seed=seed, groups=trial.groups)


def _count(trained: Trained, config: FitConfig) -> dict[str, int]:
    counts = trained.model.parameter_counts()
    if config.tune == "joint":
        counts["trained"] = counts["total"]
    elif config.tune != "lora":  # adapters are merged by now
        counts["trained"] = counts["head"]
        for encoder in trained.model.distinct_encoders.values() if config.tune == "top" else ():
            upper = encoder.upper_parameters()
            counts["trained"] += sum(p.numel() for name, p in encoder.model.named_parameters() if name in upper)
    return counts


def svm(trial: Trial) -> Outcome:
    """Fit a support vector machine on the concatenated frozen embeddings.

    A radial kernel with C = 1 and scikit-learn's ``gamma="scale"`` on standardised embeddings (an absent one counts as
    the mean). Of classes, Platt's sigmoid, fitted on five folds of the training posts, makes probabilities; of several
    labels there is one machine for each; numbers are fitted by support vector regression on standardised targets.
    Labels of fields are not used.
    """
    rows = trial.train[trial.task.scored(trial.targets[trial.train])]
    train, test = embeddings(trial.features, rows), embeddings(trial.features, trial.test)
    with np.errstate(invalid="ignore"):
        mean, spread = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    train, test = (np.nan_to_num((table - mean) / spread) for table in (train, test))
    targets, seed = trial.targets[rows], trial.config.seed
    if trial.task.target_type == "continuous":
        found, learned = _regression_machine(train, test, targets)
        return Outcome(found, _with_frozen(trial, learned))
    kernel: Any = "rbf"
    if len(train) + len(test) <= _MOST_DISTANCES:
        kernel = _RadialKernel(np.concatenate([train, test]))
        train, test = np.split(np.arange(len(kernel.posts))[:, None], [len(train)])
    if trial.task.target_type == "multilabel-indicator":
        parts = [_machine(train, test, labels, 2, seed, kernel) for labels in targets.astype(np.int64).T]
        found, learned = np.column_stack([proba[:, 1] for proba, _ in parts]), sum(n for _, n in parts)
    else:
        found, learned = _machine(train, test, targets, len(trial.task.outputs), seed, kernel)
    found = np.pad(found, ((0, 0), (0, trial.task.n_predictions - found.shape[1])), constant_values=np.nan)
    return Outcome(found, _with_frozen(trial, learned))


def _with_frozen(trial: Trial, learned: int) -> dict[str, int]:
    frozen = sum(encoder.n_parameters() for encoder in trial.features.encoders.values())
    return {"head": learned, "trained": learned, "total": frozen + learned}


#: Posts whose distances are kept in memory at most (some 300 MB).
_MOST_DISTANCES = 6000


class _RadialKernel:
    """The radial kernel with scikit-learn's ``gamma="scale"`` between posts that are named by their positions.

    The five folds of Platt's sigmoid, the final fit and the predictions need the distances of the same posts: they are
    computed once, as products of matrices, instead of six times row by row.

    Parameters
    ----------
    posts : ndarray
        Shape (N, width).
    """

    def __init__(self, posts: np.ndarray) -> None:
        from sklearn.metrics.pairwise import euclidean_distances

        self.posts = posts
        self.squared = euclidean_distances(posts, squared=True)

    def __call__(self, some: np.ndarray, fitted: np.ndarray) -> np.ndarray:
        """Return the kernel, shape (len(some), len(fitted)), by the spread of the posts that are fitted."""
        rows, columns = (at[:, 0].astype(np.int64) for at in (some, fitted))
        spread = self.posts[columns].var()
        gamma = 1.0 / (self.posts.shape[1] * spread) if spread else 1.0
        found: np.ndarray = np.exp(-gamma * self.squared[np.ix_(rows, columns)])
        return found

    def __deepcopy__(self, memo: object) -> _RadialKernel:
        return self  # scikit-learn copies what an estimator is given, for each of its fits


def _machine(
    train: np.ndarray, test: np.ndarray, labels: np.ndarray, n_classes: int, seed: int, kernel: Any
) -> tuple[np.ndarray, int]:
    """Return class probabilities of the test posts, and how many numbers the machine holds."""
    from scipy.special import expit
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import StratifiedKFold
    from sklearn.svm import SVC

    proba = np.zeros((len(test), n_classes))
    present = np.unique(labels)
    if len(present) == 1:
        proba[:, present[0]] = 1.0
        return proba, 0
    rarest = int(np.bincount(labels)[present].min())
    machine = SVC(C=1.0, kernel=kernel, gamma="scale", random_state=seed)
    fitted: Any
    if rarest >= 2:
        folds = StratifiedKFold(min(5, rarest), shuffle=True, random_state=seed)
        fitted = CalibratedClassifierCV(machine, method="sigmoid", cv=folds, ensemble=False).fit(train, labels)
        machine = fitted.calibrated_classifiers_[0].estimator
        scores = fitted.predict_proba(test)
    else:
        fitted = machine.fit(train, labels)
        margins = fitted.decision_function(test)
        scores = expit(np.column_stack([-margins, margins]) if margins.ndim == 1 else margins)
        scores /= scores.sum(axis=1, keepdims=True)
    proba[:, fitted.classes_] = scores
    return proba, int(machine.dual_coef_.size + machine.intercept_.size)


def _regression_machine(train: np.ndarray, test: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, int]:
    from sklearn.svm import SVR

    mean, scale = float(targets.mean()), float(targets.std()) or 1.0
    machine = SVR(C=1.0, kernel="rbf", gamma="scale").fit(train, (targets - mean) / scale)
    found = machine.predict(test)[:, None] * scale + mean
    return found, int(machine.dual_coef_.size + machine.intercept_.size)


def embeddings(features: Features, rows: np.ndarray) -> np.ndarray:
    """Return the frozen embeddings of the posts at `rows` side by side; NaN for an absent field.

    Columns of numbers and categories, which no pretrained encoder reads, are taken as they are, categories one-hot.
    """
    names = tuple(features.encoders)
    batch = features.batch(rows, {name: "raw" if features.encoders[name].learned else "pooled" for name in names})
    parts = []
    for column, name in enumerate(names):
        encoder = features.encoders[name]
        here = batch.present[:, column].numpy()
        given = batch.inputs.get(name)
        found = None if given is None else (encoder.plain(given) if encoder.learned else given["pooled"]).numpy()
        width = encoder.plain(encoder.dummy_inputs()).shape[1] if encoder.learned else encoder.dim
        part = np.full((len(rows), width), np.nan)
        if found is not None:
            part[here] = found
        parts.append(part)
    return np.concatenate(parts, axis=1)


def mean_of(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of several models' predictions."""
    result: np.ndarray = np.mean(np.stack(parts), axis=0)
    return result


METHODS.add("svm", Method("SVM on frozen embeddings", run=svm, settings={"fusion": "concat", "tune": "frozen"}))
METHODS.add("image", Method("Image encoder alone", run=fit, settings={"fusion": "image"}, uses=("image",)))
METHODS.add("text", Method("Text encoder alone", run=fit, settings={"fusion": "text"}, uses=("text",)))
METHODS.add("table", Method("Table columns alone", run=fit, settings={"fusion": "table"}, uses=("table",)))
METHODS.add("concat", Method("Both, concatenated", run=fit, settings={"fusion": "concat"}))
METHODS.add("clip", Method("Dual encoder (CLIP)", run=fit, settings={"fusion": "concat"}, encoders="clip"))
METHODS.add("probe", Method("Fusion head on frozen encoders", run=fit, settings={"tune": "frozen"}))
METHODS.add("reference", Method("Joint, the paper's released head", run=fit, settings={"fusion": "reference"}))
METHODS.add("joint", Method("Joint fine-tuning", run=fit))
METHODS.add("ensemble", Method("Mean of text and image models", needs=("text", "image"), combine=mean_of))
