"""A look at a task of another package before anything is trained for it: what fails late costs the whole training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from cotune.errors import ConfigError, CotuneError, first_line
from cotune.plugins import is_own
from cotune.settings import FitConfig
from cotune.tasks import Task
from cotune.tasks.losses import Loss

T = TypeVar("T")
_POSTS = 4


def check_task(task: Task, labels: Sequence[Any], config: FitConfig) -> None:
    """Refuse a task whose targets, loss, predictions or answers are not what training and predicting expect.

    Parameters
    ----------
    task : Task
        One of another package; cotune's own are not looked at.
    labels : sequence
        Labels of posts to train on; those that the task cannot read are left out.
    config : FitConfig
        The settings.

    Raises
    ------
    ConfigError
        Naming the method at fault.
    """
    if is_own(task):
        return
    known = _try(task, "problem", lambda: [x for x in labels if isinstance(x, str) and task.problem(x) is None])
    some = known[:_POSTS]
    targets = _try(task, "encode", lambda: task.encode(some))
    _expect(task, "encode", len(targets), len(some), "target")
    outputs = torch.zeros(len(some), task.n_outputs, requires_grad=True)
    loss = _try(task, "loss", lambda: task.loss(config, targets))
    if not isinstance(loss, Loss):
        raise _wrong(task, "loss", f"returned {type(loss).__name__}, expected a cotune.tasks.losses.Loss")
    value = _try(task, "loss", lambda: loss(outputs, torch.from_numpy(targets)))
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise _wrong(task, "loss", "returned a loss that is no tensor of one number with a gradient")
    predictions = _try(task, "predictions", lambda: task.predictions(outputs.detach()))
    wanted = (len(some), task.n_predictions)
    if not isinstance(predictions, Tensor) or tuple(predictions.shape) != wanted:
        shape = tuple(predictions.shape) if isinstance(predictions, Tensor) else type(predictions).__name__
        raise _wrong(task, "predictions", f"returned {shape}, expected a tensor of shape {wanted}")
    answers = _try(task, "decode", lambda: task.decode(predictions.double().numpy()))
    _expect(task, "decode", len(answers), len(some), "label")


def _try(task: Task, method: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except CotuneError:
        raise
    except Exception as error:
        raise _wrong(task, method, f"raised {type(error).__name__}: {first_line(error)}") from error


def _expect(task: Task, method: str, found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise _wrong(task, method, f"returned {found:,} {what}s for {wanted} posts")


def _wrong(task: Task, method: str, problem: str) -> ConfigError:
    return ConfigError(f"{method}() of the task {task.name!r} ({type(task).__module__}) {problem}; correct the plugin")
