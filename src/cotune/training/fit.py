"""From posts to a run: what `cotune fit` and `JointClassifier.fit` both do."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from cotune.data.also import ALSO, is_own, own_posts, with_also
from cotune.data.posts import ColumnNames, read_posts
from cotune.encoders.base import Encoder
from cotune.encoders.resolve import asks_hub
from cotune.errors import ConfigError
from cotune.progress import Progress
from cotune.report.numbers import plural
from cotune.run import Run
from cotune.scoring import predictions_table
from cotune.settings import FitConfig
from cotune.tasks import Task, task_of_posts
from cotune.tasks.choose import AUTO, annotates
from cotune.training.build import cache_root, open_encoders, read_options
from cotune.training.callbacks import Callback
from cotune.training.device import training_device
from cotune.training.encoder_check import check_encoder
from cotune.training.fit_data import FitData, prepare_fit
from cotune.training.fit_members import fit_members
from cotune.training.fit_record import fit_environment, fit_metrics, made_of, seen_posts
from cotune.training.notes import below_chance, below_the_probe, undefined_score
from cotune.training.posts_summary import summarise
from cotune.training.precision import Precision, choose_precision
from cotune.training.ranks import join_ranks, ranks
from cotune.training.shares import predict_shares
from cotune.training.start import config_to_start
from cotune.training.task_check import check_task
from cotune.training.trainer import Trained, Trainer
from cotune.training.training_data import HeldOut
from cotune.training.usable_posts import readable, refuse_other_labels


@dataclass
class FitResult:
    """What a training gives.

    Attributes
    ----------
    run : Run
        The trained model.
    interrupted : bool
        Whether the user stopped it before its end.
    held_out : tuple of DataFrame, optional
        The posts that were held out, and their predictions.
    """

    run: Run
    interrupted: bool
    held_out: tuple[pd.DataFrame, pd.DataFrame] | None = None


def fit_posts(
    posts: pd.DataFrame,
    config: FitConfig,
    *,
    validation_posts: pd.DataFrame | None = None,
    start: Run | None = None,
    allow_remote: bool = False,
    allow_outside: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
) -> FitResult:
    """Train a model on labelled posts.

    Parameters
    ----------
    posts : DataFrame
        As :func:`cotune.data.posts.read_posts` gives it; posts without a label are left out and counted. A column
        ``weight`` says how much each post counts in training; scores of held-out posts are not weighted. A column
        ``also`` names the further table that a post comes from (see :func:`cotune.data.also.with_also`): it is trained
        on and never held out. Without it ``config.also`` says which such tables to read.
    config : FitConfig
        The settings.
    validation_posts : DataFrame, optional
        A validation table of its own; otherwise ``config.validation`` says what part is held out, if any, or
        which table to read.
    start : Run, optional
        A trained run to go on from with these posts: its encoders, head and labels. The probe is left out, as the head
        is trained already, unless nothing else is to be trained.
    allow_remote : bool
        Whether images may be fetched by URL.
    allow_outside : bool
        Whether images of the tables that ``config.validation`` and ``config.also`` name may lie outside of the tables'
        folders.
    callbacks : sequence of Callback
        Told after every epoch: a checkpoint that is kept, a log. Without a checkpoint nothing can be resumed.
    progress : Progress, optional
        Progress reporter.

    Raises
    ------
    DataError
        If the labels cannot be learned: none, one class, or a class with a single post.
    KeyboardInterrupt
        If the user stops before an epoch was finished (or without a checkpoint); later, the result is the
        model of the last finished epoch.
    """
    join_ranks(config)
    progress = progress or Progress()
    started = time.perf_counter()
    posts, validation_posts = _with_tables(posts, validation_posts, config, allow_outside)
    labels_as = config if start is None else config.model_copy(update={"task": start.task.name})
    usable, counts = readable(posts, progress, labels_as)
    precision = _precision(config, callbacks, progress)
    config = config.model_copy(update={"precision": precision.name})
    task, encoders, config = _begin(usable, config, start, progress)
    usable = task.complete(usable)
    refuse_other_labels(task, usable, "post", started=start is not None)
    for note in task.notes(usable):
        progress.say(f"note: {note}")
    # Looks are always read: what a run was trained on is to be known again.
    options = read_options(config, allow_remote=allow_remote, looks=True, progress=progress)
    fitted = prepare_fit(usable, validation_posts, task, encoders, config, options)
    key = made_of(posts, fitted, config, start)
    for callback in callbacks:
        callback.on_begin(key)
    notes = [] if fitted.data.held_out is None else _notes_before(fitted.data.held_out, task, config, progress)
    trained, members = _train(fitted, task, config, start, callbacks, progress)
    metrics: dict[str, Any] = {
        "status": "interrupted" if trained.interrupted else "finished",
        "seconds": time.perf_counter() - started,
        "history": trained.history,
        **fit_metrics(posts, fitted, counts, task, key),
    }
    if members is not None:
        metrics["members"] = members
    if start is not None:
        before = start.environment.get("data_hash")
        metrics["started_from"] = {"data_hash": before, "weights": key["run to start from"]}
    held_out = None
    if fitted.data.held_out is not None:
        metrics["validation"], table = _validate(trained, task, fitted.data.held_out, config, fitted.shown, progress)
        held_out = (fitted.shown.iloc[fitted.data.held_out.rows], table)
    if notes := notes + _notes_after(trained, task, config, progress):
        metrics["notes"] = notes
    about = fit_environment(posts, encoders, config, precision, key)
    summary = summarise(trained, task, fitted.data, usable, config, (counts["unreadable_cells"], len(posts)))
    run = Run(trained.model, config, metrics, about, summary=summary, seen=seen_posts(fitted, task, config))
    return FitResult(run, trained.interrupted, held_out)


def _with_tables(
    posts: pd.DataFrame, validation_posts: pd.DataFrame | None, config: FitConfig, allow_outside: bool
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the posts with those of the further tables that the settings name, and the validation table."""
    names = ColumnNames(fields=config.read_fields())
    if validation_posts is None and isinstance(config.validation, str):
        validation_posts = read_posts(config.validation, columns=names, allow_outside=allow_outside)
    if config.also and ALSO not in posts:
        posts = with_also(posts, config.also, names, weight=config.also_weight, allow_outside=allow_outside)
    return posts, validation_posts


def _train(
    fitted: FitData,
    task: Task,
    config: FitConfig,
    start: Run | None,
    callbacks: Sequence[Callback],
    progress: Progress,
) -> tuple[Trained, dict[str, Any] | None]:
    """Train one model or several members, and return what was recorded of members."""
    if config.members > 1:
        return fit_members(fitted.data, task, config, groups=fitted.groups, callbacks=callbacks, progress=progress)
    head = None if start is None else start.model.head
    return Trainer(fitted.data, task, config, start=head, callbacks=callbacks, progress=progress).fit(), None


def _notes_before(held: HeldOut, task: Task, config: FitConfig, progress: Progress) -> list[str]:
    found = task.note_on_held_out(held.targets[held.rows])
    notes = [] if found is None else [undefined_score(found, task, config)]
    for note in notes:
        progress.say(f"note: {note}")
    return notes


def _notes_after(trained: Trained, task: Task, config: FitConfig, progress: Progress) -> list[str]:
    if trained.interrupted:
        return []
    found = [below_the_probe(trained.history, task, config), below_chance(trained.history, task)]
    notes = [note for note in found if note is not None]
    for note in notes:
        progress.say(f"note: {note}")
    return notes


def _begin(
    posts: pd.DataFrame, config: FitConfig, start: Run | None, progress: Progress
) -> tuple[Task, Mapping[str, Encoder], FitConfig]:
    """Return what is learned and with which encoders: those that the settings name, or those of a trained run."""
    if start is not None:
        config = config_to_start(start, config)
        for encoder in start.model.distinct_encoders.values():
            check_encoder(encoder, config, cache_root(config))
        return start.task, start.model.encoders, config
    task = learn_task(posts, config, progress)
    specs = [config.text_encoder, config.image_encoder, *(field.encoder for field in config.read_fields())]
    hub = [name for name in specs if name is not None and asks_hub(name)]
    if hub:
        progress.begin(f"opening {' and '.join(hub)}, from the hub unless they are in its cache")
    return task, open_encoders(config, own_posts(posts)), config


def learn_task(posts: pd.DataFrame, config: FitConfig, progress: Progress) -> Task:
    """Return the task that the settings name, or that the labels look like, and tell which."""
    own = is_own(posts)
    if not annotates(posts, config):
        posts = own_posts(posts)
    elif not own.all():  # labels of fields may be those of further tables, classes may not
        labels = [label if mine else None for label, mine in zip(posts["label"], own, strict=True)]
        posts = posts.assign(label=pd.Series(labels, index=posts.index, dtype=object))
    task = task_of_posts(posts, config)
    check_task(task, posts["label"].tolist(), config)
    if config.task == AUTO and task.name != "single-label":
        article = "an" if task.name[0] in "aeiou" else "a"
        progress.say(f"note: the labels look like {article} {task.name} task ({task.describe()}); --task names another")
    return task


def _precision(config: FitConfig, callbacks: Sequence[Callback], progress: Progress) -> Precision:
    """Return the number format to train in; a training that goes on keeps its own, whatever this machine has."""
    asked, device = config.precision, training_device(config).type
    known = ({} if asked != "auto" else callback.begun_with() for callback in callbacks)
    begun = next((settings["precision"] for settings in known if settings.get("precision", "auto") != "auto"), None)
    found = choose_precision(asked, device) if begun is None else Precision(begun, "as it was begun")
    own = ranks()
    if asked == "auto" and int(own.sum(torch.tensor(found.name == "32", dtype=torch.int))) and found.name != "32":
        found = Precision("32", "another device has no bf16 units")
    if asked != "32":
        progress.say(f"precision: {found}")
    return found


def _validate(
    trained: Trained, task: Task, held: HeldOut, config: FitConfig, posts: pd.DataFrame, progress: Progress
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the scores of held-out posts, and their predictions."""
    progress.begin(f"scoring {plural(len(held.rows), 'held-out post')}")
    said = predict_shares(trained.model, task, held.features, held.rows, trained.source)
    found = said.predictions
    if not np.isfinite(found).all():
        raise ConfigError(
            "training diverged: the trained model gives no numbers for held-out posts; lower the learning rates or use "
            "--precision 32"
        )
    task.choose_thresholds(held.targets[held.rows], found)
    scores = task.evaluate(held.targets[held.rows], found, seed=config.seed).to_dict()
    if fields := task.score_fields(posts.iloc[held.rows], found, seed=config.seed):
        scores["fields"] = fields
    ids = posts["id"].iloc[held.rows]
    return scores, predictions_table(task, tuple(held.features.fields), ids, said)
