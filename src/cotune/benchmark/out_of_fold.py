"""Predictions of every post by a head that was trained without it: the probe, cross-validated on a run's encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cotune.benchmark.bench import Bench
from cotune.benchmark.folds import Folds, cut_posts, posts_of, told_left_out
from cotune.benchmark.plan import Plan
from cotune.encoders.base import Encoder
from cotune.errors import CotuneError, DataError
from cotune.hub import cache_alone
from cotune.progress import Progress
from cotune.run import Run
from cotune.settings import FitConfig
from cotune.training.build import open_unchecked
from cotune.training.device import training_device
from cotune.training.precision import choose_precision

_METHOD = "probe"


@dataclass(frozen=True)
class OutOfFold:
    """What :func:`out_of_fold` gives.

    Attributes
    ----------
    folds : Folds
        The posts that were predicted, their targets and their task.
    predictions : ndarray
        Of each of them, by a head that saw neither it nor a near-duplicate of it; shape (N, n_predictions).
    encoders : str
        Which encoders those are.
    note : str or None
        Why the predictions may know more of the labels than they should.
    """

    folds: Folds
    predictions: np.ndarray
    encoders: str
    note: str | None = None


def out_of_fold(
    posts: pd.DataFrame,
    run: Run,
    *,
    folds: int = 5,
    seed: int | None = None,
    allow_remote: bool = False,
    progress: Progress | None = None,
) -> OutOfFold:
    """Cross-validate a run's head on its frozen encoders, near-duplicates kept together.

    Posts that the run was trained on can be given: its own head is not used. Encoders that were fine-tuned are opened
    again as they were before, because they have learned from the labels too.

    Parameters
    ----------
    posts : DataFrame
        As :func:`cotune.data.posts.read_posts` gives it, with labels.
    run : Run
        Names encoders, fusion head, task and settings of training.
    folds : int
        How many parts the posts are cut into.
    seed : int, optional
        Of cut and training; the run's own by default.
    allow_remote : bool
        Whether images may be fetched by URL.
    progress : Progress, optional
        Progress reporter.

    Raises
    ------
    DataError
        If the posts lack labels, or a label is too rare for that many folds.
    """
    progress = progress or Progress()
    fit = _settings(run, seed)
    plan = Plan((_METHOD,), ((fit.text_encoder, fit.image_encoder),), folds, fold_seed=fit.seed, fit=fit, emap=0,
                seeds=(fit.seed,))  # fmt: skip
    try:
        # A rule is in the run; the file it was read from may lie elsewhere by now.
        ruled = run.task if run.task.has_rule else None
        cut = cut_posts(posts, plan, task=ruled, allow_remote=allow_remote)
    except DataError as error:
        raise DataError(str(error).replace("use at most", "give --folds at most")) from error
    left_out = told_left_out(cut)
    if left_out is not None:
        progress.say(left_out)
    encoders, which, note = untrained_encoders(run, posts)
    bench = Bench(posts_of(posts, cut), cut, plan, allow_remote=allow_remote, progress=progress, given=encoders)
    found = np.zeros((len(cut.ids), cut.task.n_predictions))
    cells = plan.cells()
    for cell in progress.track(cells, "training a head for each fold", len(cells)):
        found[cut.test(cell.fold)] = bench.run(cell).proba
    return OutOfFold(cut.scored(), found[cut.fold >= 0], which, note)


def _settings(run: Run, seed: int | None) -> FitConfig:
    """Return the run's settings for training its head alone on one device."""
    config = run.config
    asked = {
        "task": run.task.name, "tune": "frozen", "validation": None, "devices": 1, "nodes": 1, "stop": "train-loss",
        "members": 1, "distill": False, "soup": False,
        "also": (),
        "seed": config.seed if seed is None else seed,
        "precision": choose_precision(config.precision, training_device(config).type).name,
    }  # fmt: skip
    return config.model_copy(update=asked)


def untrained_encoders(run: Run, posts: pd.DataFrame) -> tuple[Mapping[str, Encoder], str, str | None]:
    """Return encoders that know nothing of the posts' labels, what they are, and a note where that is not sure.

    Parameters
    ----------
    run : Run
        A frozen run has them; of any other one, those that it began with are opened again without a network.
    posts : DataFrame
        The posts, for encoders that are learned from them.
    """
    if run.config.tune == "frozen" and "started_from" not in run.metrics:
        return run.model.encoders, "the run's frozen encoders", None
    try:
        with cache_alone():
            opened = open_unchecked(run.config, posts)
        return opened, "the run's encoders as they were before fine-tuning", None
    except CotuneError as error:
        note = (
            f"the run's encoders were fine-tuned, and cannot be opened as they were before ({str(error)[:200]}): if "
            "they were trained on these posts, they know the labels, and wrong ones are missed"
        )
        return run.model.encoders, "the run's fine-tuned encoders", note
