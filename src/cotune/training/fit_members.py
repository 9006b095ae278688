"""Train several members, and make one model of them: their mean, a student or a soup, with what each step scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cotune.progress import Progress
from cotune.settings import FitConfig
from cotune.tasks import Task
from cotune.training.callbacks import Callback
from cotune.training.distillation import distilled
from cotune.training.members import joined, mean_of, predictions, train_members
from cotune.training.model_rows import output_rows, predict_rows
from cotune.training.soup import keep_apart, soup, soup_members
from cotune.training.trainer import Trained
from cotune.training.training_data import HeldOut, TrainingData


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
        steps.append(_row(f"mean of {k} members", task, targets, predictions(task, mean_of(task, outputs))))
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
