"""Several trainings of one model: members that share prepared posts and caches, and what is made of them.

Members differ by their seeds. Their mean predicts better than each of them; a student learns from what they predict of
posts that they were not trained on (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", cross-fitted);
a greedy soup averages their weights (Wortsman et al. 2022, "Model soups").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cotune.data.splits import make_folds
from cotune.encoders.base import Encoder
from cotune.encoders.members import MembersEncoder, share_weights
from cotune.errors import ConfigError
from cotune.heads import FusionHead
from cotune.heads.members import MeanHead
from cotune.model import JointModel, head_name
from cotune.progress import Progress
from cotune.settings import FitConfig
from cotune.tasks import Task
from cotune.tasks.links import mean_outputs, probabilities
from cotune.training.build import build_model
from cotune.training.callbacks import Callback
from cotune.training.device import one_thread
from cotune.training.features import Features
from cotune.training.held_out_rows import hold_out
from cotune.training.parameters import set_gradients
from cotune.training.stages import PROBE, StageState
from cotune.training.trainer import HeldOut, Trained, Trainer, TrainingData, output_rows, predict_rows

#: Parts that posts are cut into for a student at most: each member is trained without one of them.
MOST_PARTS = 5
_KEPT_APART = 0.1


def each_member(
    data: TrainingData,
    task: Task,
    config: FitConfig,
    k: int,
    *,
    parts: np.ndarray | None = None,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
) -> Iterator[Trained]:
    """Train `k` members one after the other, and yield each; number i has the seed ``config.seed + i``.

    Parameters
    ----------
    data : TrainingData
        The posts, prepared once for all members.
    task : Task
        What is learned.
    config : FitConfig
        The settings of each training.
    k : int
        How many members.
    parts : ndarray of int, optional
        For each of ``data.rows`` the part that it is in, from 0 (see :func:`cut_parts`); member i is then trained
        without part ``i % n_parts``.
    callbacks : sequence of Callback
        Told of each member's epochs (see :meth:`~cotune.training.callbacks.Callback.of_member`).
    progress : Progress, optional
        Progress reporter.

    Raises
    ------
    KeyboardInterrupt
        If the user stops it: members are of use together alone.
    """
    if k < 1:
        raise ConfigError(f"the number of members must be at least 1, not {k}")
    progress = progress or Progress()
    for i in range(k):
        progress.begin(f"member {i + 1} of {k}")
        own = data if parts is None else replace(data, rows=data.rows[parts != i % (parts.max() + 1)])
        told = [callback.of_member(i) for callback in callbacks]
        trainer = Trainer(own, task, member_config(config, i), callbacks=told, progress=progress)
        yield _whole(trainer.fit())


def train_members(data: TrainingData, task: Task, config: FitConfig, k: int, **more: Any) -> list[Trained]:
    """Return `k` trained members; takes what :func:`each_member` takes."""
    return list(each_member(data, task, config, k, **more))


def member_config(config: FitConfig, i: int) -> FitConfig:
    """Return the settings of member `i`: another seed, and one training."""
    seed = (config.seed + i) % 2**32
    return config.model_copy(update={"seed": seed, "members": 1, "distill": False, "soup": False})


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


def mean_of_members(members: Sequence[Trained], features: Features, rows: np.ndarray) -> np.ndarray:
    """Return the outputs of the mean of the members' probabilities, shape (len(rows), n_outputs).

    ``task.predictions`` makes probabilities of them, as of the outputs of any model.
    """
    found = [output_rows(member.model, features, rows, member.source) for member in members]
    return _mean(members[0].model.task, found)


def _mean(task: Task, outputs: Sequence[np.ndarray]) -> np.ndarray:
    mean: np.ndarray = mean_outputs(task.link, torch.from_numpy(np.stack(outputs))).numpy()
    return mean


def predictions(task: Task, outputs: np.ndarray) -> np.ndarray:
    """Return what a user reads of outputs, shape (N, n_outputs)."""
    found: np.ndarray = task.predictions(torch.from_numpy(outputs)).numpy()
    return found


@dataclass
class Taught:
    """What cross-fitted members predict.

    Attributes
    ----------
    taught : ndarray
        Probabilities of every training post by the members that were not trained on it, shape (N, n_outputs); NaN for
        posts that are not trained on. For :class:`~cotune.training.trainer.TrainingData`.
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
            result.outputs[data.rows[parts == part]] = _mean(task, own)
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


# ---- soup --------------------------------------------------------------------------------------------


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
        told = [callback.of_member(i) for callback in callbacks]
        found.append(_whole(Trainer(data, task, own, start=head, callbacks=told, progress=progress).fit()))
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


def _whole(trained: Trained) -> Trained:
    """Return a member that was trained to its end; a stop in the middle ends all of them."""
    if trained.interrupted:
        raise KeyboardInterrupt
    return trained


# ---- one model of all of them ------------------------------------------------------------------------


def joined(members: Sequence[Trained], config: FitConfig) -> Trained:
    """Return one model that predicts the mean of the members' probabilities; the members are used up.

    Its encoders are the members' side by side; what no member has trained is kept, and run, once.
    """
    models = [member.model for member in members]
    first = models[0]
    made: dict[str, Encoder] = {}
    for name in first.distinct_encoders:
        made[name] = _side_by_side([model.encoders[name] for model in models], config)
    owner = {id(first.encoders[name]): name for name in made}
    encoders = {name: made[owner[id(encoder)]] for name, encoder in first.encoders.items()}
    dims = {name: encoder.dim for name, encoder in encoders.items()}
    heads = [model.head for model in models]
    head = MeanHead(heads, dims, name=head_name(first.head), link=first.task.link)
    model = JointModel(encoders, head.to(next(first.parameters()).device), first.task)
    return Trained(model.requires_grad_(False).eval(), members[0].history, members[0].source)


def _side_by_side(encoders: Sequence[Encoder], config: FitConfig) -> Encoder:
    first = encoders[0]
    if first.learned or config.tune in ("joint", "lora"):
        return MembersEncoder(encoders)
    if config.tune == "frozen":
        return first
    upper = first.upper_parameters()
    share_weights(encoders, [name for name, _ in first.model.named_parameters() if name not in upper])
    return MembersEncoder(encoders, first.n_lower)


def fit_members(
    data: TrainingData,
    task: Task,
    config: FitConfig,
    *,
    groups: np.ndarray | None = None,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
) -> tuple[Trained, dict[str, Any]]:
    """Train as ``members``, ``distill`` and ``soup`` say.

    Returns
    -------
    trained : Trained
        The model of the run: the mean of the members, a student or a soup.
    about : dict
        For the run's metrics: how it was made, and what each step scores on held-out posts.
    """
    progress = progress or Progress()
    more: dict[str, Any] = {"callbacks": callbacks, "progress": progress}
    k, held = config.members, data.held_out
    about: dict[str, Any] = {"count": k, "score": task.main_title, "loss": task.loss_title}
    if config.distill:
        trained, taught = distilled(data, task, config, k, groups=groups, **more)
        rows = data.own_rows
        out_of_fold = predictions(task, taught.outputs[rows])
        about |= {
            "made": "student",
            "out_of_fold": _row("members, out of fold", task, data.targets[rows], out_of_fold),
        }
        outputs = taught.held_out
    elif config.soup:
        data, chosen_on = keep_apart(data, task, groups=groups, seed=config.seed)
        members = soup_members(data, task, config, k, **more)
        outputs = [_held(member, chosen_on) for member in members]
        found = soup(members, task, chosen_on)
        trained = found.trained
        about |= {"made": "soup", "kept": [i + 1 for i in found.kept], "chosen_on": len(chosen_on.rows)}
        held = chosen_on
    else:
        members = train_members(data, task, config, k, **more)
        outputs = [] if held is None else [_held(member, held) for member in members]
        trained = joined(members, config)
        about |= {"made": "mean"}
    if held is not None:
        targets = held.targets[held.rows]
        alone = [_row("", task, targets, predictions(task, one)) for one in outputs]
        steps = [{"what": f"one member, mean of {k}", **_mean_row(alone)}]
        steps.append(_row(f"mean of {k} members", task, targets, predictions(task, _mean(task, outputs))))
        if about["made"] != "mean":
            own = predict_rows(trained.model, task, held.features, held.rows, trained.source)
            steps.append(_row(about["made"], task, targets, own))
        about |= {"held_out": len(held.rows), "steps": steps}
    return trained, about


def _held(member: Trained, held: HeldOut) -> np.ndarray:
    return output_rows(member.model, held.features, held.rows, member.source)


def _row(what: str, task: Task, targets: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    known = task.scored(targets)
    watched = task.watch(targets[known], found[known])
    return {"what": what, "score": watched.score, "loss": watched.loss}


def _mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns = {name: [row[name] for row in rows if row[name] is not None] for name in ("score", "loss")}
    return {name: float(np.mean(values)) if values else None for name, values in columns.items()}
