"""What training may begin with besides pretrained encoders: a trained run, and weights of the posts."""

from __future__ import annotations

from typing import Any

import numpy as np

from cotune.errors import ConfigError, DataError
from cotune.heads.members import MeanHead
from cotune.report.numbers import plural
from cotune.run import Run
from cotune.settings import FitConfig

#: Settings that a run keeps when training goes on from it: they are built into its weights.
STARTED_WITH = ("text_encoder", "image_encoder", "text_pooling", "image_crop", "max_tokens", "normalize_text",
                "fusion", "width", "heads", "dropout", "modality_dropout", "fields", "head_options")  # fmt: skip


def config_to_start(start: Run, config: FitConfig) -> FitConfig:
    """Return the settings for going on from a run.

    Raises
    ------
    ConfigError
        If they ask for other encoders or another head than the run has.
    """
    if isinstance(start.model.head, MeanHead):
        raise ConfigError("the run to start from is the mean of several trainings, which is not trained further")
    if config.members > 1:
        raise ConfigError("members begin with pretrained encoders; train on from a run without --members")
    for name in STARTED_WITH:
        old, new = getattr(start.config, name), getattr(config, name)
        if old != new:
            raise ConfigError(
                f"training on from a run keeps its own {name.replace('_', '-')} ({old}), not {new}; leave that setting "
                "out, or train without a run to start from"
            )
    if start.task.has_rule or config.rule is not None:
        if config.rule not in (None, start.config.rule):
            raise ConfigError(
                f"training on from a run keeps its own rule ({start.config.rule}), not {config.rule}; leave that "
                "setting out, or train without a run to start from"
            )
        config = config.model_copy(update={"rule": start.config.rule})
    return config if config.tune == "frozen" else config.model_copy(update={"probe_epochs": 0})


def checked_weights(weights: Any, n: int) -> np.ndarray:
    """Return the weights of `n` posts as numbers.

    Raises
    ------
    DataError
        If there are not as many, one is negative or no number, or all are zero.
    """
    try:
        found = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("sample_weight must hold a number for every post") from None
    if found.shape != (n,):
        raise DataError(f"sample_weight has the shape {found.shape}, but X holds {plural(n, 'post')}")
    wrong = np.flatnonzero(~np.isfinite(found) | (found < 0))
    if len(wrong):
        raise DataError(f"sample_weight at position {wrong[0]} is {found[wrong[0]]}; weights are numbers from 0 on")
    if not found.any():
        raise DataError("sample_weight is 0 for every post; give at least some posts a weight")
    return found
