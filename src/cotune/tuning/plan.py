"""What a search is: the settings it begins from, what it tries, how posts are cut and trials given up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from cotune.errors import ConfigError, did_you_mean
from cotune.settings import FitConfig
from cotune.tuning.space import Space

Pruner = Literal["median", "hyperband", "none"]
VALIDATION = 0.2


@dataclass(frozen=True)
class TunePlan:
    """A search.

    Attributes
    ----------
    fit : FitConfig
        The settings that the search begins from: the defaults, or what a user asks for. ``validation`` is the part of
        the posts, without the test part, that trials are scored on; a fifth if it is not set.
    space : Space or None
        What is searched; None for the space that comes with cotune for ``fit.tune``.
    trials : int
        How many trials are to be finished, pruned ones included.
    test : float
        Part of the posts that no trial sees.
    pruner : {"median", "hyperband", "none"}
        What gives up trials that do badly in their first epochs.
    seeds : tuple of int
        Seeds of the trainings that are compared on the test part; by default that of `fit` alone.
    bootstrap : int
        Resamples of the test posts for intervals and the test.
    """

    fit: FitConfig = field(default_factory=FitConfig)
    space: Space | None = None
    trials: int = 30
    test: float = 0.2
    pruner: Pruner = "median"
    seeds: tuple[int, ...] = ()
    bootstrap: int = 2000

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ConfigError(f"--trials must be at least 1, not {self.trials}")
        if not 0 < self.test < 1:
            raise ConfigError(f"--test is a fraction between 0 and 1, not {self.test:g}")
        if self.pruner not in get_args(Pruner):
            raise ConfigError(f"--pruner is median, hyperband or none, not {self.pruner!r}"
                              f"{did_you_mean(self.pruner, get_args(Pruner))}")  # fmt: skip
        if isinstance(self.fit.validation, str):
            raise ConfigError("a search cuts its validation posts from the table; give --validation a part such as 0.2")
        if self.fit.also:
            raise ConfigError("a search trains on its own posts alone; leave `also` out, and fit with what it finds")
        if self.fit.tune == "frozen" and not self.fit.probe_epochs:
            raise ConfigError("nothing would be trained with --tune frozen and --set probe-epochs=0")

    @property
    def validation(self) -> float:
        """The part of the posts, without the test part, that trials are scored on."""
        return self.fit.validation if isinstance(self.fit.validation, float) else VALIDATION

    @property
    def start(self) -> FitConfig:
        """The settings that every trial begins from; which posts are held out is not theirs to say."""
        return self.fit.model_copy(update={"validation": None})

    @property
    def compared_seeds(self) -> tuple[int, ...]:
        """The seeds of the trainings that are compared on the test part."""
        return self.seeds or (self.fit.seed,)
