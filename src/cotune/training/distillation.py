"""A student of the usual size that learns from what several members predict of posts that they were not trained on.

Hinton et al. (2015), "Distilling the Knowledge in a Neural Network", cross-fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from cotune.data.splits import make_folds
from cotune.errors import ConfigError
from cotune.progress import Progress
from cotune.settings import FitConfig
from cotune.tasks import Task
from cotune.tasks.links import probabilities
from cotune.training.callbacks import Callback
from cotune.training.members import each_member, mean_of, member_config
from cotune.training.model_rows import output_rows
from cotune.training.trainer import Trained, Trainer
from cotune.training.training_data import TrainingData

#: Parts that posts are cut into at most: each member is trained without one of them.
MOST_PARTS = 5


def cut_parts(data: TrainingData, task: Task, k: int, *, groups: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Return the part of each training post, shape (len(data.rows),), from 0 to ``min(k, 5) - 1``.

    Parameters
    ----------
    data : TrainingData
        The posts; parts are stratified as folds are.
    task : Task
        What is learned.
    k : int
        How many members there will be, at least 2.
    groups : ndarray, optional
        A group for each post of ``data.features``; each is kept together.
    seed : int
        Of the shuffle.
    """
    if k < 2:
        raise ConfigError(f"to predict posts that a member was not trained on takes at least 2 members, not {k}")
    strata = np.asarray(task.strata(data.targets)[data.rows], dtype=np.int64)
    folds = make_folds(
        strata,
        n_folds=min(k, MOST_PARTS),
        protocol="paper" if groups is None else "grouped",
        seed=seed,
        groups=None if groups is None else groups[data.rows],
    )
    parts = np.zeros(len(data.rows), dtype=np.int64)
    for i, fold in enumerate(folds):
        parts[fold] = i
    return parts


@dataclass
class Taught:
    """What cross-fitted members predict.

    Attributes
    ----------
    taught : ndarray
        Probabilities of every training post by the members that were not trained on it, shape (N, n_outputs); NaN for
        posts that are not trained on. For :class:`~cotune.training.training_data.TrainingData`.
    outputs : ndarray
        The same as outputs.
    held_out : list of ndarray
        Outputs of each member for the held-out posts, if there are any.
    histories : list
        The members' histories.
    """

    taught: np.ndarray
    outputs: np.ndarray
    held_out: list[np.ndarray] = field(default_factory=list)
    histories: list[list[dict[str, Any]]] = field(default_factory=list)


def out_of_fold_taught(members: Iterable[Trained], parts: np.ndarray, data: TrainingData, task: Task) -> Taught:
    """Return what members that were trained without a part each predict of it; of several such, their mean.

    Parameters
    ----------
    members : iterable of Trained
        In their order, such as :func:`each_member` yields them; each is let go of once it has predicted.
    parts : ndarray of int
        What they were trained with.
    data : TrainingData
        What they were trained on parts of.
    task : Task
        What is learned.
    """
    n_parts = int(parts.max()) + 1
    found: list[list[np.ndarray]] = [[] for _ in range(n_parts)]
    nothing = np.full((len(data.targets), task.n_outputs), np.nan)
    result = Taught(nothing, nothing.copy())
    for i, member in enumerate(members):
        apart = data.rows[parts == i % n_parts]
        found[i % n_parts].append(output_rows(member.model, data.features, apart, member.source))
        result.histories.append(member.history)
        if data.held_out is not None:
            held = data.held_out
            result.held_out.append(output_rows(member.model, held.features, held.rows, member.source))
    for part, own in enumerate(found):
        if own:
            result.outputs[data.rows[parts == part]] = mean_of(task, own)
    known = np.isfinite(result.outputs).all(axis=1)
    result.taught[known] = probabilities(task.link, torch.from_numpy(result.outputs[known])).numpy()
    return result


def distilled(
    data: TrainingData,
    task: Task,
    config: FitConfig,
    k: int,
    *,
    groups: np.ndarray | None = None,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
) -> tuple[Trained, Taught]:
    """Return a student of the usual size, and what `k` cross-fitted members taught it; takes what they take.

    The student is trained on all training posts; ``config.distill_weight`` is the part of its loss that is against
    the members' probabilities. Held-out posts teach nobody.
    """
    progress = progress or Progress()
    parts = cut_parts(data, task, k, groups=groups, seed=config.seed)
    members = each_member(data, task, config, k, parts=parts, callbacks=callbacks, progress=progress)
    taught = out_of_fold_taught(members, parts, data, task)
    progress.begin("the student")
    return student(data, task, config, taught.taught, callbacks=callbacks, progress=progress), taught


def student(
    data: TrainingData,
    task: Task,
    config: FitConfig,
    taught: np.ndarray,
    *,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
) -> Trained:
    """Return a model of the usual size, trained on the targets and on probabilities of shape (N, n_outputs)."""
    own = replace(data, taught=taught)
    return Trainer(own, task, member_config(config, 0), callbacks=callbacks, progress=progress).fit()
