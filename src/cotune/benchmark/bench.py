"""Running single cells: the posts, their folds and the features that cells share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from filelock import FileLock

from cotune.benchmark.folds import Folds
from cotune.benchmark.methods import METHODS, Method, Trial
from cotune.benchmark.plan import Cell, Plan
from cotune.benchmark.records import Record, versions
from cotune.encoders.base import Encoder
from cotune.errors import CotuneError, EncoderError, RunError
from cotune.heads import HEADS
from cotune.progress import Progress
from cotune.settings import FitConfig
from cotune.tasks import Task
from cotune.training.build import cache_root, open_encoders, prepare_posts, read_options
from cotune.training.encoder_check import check_encoder
from cotune.training.features import Features
from cotune.training.parameters import lower_units


@dataclass
class Bench:
    """Runs cells; what is computed of a pair of encoders is kept until another pair is asked for.

    Attributes
    ----------
    posts : DataFrame
        The posts that are used, in the order of `folds`.
    folds : Folds
        How they are cut.
    plan : Plan
        What is measured.
    lock : str, optional
        A lock file; workers that hold it compute what all of them share.
    progress : Progress
        Progress reporter, told of long preparations.
    given : mapping, optional
        Encoders by field to use in the place of any pair, instead of opening it by its names.
    """

    posts: pd.DataFrame
    folds: Folds
    plan: Plan
    lock: str | None = None
    allow_remote: bool = False
    progress: Progress = field(default_factory=Progress)
    given: Mapping[str, Encoder] | None = None
    _open: tuple[tuple[str, str], Features] | None = None
    _failed: dict[tuple[str, str], str] = field(default_factory=dict)
    _prints: dict[str, str] = field(default_factory=dict)
    _learned: np.ndarray | None = None

    def __post_init__(self) -> None:
        self._learned = self.folds.learned()

    def run(self, cell: Cell) -> Record:
        """Train and score one cell.

        Raises
        ------
        CotuneError
            If an encoder cannot be opened or the method cannot be trained.
        """
        method = METHODS[cell.method]
        assert method.run is not None
        config = method.configure(self.plan.fit).model_copy(update={"seed": cell.seed})
        started = time.perf_counter()
        features = self._shared(self.plan.encoders_of(cell), method, config)
        ready = time.perf_counter()
        test = self.folds.test(cell.fold)
        folds = self.folds
        trial = Trial(
            features,
            folds.targets,
            folds.train(cell.fold, cell.shots, cell.draw),
            test,
            folds.task,
            config,
            None if self.plan.protocol == "paper" else folds.groups,
            self.plan.emap if cell.shots is None else 0,
            folds.watched(cell.fold),
            self._learned,
        )
        outcome = method.run(trial)
        seconds = time.perf_counter() - ready
        _check(cell, outcome.predictions, len(test), folds.task)
        return Record(
            cell,
            [str(identity) for identity in folds.ids[test]],
            outcome.predictions,
            seconds,
            ready - started,
            outcome.parameters,
            outcome.history,
            outcome.emap,
            {name: mark for name, mark in self._prints.items() if method.reads(features.encoders[name].modality)},
            versions(),
        )

    def features(self, pair: tuple[str, str], *, dual: bool = False) -> Features:
        """Return the prepared posts of a pair of encoders; a pair that failed once fails at once."""
        if self._open is not None and self._open[0] == pair:
            return self._open[1]
        if pair in self._failed:
            raise EncoderError(self._failed[pair])
        self._open = None
        try:
            encoders = self.open_encoders(pair, dual=dual)
            options = read_options(self.plan.fit, allow_remote=self.allow_remote, progress=self.progress)
            features = prepare_posts(self.posts, encoders, self.plan.fit, options)
        except CotuneError as fault:
            self._failed[pair] = str(fault)
            raise
        self._prints = {name: encoder.fingerprint() for name, encoder in encoders.items() if not encoder.learned}
        self._open = (pair, features)
        return features

    def open_encoders(self, pair: tuple[str, str], *, dual: bool = False) -> dict[str, Encoder]:
        """Open a pair of encoders, or the towers of a dual one; those of the posts prepared last are open already."""
        if self.given is not None:
            return dict(self.given)
        if self._open is not None and self._open[0] == pair:
            return dict(self._open[1].encoders)
        text, image = (f"clip:{spec}" if dual else spec for spec in pair)
        wanted = self.plan.fit.model_copy(update={"text_encoder": text, "image_encoder": image})
        return open_encoders(reading_all(wanted), self.posts)

    def refuse_other_weights(self, found: Sequence[Record], needed: AbstractSet[tuple[str, str]]) -> None:
        """Refuse finished cells that were computed with other weights than those that now go by the same name.

        Of several pairs only the `needed` ones are opened. What cannot be opened fails its own cells later.

        Raises
        ------
        RunError
            If the fingerprint of an encoder is not that of a finished cell.
        """
        seen = set()
        for record in found:
            method, pair = METHODS[record.cell.method], self.plan.encoders_of(record.cell)
            key = (pair, method.encoders, method.uses)
            if not method.run or key in seen or (len(self.plan.pairs) > 1 and pair not in needed):
                continue
            seen.add(key)
            with suppress(EncoderError):
                for name, encoder in self.open_encoders(pair, dual=method.encoders == "clip").items():
                    if (
                        not encoder.learned
                        and record.encoders.get(name, encoder.fingerprint()) != encoder.fingerprint()
                    ):
                        raise RunError(
                            f"the finished cells were computed with other weights of {encoder.spec}; "
                            "give the same encoder or another folder"
                        )

    def _shared(self, pair: tuple[str, str], method: Method, config: FitConfig) -> Features:
        """Prepare features and store what this method reads of them; other workers wait, then find it there."""
        dual = method.encoders == "clip"
        if self.lock is None:
            return computed(self.features(pair, dual=dual), config)
        with FileLock(self.lock):
            return computed(self.features(pair, dual=dual), config)


def reading_all(config: FitConfig) -> FitConfig:
    """Return settings by which the encoders of all fields are opened, whichever head reads them and however tuned."""
    return config.model_copy(update={"fusion": "concat", "tune": "frozen", "head_options": {}})


def computed(features: Features, config: FitConfig) -> Features:
    """Return the features, with all stored that a training with these settings reads of the pretrained encoders."""
    kinds = {field.name: field.kind for field in config.read_fields()}
    names = [name for name in HEADS[config.fusion].reads(kinds) if not features.encoders[name].learned]
    encoders = {name: features.encoders[name] for name in names}
    for encoder in encoders.values():
        check_encoder(encoder, config, cache_root(config))
        if config.tune == "top":
            encoder.cut_at(lower_units(encoder, config))
    try:
        for name, encoder in encoders.items():
            if encoder.n_lower:
                features.compute(name, "hidden", encoder)
            if config.probe_epochs or config.tune == "frozen":
                features.compute(name, "pooled", encoder)
    finally:
        for encoder in encoders.values():
            encoder.cut_at(0)
    return features


def _check(cell: Cell, found: np.ndarray, n: int, task: Task) -> None:
    if found.shape != (n, task.n_predictions):
        raise CotuneError(f"method {cell.method!r} returned the shape {found.shape}, not {(n, task.n_predictions)}")
    if not np.isfinite(task.of_classes(found)).all():
        raise CotuneError(f"method {cell.method!r} returned predictions that are no numbers; training diverged")
    problem = task.check_predictions(found)
    if problem is not None:
        raise CotuneError(f"method {cell.method!r} returned {problem}")
