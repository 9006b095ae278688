"""Several trainings of one model: members that share prepared posts and caches, and the mean of what they predict.

Members differ by their seeds. Their mean predicts better than each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cotune.encoders.base import Encoder
from cotune.encoders.members import MembersEncoder, share_weights
from cotune.errors import ConfigError
from cotune.heads.members import MeanHead
from cotune.model import JointModel, head_name
from cotune.progress import Progress
from cotune.settings import FitConfig
from cotune.tasks import Task
from cotune.tasks.links import mean_outputs
from cotune.training.callbacks import Callback
from cotune.training.features import Features
from cotune.training.model_rows import output_rows
from cotune.training.trainer import Trained, Trainer
from cotune.training.training_data import TrainingData


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
        For each of ``data.rows`` the part that it is in, from 0, as :func:`cotune.training.distillation.cut_parts`
        cuts them; member i is then trained without part ``i % n_parts``.
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
        own_callbacks = [callback.of_member(i) for callback in callbacks]
        trainer = Trainer(own, task, member_config(config, i), callbacks=own_callbacks, progress=progress)
        yield whole(trainer.fit())


def train_members(data: TrainingData, task: Task, config: FitConfig, k: int, **more: Any) -> list[Trained]:
    """Return `k` trained members; takes what :func:`each_member` takes."""
    return list(each_member(data, task, config, k, **more))


def member_config(config: FitConfig, i: int) -> FitConfig:
    """Return the settings of member `i`: another seed, and one training."""
    seed = (config.seed + i) % 2**32
    return config.model_copy(update={"seed": seed, "members": 1, "distill": False, "soup": False})


def mean_of_members(members: Sequence[Trained], features: Features, rows: np.ndarray) -> np.ndarray:
    """Return the outputs of the mean of the members' probabilities, shape (len(rows), n_outputs).

    ``task.predictions`` makes probabilities of them, as of the outputs of any model.
    """
    found = [output_rows(member.model, features, rows, member.source) for member in members]
    return mean_of(members[0].model.task, found)


def mean_of(task: Task, outputs: Sequence[np.ndarray]) -> np.ndarray:
    """Return outputs of the mean of several models' probabilities, shape (N, n_outputs)."""
    mean: np.ndarray = mean_outputs(task.link, torch.from_numpy(np.stack(outputs))).numpy()
    return mean


def predictions(task: Task, outputs: np.ndarray) -> np.ndarray:
    """Return what a user reads of outputs, shape (N, n_outputs)."""
    found: np.ndarray = task.predictions(torch.from_numpy(outputs)).numpy()
    return found


def whole(trained: Trained) -> Trained:
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
