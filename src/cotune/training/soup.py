"""One model of the averaged weights of several trainings: a greedy soup (Wortsman et al. 2022, "Model soups")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cotune.heads import FusionHead
from cotune.progress import Progress
from cotune.settings import FitConfig
from cotune.tasks import Task
from cotune.training.build import build_model
from cotune.training.callbacks import Callback
from cotune.training.device import one_thread
from cotune.training.features import Features
from cotune.training.held_out_rows import hold_out
from cotune.training.members import member_config, whole
from cotune.training.model_rows import predict_rows
from cotune.training.parameters import set_gradients
from cotune.training.stages import PROBE, StageState
from cotune.training.trainer import Trained, Trainer
from cotune.training.training_data import HeldOut, TrainingData

_KEPT_APART = 0.1


@dataclass
class Soup:
    """A greedy soup.

    Attributes
    ----------
    trained : Trained
        The model with the averaged weights.
    kept : list of int
        The members whose weights are in it, the best first.
    scores : list of float
        Each member's score of the posts that chose.
    score : float
        That of the soup.
    """

    trained: Trained
    kept: list[int]
    scores: list[float]
    score: float


def keep_apart(
    data: TrainingData, task: Task, *, groups: np.ndarray | None = None, seed: int = 0
) -> tuple[TrainingData, HeldOut]:
    """Return the posts to train on and those that choose: the held-out ones, else a tenth that is kept apart."""
    if data.held_out is not None:
        return data, data.held_out
    own = data.own_rows
    train, held = hold_out(task, data.targets, own, fraction=_KEPT_APART, seed=seed, groups=groups)
    further = np.setdiff1d(data.rows, own)
    if groups is not None:
        further = further[~np.isin(groups[further], groups[held])]
    return replace(data, rows=np.concatenate([train, further])), HeldOut(data.features, data.targets, held)


def soup_members(
    data: TrainingData,
    task: Task,
    config: FitConfig,
    k: int,
    *,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
) -> list[Trained]:
    """Return `k` trained members whose weights can be averaged: they begin with the same head, trained by one probe."""
    progress = progress or Progress()
    features, head = _shared_start(data, task, member_config(config, 0), progress)
    data = replace(data, features=features)
    found = []
    for i in range(k):
        progress.begin(f"member {i + 1} of {k}")
        own = member_config(config, i).model_copy(update={"probe_epochs": 0})
        own_callbacks = [callback.of_member(i) for callback in callbacks]
        found.append(whole(Trainer(data, task, own, start=head, callbacks=own_callbacks, progress=progress).fit()))
    return found


def _shared_start(data: TrainingData, task: Task, config: FitConfig, progress: Progress) -> tuple[Features, FusionHead]:
    """Return the posts and the head that all members begin with, after the probe if there is one."""
    if config.probe_epochs:
        trainer = Trainer(data, task, config, progress=progress)
        model = trainer.model
        set_gradients(model, PROBE, config)
        with one_thread(trainer.fabric.device.type == "cpu"):
            trainer.run_stage(trainer.stages[0], StageState())
    else:
        torch.manual_seed(config.seed)
        model = build_model(data.features, task, config, data.rows)
    learned = {name: encoder for name, encoder in model.encoders.items() if encoder.learned}
    return replace(data.features, encoders={**data.features.encoders, **learned}), model.head


def soup(members: Sequence[Trained], task: Task, chosen_on: HeldOut) -> Soup:
    """Average the weights of members greedily, the best first, as long as the score does not fall.

    Parameters
    ----------
    members : sequence of Trained
        Trained from the same start (see :func:`soup_members`). The weights of one of them are replaced.
    task : Task
        What was learned.
    chosen_on : HeldOut
        The posts that are scored; nobody was trained on them.
    """

    def score(one: Trained) -> float:
        found = predict_rows(one.model, task, chosen_on.features, chosen_on.rows, one.source)
        return task.watch(chosen_on.targets[chosen_on.rows], found).value

    scores = [score(member) for member in members]
    order = sorted(range(len(members)), key=lambda i: -scores[i])
    states = [member.model.state_dict() for member in members]
    names = [name for name, tensor in states[0].items() if tensor.is_floating_point() and _differs(name, states)]
    weights = [{name: state[name].detach().clone() for name in names} for state in states]
    best, kept, reached = members[order[0]], [order[0]], scores[order[0]]
    for i in order[1:]:
        _pour(best, [weights[at] for at in (*kept, i)])
        if (found := score(best)) >= reached:
            kept, reached = [*kept, i], found
    _pour(best, [weights[at] for at in kept])
    return Soup(best, kept, scores, reached)


def _differs(name: str, states: Sequence[Mapping[str, Tensor]]) -> bool:
    return any(not torch.equal(state[name], states[0][name]) for state in states[1:])


def _pour(into: Trained, weights: Sequence[Mapping[str, Tensor]]) -> None:
    """Write the mean of some weights into a model."""
    own = into.model.state_dict()
    with torch.no_grad():
        for name in weights[0]:
            own[name].copy_(torch.stack([each[name] for each in weights]).mean(dim=0))
    for encoder in into.model.distinct_encoders.values():
        encoder.weights_changed()
