"""The posts of a fit, prepared: which are trained on, which are held out, and what was counted on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.also import ALSO, is_own, repeated_in
from cotune.data.duplicates import large_group_note, near_duplicates
from cotune.encoders.base import Encoder
from cotune.encoders.prepared import ReadOptions
from cotune.errors import DataError
from cotune.progress import Progress
from cotune.report.numbers import plural
from cotune.settings import FitConfig
from cotune.tasks import Task
from cotune.training.build import prepare_posts
from cotune.training.features import Features
from cotune.training.held_out_rows import hold_out
from cotune.training.post_notes import count_cut_texts, count_overlap, tell_gaps
from cotune.training.training_data import HeldOut, TrainingData
from cotune.training.usable_posts import readable, refuse_other_labels, usable_rows


@dataclass(frozen=True)
class FitData:
    """Prepared posts, and the tables that they come from.

    Attributes
    ----------
    data : TrainingData
        What is trained on and held out.
    posts : DataFrame
        The posts that the rows of `data` count.
    validation : DataFrame or None
        The readable posts of a validation table.
    shown : DataFrame
        The posts that the rows of the held-out ones count: `posts`, or those of the validation table that can be used.
    groups : ndarray of int or None
        Which of `posts` are kept together where a part of them is held out, shape (N,).
    counts : dict
        How many texts are cut, and how many posts the validation table shares with the others.
    also : list of dict
        For each further table how many of its posts are trained on and left out.
    """

    data: TrainingData
    posts: pd.DataFrame
    validation: pd.DataFrame | None
    shown: pd.DataFrame
    groups: np.ndarray | None
    counts: dict[str, int]
    also: list[dict[str, Any]]


def prepare_fit(
    posts: pd.DataFrame,
    validation: pd.DataFrame | None,
    task: Task,
    encoders: Mapping[str, Encoder],
    config: FitConfig,
    options: ReadOptions,
) -> FitData:
    """Read the posts, hold some out, and tell what a user must know of them.

    Parameters
    ----------
    posts : DataFrame
        Readable posts with what the task completes them by, those of further tables with them.
    validation : DataFrame, optional
        A validation table; otherwise ``config`` says what part of `posts` is held out, if any.
    task, encoders, config, options
        What is learned, with what, and how posts are read.

    Raises
    ------
    DataError
        If too few posts remain, or a post of the validation table has a label that the task does not know.
    """
    progress = options.progress
    data = _training_data(posts, task, encoders, config, options)
    counts = count_cut_texts(posts, data.features, progress)
    tell_gaps(posts, data.features, data.rows, task, progress)
    own = is_own(posts)
    further = data.rows[~own[data.rows]]
    data = replace(data, rows=data.rows[own[data.rows]], further=None if own.all() else ~own)
    task.refuse_untrainable(data.targets[data.rows])
    part = _validation_part(config) if validation is None else None
    groups = groups_of(posts, data.features, config) if part is not None or config.distill else None
    shown = posts
    if validation is not None:
        validation = readable(task.complete(validation), progress, what="validation post")[0]
        held, shown = _table_held_out(validation, task, encoders, config, options)
        data = replace(data, held_out=held)
        counts["validation_overlap"] = _overlap(data, progress)
    elif part is not None:
        data = _hold_out(data, task, part, groups, config)
    data, also = _add_further(posts, data, further, shown, config)
    return FitData(data, posts, validation, shown, groups, counts, also)


def _training_data(
    posts: pd.DataFrame, task: Task, encoders: Mapping[str, Encoder], config: FitConfig, options: ReadOptions
) -> TrainingData:
    """Read the posts to train on, before some of them are held out."""
    features = prepare_posts(posts, encoders, config, options)
    rows = usable_rows(posts, features, config, "training", options.progress)
    weights = posts["weight"].to_numpy(dtype=float) if "weight" in posts else None
    if weights is not None:
        rows = rows[weights[rows] > 0]
    return TrainingData(features, task.encode(posts["label"].tolist()), rows, weights, learned=task.learned(posts))


def _table_held_out(
    posts: pd.DataFrame, task: Task, encoders: Mapping[str, Encoder], config: FitConfig, options: ReadOptions
) -> tuple[HeldOut, pd.DataFrame]:
    """Return the posts of a validation table that can be used, prepared and as they are."""
    refuse_other_labels(task, posts, "validation post", started=False)
    features = prepare_posts(posts, encoders, config, options)
    rows = usable_rows(posts, features, config, "validation", options.progress)
    held = HeldOut(features.subset(rows), task.encode(posts["label"].tolist())[rows], np.arange(len(rows)))
    return held, posts.iloc[rows]


def _hold_out(
    data: TrainingData, task: Task, fraction: float, groups: np.ndarray | None, config: FitConfig
) -> TrainingData:
    """Return the data with a part of the posts held out."""
    progress = data.features.kept.options.progress
    progress.begin("choosing posts to hold out")
    own = None if groups is None else groups[data.rows]
    if own is not None and config.folds_group == "near-duplicates" and (note := large_group_note(own)) is not None:
        progress.say(f"note: {note}")
    train, held = hold_out(task, data.targets, data.rows, fraction=fraction, seed=config.seed, groups=groups)
    progress.say(f"{len(held):,} of {plural(len(train) + len(held), 'post')} held out for validation")
    return replace(data, rows=train, held_out=HeldOut(data.features, data.targets, held))


def _add_further(
    posts: pd.DataFrame, data: TrainingData, further: np.ndarray, shown: pd.DataFrame, config: FitConfig
) -> tuple[TrainingData, list[dict[str, Any]]]:
    """Return the data with the posts of further tables to train on as well, and how many those are.

    Left out are those that are held-out posts, or nearly so; `shown` is the frame that the held-out ones are in.
    """
    if ALSO not in posts:
        return data, []
    options, held = data.features.kept.options, data.held_out
    repeated = np.zeros(len(further), dtype=bool)
    if held is not None and len(further):
        repeated = repeated_in(
            (shown.iloc[held.rows], held.features.fingerprints(held.rows)),
            (posts.iloc[further], data.features.fingerprints(further)),
            config.read_fields(),
            allow_remote=options.allow_remote,
        )
    tables, found = posts[ALSO].iloc[further].to_numpy(), []
    for name in posts.loc[~is_own(posts), ALSO].unique():
        left_out = int(repeated[tables == name].sum())
        trained = int((tables == name).sum()) - left_out
        found.append({"table": name, "train": trained, "left_out": left_out})
        options.progress.say(f"{plural(trained, 'post')} of {Path(name).name} to train on as well")
        if left_out:
            options.progress.say(
                f"note: {plural(left_out, 'post')} of {Path(name).name} also {'stands' if left_out == 1 else 'stand'} "
                "in the held-out posts, left out"
            )
    return replace(data, rows=np.concatenate([data.rows, further[~repeated]])), found


def groups_of(posts: pd.DataFrame, features: Features, config: FitConfig) -> np.ndarray | None:
    """Return which posts are kept together when a part is held out; None for none."""
    if config.folds_group == "none":
        return None
    if config.folds_group == "near-duplicates":
        return near_duplicates(
            posts,
            config.read_fields(),
            {name: prepared.fingerprints for name, prepared in features.fields.items() if prepared.fingerprints},
            allow_remote=features.kept.options.allow_remote,
        )
    if posts["group"].isna().all():
        raise DataError("--folds-group group needs a `group` column; name it with --group-column")
    alone = pd.Series([f"\0{i}" for i in range(len(posts))], index=posts.index)
    return pd.factorize(posts["group"].where(posts["group"].notna(), alone))[0]


def _overlap(data: TrainingData, progress: Progress) -> int:
    assert data.held_out is not None
    return count_overlap(data.features, data.rows, data.held_out.features, data.held_out.rows, progress)


def _validation_part(config: FitConfig) -> float | None:
    """Return the part to hold out: what is asked for, or a tenth where stopping or a soup needs one."""
    if isinstance(config.validation, float):
        return config.validation
    return 0.1 if config.stop == "validation" or config.soup else None
