"""Running single cells: the posts, their folds and the features that cells share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from cotune.benchmark.folds import Folds
from cotune.benchmark.methods import METHODS, Method, Task
from cotune.benchmark.plan import Cell, Plan
from cotune.benchmark.records import Record, versions
from cotune.encoders.base import Encoder
from cotune.encoders.resolve import resolve_image, resolve_text
from cotune.encoders.sources.clip import open_dual_encoder
from cotune.errors import CotuneError, EncoderError, RunError
from cotune.fusion import HEADS, make_head
from cotune.model import JointModel
from cotune.progress import Progress
from cotune.settings import FitConfig
from cotune.training.encoder_check import check_encoder
from cotune.training.features import Features
from cotune.training.parameters import cut_for_top
from cotune.training.recipe import cache_root, prepare_posts


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
        Whom to tell of long preparations.
    """

    posts: pd.DataFrame
    folds: Folds
    plan: Plan
    lock: str | None = None
    allow_remote: bool = False
    progress: Progress = field(default_factory=Progress)
    _open: tuple[tuple[str, str], Features] | None = None
    _failed: dict[tuple[str, str], str] = field(default_factory=dict)
    _prints: dict[str, str] = field(default_factory=dict)

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
        task = Task(
            features,
            self.folds.labels,
            self.folds.train(cell.fold, cell.shots, cell.draw),
            test,
            len(self.folds.classes),
            config,
            self.folds.groups if self.plan.protocol == "grouped" else None,
            self.plan.emap if cell.shots is None else 0,
        )
        outcome = method.run(task)
        seconds = time.perf_counter() - ready
        _check(cell, outcome.proba, len(test), len(self.folds.classes))
        return Record(
            cell,
            [str(identity) for identity in self.folds.ids[test]],
            outcome.proba,
            seconds,
            ready - started,
            outcome.parameters,
            outcome.history,
            outcome.emap,
            {name: self._prints[name] for name in method.uses if name in features.encoders},
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
            features = prepare_posts(
                self.posts, encoders, self.plan.fit, allow_remote=self.allow_remote, progress=self.progress
            )
        except CotuneError as fault:
            self._failed[pair] = str(fault)
            raise
        self._prints = {name: encoder.fingerprint() for name, encoder in encoders.items()}
        self._open = (pair, features)
        return features

    def open_encoders(self, pair: tuple[str, str], *, dual: bool = False) -> dict[str, Encoder]:
        """Open a pair of encoders, or the towers of a dual one; those of the posts prepared last are open already."""
        if self._open is not None and self._open[0] == pair:
            return dict(self._open[1].encoders)
        config = self.plan.fit
        encoders: dict[str, Encoder]
        if dual:
            encoders = dict(open_dual_encoder(pair[0], max_tokens=config.max_tokens, crop=config.image_crop))
        else:
            encoders = {
                "text": resolve_text(pair[0], pooling=config.text_pooling, max_tokens=config.max_tokens),
                "image": resolve_image(pair[1], crop=config.image_crop),
            }
        for encoder in encoders.values():  # how it will be trained is asked for each method
            check_encoder(encoder, config.model_copy(update={"tune": "frozen"}), cache_root(config))
        return encoders

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
                    if record.encoders.get(name, encoder.fingerprint()) != encoder.fingerprint():
                        raise RunError(
                            f"the finished cells were computed with other weights of {encoder.spec}; "
                            "give the same encoder or another folder"
                        )

    def _shared(self, pair: tuple[str, str], method: Method, config: FitConfig) -> Features:
        """Prepare features and store what this method reads of them; other workers wait, then find it there."""
        dual = method.encoders == "clip"
        if self.lock is None:
            return _computed(self.features(pair, dual=dual), config)
        with FileLock(self.lock):
            return _computed(self.features(pair, dual=dual), config)


def _computed(features: Features, config: FitConfig) -> Features:
    uses = HEADS[config.fusion].uses
    encoders: dict[str, Any] = {name: features.encoders[name] for name in uses}
    for encoder in encoders.values():
        check_encoder(encoder, config, features.root)
    model = JointModel(encoders.get("text"), encoders.get("image"), make_head("concat", 1, 1, 2))
    if config.tune == "top":
        cut_for_top(model, config)
    try:
        for encoder in encoders.values():
            if encoder.n_lower:
                features.compute(encoder.modality, "hidden", encoder)
            if config.probe_epochs or config.tune == "frozen":
                features.compute(encoder.modality, "pooled", encoder)
    finally:
        for encoder in encoders.values():
            encoder.cut_at(0)
    return features


def _check(cell: Cell, proba: np.ndarray, n: int, n_classes: int) -> None:
    if proba.shape != (n, n_classes):
        raise CotuneError(f"method {cell.method!r} returned the shape {proba.shape}, not {(n, n_classes)}")
    if not np.isfinite(proba).all():
        raise CotuneError(f"method {cell.method!r} returned probabilities that are no numbers; training diverged")
    if proba.min() < 0 or proba.max() > 1 + 1e-6 or not np.allclose(proba.sum(axis=1), 1, atol=1e-3):
        raise CotuneError(
            f"method {cell.method!r} returned scores that are no probabilities (0 to 1, each post's adding up to 1); "
            "apply a softmax to margins or logits"
        )
