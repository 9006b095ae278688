"""The stages of training: the probe, which trains the head on frozen embeddings, then joint fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cotune.errors import ConfigError
from cotune.settings import FitConfig
from cotune.training.kept import Source

PROBE = "probe"
#: What each way of tuning reads of the posts.
READS = {"joint": "raw", "lora": "raw", "top": "hidden", "frozen": "pooled"}


@dataclass(frozen=True)
class Stage:
    """What one stage does.

    Attributes
    ----------
    name : str
        ``probe``, or how the encoders are tuned.
    place : int
        Which place it has among all stages, run or not.
    source : mapping
        Where the inputs of each field come from.
    epochs, min_epochs, patience, batch_size, accumulate, ema, frozen_norms
        See :class:`cotune.settings.FitConfig`.
    trained_start : bool
        Whether the weights that it begins with have been trained, and so may be its best.
    """

    name: str
    place: int
    source: Mapping[str, Source]
    epochs: int
    batch_size: int
    min_epochs: int = 1
    patience: int = 1
    accumulate: int = 1
    ema: float = 0.0
    frozen_norms: bool = True
    trained_start: bool = True

    @property
    def doing(self) -> str:
        """What is done in it, for people."""
        return "training the fusion head" if self.name == PROBE else f"fine-tuning, {self.name}"


@dataclass
class StageState:
    """Where a stage stands after an epoch; all that is needed to go on."""

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = -math.inf
    stale: int = 0
    finished: bool = False
    weights: dict[str, Tensor] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    precision: dict[str, Any] = field(default_factory=dict)

    def final_weights(self) -> Mapping[str, Tensor]:
        """Return the weights that the stage ends with: the best ones, else the averaged ones, else the last ones.

        Weights that were never scored by a number are not the best ones.
        """
        best = self.best_weights if math.isfinite(self.best) else {}
        return best or self.average or self.weights


def make_stages(config: FitConfig, sources: Mapping[str, Mapping[str, Source]], *, started: bool) -> list[Stage]:
    """Return the stages in their order.

    Parameters
    ----------
    config : FitConfig
        The settings.
    sources : mapping
        By ``raw``, ``hidden`` and ``pooled``: where each field's inputs come from.
    started : bool
        Whether the head that they begin with has been trained.

    Raises
    ------
    ConfigError
        If there would be none.
    """
    stages = []
    if config.probe_epochs:
        stages.append(
            Stage(
                PROBE,
                0,
                sources["pooled"],
                config.probe_epochs,
                config.probe_batch_size,
                min_epochs=config.probe_epochs,
                trained_start=started,
            )
        )
    if config.tune != "frozen":
        frozen = config.freeze_batch_norm == "yes" or (config.freeze_batch_norm == "auto" and config.batch_size < 64)
        stages.append(
            Stage(
                config.tune,
                1,
                sources[READS[config.tune]],
                config.epochs,
                config.batch_size,
                min_epochs=min(config.min_epochs, config.epochs),
                patience=config.patience,
                accumulate=config.accumulate,
                ema=config.ema,
                frozen_norms=frozen,
                trained_start=started or bool(stages),
            )
        )
    if not stages:
        raise ConfigError("nothing would be trained: --tune frozen needs --probe-epochs of at least 1")
    return stages


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Return the factor on the learning rate: a linear rise over the first part, then a cosine down to zero."""
    rising = max(1, int(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
