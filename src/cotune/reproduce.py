"""A run trained once more from its own record, and compared with itself: weights, figures, predictions, machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cotune.data.also import own_posts
from cotune.data.posts import data_hash
from cotune.decide.calibrate import calibrated
from cotune.errors import RunError
from cotune.files import to_json
from cotune.model import JointModel
from cotune.predict import Predictor
from cotune.progress import Progress
from cotune.report.numbers import plural
from cotune.run import Run, weights_hash
from cotune.settings import FitConfig
from cotune.training.callbacks import Callback
from cotune.training.fit import FitResult, fit_posts
from cotune.training.fit_record import input_hashes

#: Parts of the metrics that a training gives; what else is in them is told of it, or measured later.
_FIGURES = ("posts", "history", "validation", "members", "also", "notes")
_OF_TIME = ("seconds", "posts_per_second")
_NOT_OF_MACHINE = ("created", "command", "seed", "data_hash", "made_from")
_SHOWN = 500


@dataclass(frozen=True)
class Difference:
    """A value that is another one the second time."""

    name: str
    before: Any
    now: Any

    @property
    def by(self) -> float | None:
        """By how much a number differs."""
        numbers = isinstance(self.before, int | float) and isinstance(self.now, int | float)
        return abs(self.now - self.before) if numbers else None


@dataclass(frozen=True)
class Compared:
    """How tensors or predictions compare, number by number.

    Attributes
    ----------
    n, differ : int
        How many numbers there are, and how many differ in any bit.
    largest : float
        The largest absolute difference.
    where : str
        What has it.
    """

    n: int
    differ: int = 0
    largest: float = 0.0
    where: str = ""


@dataclass
class Reproduction:
    """What training a run once more gave.

    Attributes
    ----------
    hashes : tuple of str
        Of the weights, before and now.
    weights : Compared
        All weights.
    predictions : Compared
        Those of `scored`.
    scored : str
        Which posts were predicted by both.
    labels : int
        How many of them got another label.
    figures : list of Difference
        Figures of the training and of its held-out posts.
    environment : list of Difference
        Versions, machine, threads, number format, devices, pretrained weights.
    run : Run
        The new one.
    """

    hashes: tuple[str, str]
    weights: Compared
    predictions: Compared
    scored: str
    labels: int
    figures: list[Difference]
    environment: list[Difference]
    run: Run = field(repr=False)

    @property
    def same(self) -> bool:
        """Whether all is the same, bit by bit."""
        return not (self.weights.differ or self.predictions.differ or self.figures)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the run as plain values."""
        differences = {
            name: [{**asdict(each), "by": each.by} for each in getattr(self, name)]
            for name in ("figures", "environment")
        }
        return {
            "same": self.same,
            "weights": {"hash_before": self.hashes[0], "hash_now": self.hashes[1], **asdict(self.weights)},
            "predictions": {"of": self.scored, **asdict(self.predictions), "labels": self.labels},
            **differences,
        }


def reproduce(
    run: Run,
    posts: pd.DataFrame,
    config: FitConfig,
    *,
    name: str,
    validation_posts: pd.DataFrame | None = None,
    start: Run | None = None,
    allow_remote: bool = False,
    progress: Progress | None = None,
) -> tuple[Reproduction, FitResult]:
    """Train a run once more and compare.

    Parameters
    ----------
    run : Run
        What is repeated; it is not changed.
    posts, config, validation_posts, start, allow_remote, progress
        As for :func:`cotune.training.fit.fit_posts`; the settings are those of the run.
    name : str
        What to call the run in messages.

    Raises
    ------
    RunError
        If the run is unfinished, or the posts, or what else went into it, are not those that it was made of.
    """
    progress = progress or Progress()
    refuse_unfinished(run, name)
    _refuse_other_posts(run, posts, name)
    made = run.environment.get("made_from") or {}
    threads = torch.get_num_threads()
    if isinstance(recorded := run.environment.get("threads"), int) and recorded > 0:
        torch.set_num_threads(recorded)  # sums depend on how they are divided
    try:
        result = fit_posts(
            posts, config, validation_posts=validation_posts, start=start, allow_remote=allow_remote,
            callbacks=[_SameInputs(made.get("hashes"), name)], progress=progress,
        )  # fmt: skip
        if result.interrupted:
            raise KeyboardInterrupt
        return compare(run, result, posts, progress), result
    finally:
        torch.set_num_threads(threads)


def refuse_unfinished(run: Run, name: str) -> None:
    """Refuse a run that was stopped: when, no record tells."""
    if run.metrics.get("status") == "interrupted":
        raise RunError(f"{name} was stopped before its end; finish it with `cotune fit ... --resume` first")


def compare(run: Run, result: FitResult, posts: pd.DataFrame, progress: Progress) -> Reproduction:
    """Compare a run with what a second training gave; predictions are those of held-out posts, if there are any."""
    new = result.run
    if result.held_out is not None:
        shown, scored = result.held_out[0], plural(len(result.held_out[0]), "held-out post")
    else:
        shown = own_posts(posts).head(_SHOWN)
        scored = plural(len(shown), "training post")
    before, now = ({key: t.detach().cpu() for key, t in one.model.state_dict().items()} for one in (run, new))
    weights = _tensors(before, now)
    hashes = (weights_hash(run.model), weights_hash(new.model))
    progress.begin(f"predicting {scored} by both")
    device = run.config.device
    trained = _as_trained(run)
    if trained is not run:  # by labelled posts that are not in its record
        scored += ", without the temperature that it was given afterwards"
    one, other = (Predictor(each, device=device).scores(shown).predictions for each in (trained, new))
    known = ~np.isnan(one[:, 0]) & ~np.isnan(other[:, 0])
    labels = [np.asarray(trained.task.decode(found[known]), dtype=object) for found in (one, other)]
    return Reproduction(
        hashes,
        weights,
        _tensors({"predictions": torch.from_numpy(one)}, {"predictions": torch.from_numpy(other)}),
        scored,
        int((labels[0] != labels[1]).sum()) if known.any() else 0,
        list(_differences(_figures(run.metrics), _figures(new.metrics))),
        list(_differences(_machine(run.environment), _machine(new.environment))),
        new,
    )


def _as_trained(run: Run) -> Run:
    """Return a run without a temperature that ``cotune calibrate`` gave it."""
    if getattr(run.task, "temperature", 1.0) == 1.0:
        return run
    model = JointModel(run.model.encoders, run.model.head, calibrated(run.task, 1.0))
    return replace(run, model=model.train(run.model.training))


class _SameInputs(Callback):
    """Ends a training before it begins if what goes into it is not what the record has hashes of."""

    def __init__(self, hashes: Mapping[str, Any] | None, name: str) -> None:
        self.hashes, self.name = hashes, name

    def on_begin(self, key: Mapping[str, Any]) -> None:
        """Compare the hashes of all that a training is made of but its settings."""
        if self.hashes is None:
            return
        before, now = _by_short_name(self.hashes), _by_short_name(input_hashes(key))
        for what in sorted(before.keys() | now.keys()):
            if before.get(what) != now.get(what):
                if what not in now:
                    raise RunError(f"{self.name} was made with {what}, which a posts table does not have")
                raise RunError(f"{what}: not what {self.name} was made of (the hash differs); restore it as it was")


def _by_short_name(hashes: Mapping[str, Any]) -> dict[str, Any]:
    """Return hashes by names in which the folder of a table does not count."""
    return {f"posts of {Path(n[9:]).name}" if n.startswith("posts of ") else n: value for n, value in hashes.items()}


def _refuse_other_posts(run: Run, posts: pd.DataFrame, name: str) -> None:
    recorded = run.environment.get("data_hash")
    if recorded is None:
        raise RunError(f"{name} has no hash of its posts, so that nothing shows that these are the same")
    found = data_hash(own_posts(posts), run.fields)
    if found != recorded:
        raise RunError(
            f"these are not the posts that {name} was trained on (their hash is {found[:12]}..., recorded is "
            f"{recorded[:12]}...): a row, a label or an image is another one; --posts names another table"
        )


def _tensors(before: Mapping[str, torch.Tensor], now: Mapping[str, torch.Tensor]) -> Compared:
    n = differ = 0
    largest, where = 0.0, ""
    for name in sorted(before.keys() | now.keys()):
        one, other = before.get(name), now.get(name)
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            size = (other if one is None else one).numel()  # type: ignore[union-attr]
            n, differ, largest, where = n + size, differ + size, float("inf"), name
            continue
        n += one.numel()
        unlike = (one != other) & ~(torch.isnan(one) & torch.isnan(other)) if one.is_floating_point() else one != other
        if count := int(unlike.sum()):
            differ += count
            gap = float((one.double() - other.double()).abs().nan_to_num(nan=float("inf")).max())
            largest, where = max((largest, where), (gap, name))
    return Compared(n, differ, largest, where)


def _figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    found = json.loads(to_json({name: metrics[name] for name in _FIGURES if name in metrics}))
    for row in found.get("also", []):
        row["table"] = Path(row["table"]).name
    return dict(_flat(found))


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in environment.items() if name not in _NOT_OF_MACHINE}
    found["devices"] = found.get("devices", 1)
    found["precision"] = str(found.get("precision", "32")).partition(" ")[0]  # without the reason
    encoders = (environment.get("made_from") or {}).get("encoders", {})
    return dict(_flat({**found, **{f"pretrained weights of {name}": mark for name, mark in encoders.items()}}))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key not in _OF_TIME:
                yield from _flat(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for at, item in enumerate(value, 1):
            yield from _flat(item, f"{name}[{at}]")
    else:
        yield name, value


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys([*before, *now]):
        if before.get(name) != now.get(name):
            yield Difference(name, before.get(name), now.get(name))
