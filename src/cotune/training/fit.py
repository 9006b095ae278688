"""From posts to a run: what `cotune fit` and `JointClassifier.fit` both do."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.duplicates import large_group_note, near_duplicate_groups
from cotune.data.posts import data_hash, has_image, read_posts
from cotune.data.sources import has_urls
from cotune.data.splits import holdout_split
from cotune.encoders.base import Encoder
from cotune.encoders.resolve import asks_hub
from cotune.environment import environment
from cotune.errors import ConfigError, DataError, listed
from cotune.metrics import evaluate
from cotune.progress import Progress
from cotune.run import Run, weights_hash
from cotune.settings import FitConfig
from cotune.training.checkpoint import Checkpoint
from cotune.training.device import make_fabric
from cotune.training.encoder_check import check_encoder
from cotune.training.features import Features
from cotune.training.loop import predict_rows
from cotune.training.notes import below_chance, below_the_probe, one_class
from cotune.training.post_notes import count_cut_texts, count_overlap, readable_posts, tell_gaps
from cotune.training.recipe import Trained, cache_root, fit_rows, open_encoders, prepare_posts
from cotune.training.start import checked_weights, config_to_start

OnEpoch = Callable[[list[dict[str, Any]]], None]
_SHOWN = 5


@dataclass
class FitResult:
    """A run, and whether the user stopped it before its end."""

    run: Run
    interrupted: bool


def fit_posts(
    posts: pd.DataFrame,
    config: FitConfig,
    *,
    validation_posts: pd.DataFrame | None = None,
    sample_weight: np.ndarray | None = None,
    start: Run | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    allow_remote: bool = False,
    on_epoch: OnEpoch | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train a model on labelled posts.

    Parameters
    ----------
    posts : DataFrame
        As :func:`cotune.data.posts.read_posts` gives it; posts without a label are left out and counted.
    config : FitConfig
        The settings.
    validation_posts : DataFrame, optional
        A validation table of its own; otherwise ``config.validation`` says what part is held out, if any, or
        which table to read.
    sample_weight : ndarray, optional
        How much each post counts in training, none below zero; scores of held-out posts are not weighted.
    start : Run, optional
        A trained run to go on from with these posts: its encoders, head and labels. The probe is left out, as the head
        is trained already, unless nothing else is to be trained.
    checkpoint : Path, optional
        Folder for the state between epochs; without it nothing can be resumed.
    resume : bool
        Go on from the checkpoint, if there is one.
    allow_remote : bool
        Whether pictures may be fetched by URL.
    on_epoch : callable, optional
        Called with the history after every epoch.
    progress : Progress, optional
        Whom to tell.

    Raises
    ------
    DataError
        If the labels cannot be learned: none, one class, or a class with a single post.
    KeyboardInterrupt
        If the user stops before an epoch was finished (or without a checkpoint); later, the result is the
        model of the last finished epoch.
    """
    progress = progress or Progress()
    started = time.perf_counter()
    fabric = make_fabric(config)
    if validation_posts is None and isinstance(config.validation, str):
        validation_posts = read_posts(config.validation)
    hashed, n_read = data_hash(posts), len(posts)
    if sample_weight is not None:
        posts = posts.assign(weight=checked_weights(sample_weight, len(posts)))
    posts, unreadable = readable_posts(posts, progress)
    posts = _labelled(posts, progress)
    weighed = posts["weight"].to_numpy(dtype=float) if sample_weight is not None else None
    classes = _classes(posts)
    if start is None:
        hub = [name for name in (config.text_encoder, config.image_encoder) if asks_hub(name)]
        if hub:
            progress.begin(f"opening {' and '.join(hub)}, from the hub unless they are in its cache")
        encoders: Mapping[str, Encoder] = open_encoders(config)
    else:
        config = config_to_start(start, config)
        _refuse_unknown(posts, list(start.classes), "post", "the run to start from knows")
        classes, encoders = list(start.classes), start.model.encoders
        for encoder in encoders.values():
            check_encoder(encoder, config, cache_root(config))

    def ready(table: pd.DataFrame, what: str) -> tuple[pd.DataFrame, Features, np.ndarray, np.ndarray]:
        features = prepare_posts(table, encoders, config, allow_remote=allow_remote, progress=progress, fabric=fabric)
        labels = table["label"].map({label: i for i, label in enumerate(classes)}).to_numpy(dtype=np.int64)
        return table, features, labels, _usable(table, features, config, what, progress)

    posts, features, labels, rows = ready(posts, "training")
    if weighed is not None:
        rows = rows[weighed[rows] > 0]
    cut = count_cut_texts(posts, features, progress)
    _refuse_rare(posts.iloc[rows], classes if start is None else sorted(set(posts["label"])))
    tell_gaps(posts, features, rows, progress)
    held: np.ndarray | None = None
    overlap = 0
    other: tuple[Features, np.ndarray] | None = None
    if validation_posts is not None:
        validation_posts = _labelled(readable_posts(validation_posts, progress)[0], progress)
        _refuse_unknown(validation_posts, classes, "validation post", "there are")
        _, theirs, their_labels, their_rows = ready(validation_posts, "validation")
        other = (theirs.subset(their_rows), their_labels[their_rows])
        overlap = count_overlap(features, rows, theirs, their_rows, progress)
    elif isinstance(fraction := _validation_part(config), float):
        progress.begin("choosing posts to hold out")
        rows, held = _hold_out(posts, labels, rows, fraction, config, allow_remote, progress)
        progress.say(f"{len(held):,} of {len(held) + len(rows):,} posts are held out for validation")
    key = {
        "settings": config.model_dump(mode="json", exclude={"cache", "cache_gb"}),
        "posts": hashed,
        "validation posts": None if validation_posts is None else data_hash(validation_posts),
    }
    tables = [posts] if validation_posts is None else [posts, validation_posts]
    if allow_remote and any(has_urls(table["image"]) for table in tables):
        key["pictures by URL"] = "fetched"  # with them and without them the posts to train on are others
    if weighed is not None:
        key["weights of posts"] = hashlib.sha256(weighed.tobytes()).hexdigest()
    begun_with = None if start is None else weights_hash(start.model)
    if begun_with is not None:
        key["run to start from"] = begun_with
    state = Checkpoint(checkpoint, key) if checkpoint is not None else None
    if state is not None and not resume:
        state.remove()  # an interruption would otherwise bring back what an earlier training left
    notes: list[str] = []
    held_labels = other[1] if other is not None else labels[held] if held is not None else None
    if held_labels is not None and len(set(held_labels.tolist())) == 1:
        notes.append(one_class(classes[int(held_labels[0])], len(held_labels), config))
        progress.say(f"note: {notes[-1]}")
    trained = fit_rows(
        features,
        labels,
        rows,
        len(classes),
        config,
        validation_rows=held,
        validation=other,
        sample_weight=weighed,
        start=None if start is None else start.model.head,
        checkpoint=state,
        resume=resume,
        on_epoch=on_epoch,
        progress=progress,
        fabric=fabric,
    )
    counts = {label: int((labels[rows] == i).sum()) for i, label in enumerate(classes)}
    metrics: dict[str, Any] = {
        "status": "interrupted" if trained.interrupted else "finished",
        "posts": {
            "read": n_read,
            "train": len(rows),
            "held_out": len(held) if held is not None else 0 if other is None else len(other[1]),
            "labels": counts,
            "unreadable_cells": unreadable,
            "unlabelled": n_read - unreadable - len(posts),
            "unreadable_images": len(features.faults),
            **cut,
            **({} if validation_posts is None else {"validation_overlap": overlap}),
        },
        "seconds": time.perf_counter() - started,
        "history": trained.history,
    }
    if start is not None:
        metrics["started_from"] = {
            "data_hash": start.environment.get("data_hash"),
            "weights": weights_hash(start.model),
        }
    scores = _validate(trained, features, labels, held, other, classes, config, progress)
    if scores is not None:
        metrics["validation"] = scores
    judged = [] if trained.interrupted else [below_the_probe(trained.history, config), below_chance(trained.history)]
    for note in filter(None, judged):
        notes.append(note)
        progress.say(f"note: {note}")
    if notes:
        metrics["notes"] = notes
    about = environment(config.seed, hashed, str(fabric.device.type))
    return FitResult(Run(trained.model, tuple(classes), config, metrics, about), trained.interrupted)


def _validation_part(config: FitConfig) -> float | None:
    """Return the part to hold out: what is asked for, or a tenth where stopping needs one."""
    if isinstance(config.validation, float):
        return config.validation
    return 0.1 if config.stop == "validation" else None


def _validate(
    trained: Trained,
    features: Features,
    labels: np.ndarray,
    held: np.ndarray | None,
    other: tuple[Features, np.ndarray] | None,
    classes: list[str],
    config: FitConfig,
    progress: Progress,
) -> dict[str, Any] | None:
    if other is not None:
        features, labels = other
        held = np.arange(len(labels))
    if held is None:
        return None
    progress.begin(f"scoring {len(held):,} held-out posts")
    device = next(trained.model.parameters()).device
    proba = predict_rows(trained.model, features, held, trained.source, device=device)
    if not np.isfinite(proba).all():
        raise ConfigError(
            "training diverged: the trained model gives no numbers for held-out posts; lower the learning rates or use "
            "--precision 32"
        )
    return evaluate(labels[held], proba, classes, seed=config.seed).to_dict()


def _labelled(posts: pd.DataFrame, progress: Progress) -> pd.DataFrame:
    if "label" not in posts or posts["label"].isna().all():
        raise DataError("the posts have no labels; fill the `label` column, or name it with --label-column")
    missing = posts["label"].isna()
    if missing.any():
        rows = ", ".join(str(row) for row in posts.loc[missing, "row"].head(_SHOWN))
        progress.say(
            f"note: {missing.sum():,} posts have no label and are left out (rows {rows}{_more(missing.sum())})"
        )
        posts = posts[~missing].reset_index(drop=True)
    return posts


def _classes(posts: pd.DataFrame) -> list[str]:
    labels = {str(label) for label in posts["label"]}
    if len(labels) == 1:
        raise DataError(
            f"all {len(posts):,} posts have the label {listed(labels, quote=True)}; a classifier needs at least two"
        )
    try:
        numbers = {label: float(label) for label in labels}
    except ValueError:
        return sorted(labels)
    if not all(math.isfinite(number) for number in numbers.values()):
        return sorted(labels)
    return sorted(labels, key=lambda label: (numbers[label], label))  # 2 before 10


def _refuse_rare(posts: pd.DataFrame, classes: list[str]) -> None:
    counts = posts["label"].value_counts()
    rare = {label: int(counts.get(label, 0)) for label in classes if counts.get(label, 0) < 2}
    if rare:
        shown = listed(rare, most=_SHOWN, quote=True)
        left = "only one usable post has" if min(rare.values()) else "not even two usable posts have"
        raise DataError(f"{left} the label {shown}; give each label at least two posts, or leave the label out")


def _refuse_unknown(posts: pd.DataFrame, classes: list[str], what: str, there_are: str) -> None:
    unknown = posts[~posts["label"].isin(classes)]
    if len(unknown):
        row, label = unknown["row"].iloc[0], listed(unknown["label"][:1], quote=True)
        raise DataError(
            f"the {what} of row {row} has the label {label}, which is not trained ({there_are} {listed(classes)}); "
            "leave such posts out, or train from scratch with posts of that label"
        )


def _usable(posts: pd.DataFrame, features: Features, config: FitConfig, what: str, progress: Progress) -> np.ndarray:
    """Return the posts that can be used, and tell how many cannot, and why."""
    keep: np.ndarray = np.asarray(features.present.any(axis=1))
    for at, fault in list(features.faults.items())[:_SHOWN]:
        progress.say(f"note: row {posts['row'].iloc[at]}: {fault}")
    if features.faults:
        n = len(features.faults)
        if config.bad_images == "skip":
            keep[list(features.faults)] = False
        done = "left out" if config.bad_images == "skip" else "used by their text alone"
        progress.say(f"note: {n:,} {what} {_posts(n)} with an unreadable image {'is' if n == 1 else 'are'} {done}")
    empty = int((~features.present.any(axis=1)).sum() - sum(not features.present[i].any() for i in features.faults))
    if empty:
        progress.say(f"note: {empty:,} {what} {_posts(empty)} with nothing that the model reads left out")
    rows = np.flatnonzero(keep)
    if not len(rows):
        raise DataError(f"no {what} post can be used; see `cotune check`")
    return rows


def _hold_out(
    posts: pd.DataFrame,
    labels: np.ndarray,
    rows: np.ndarray,
    fraction: float,
    config: FitConfig,
    allow_remote: bool,
    progress: Progress,
) -> tuple[np.ndarray, np.ndarray]:
    groups: np.ndarray | None = None
    if config.folds_group == "near-duplicates":
        by = [name for name, there in (("text", True), ("image", posts["image"].map(has_image).any())) if there]
        groups = near_duplicate_groups(posts, by=tuple(by), allow_remote=allow_remote)[rows]
        large = large_group_note(groups)
        if large is not None:
            progress.say(f"note: {large}")
    elif config.folds_group == "group":
        if posts["group"].isna().all():
            raise DataError("--folds-group group needs a `group` column; name it with --group-column")
        named = posts["group"].iloc[rows]
        alone = pd.Series([f"\0{i}" for i in range(len(rows))], index=named.index)
        groups = pd.factorize(named.where(named.notna(), alone))[0]
    train, held = holdout_split(labels[rows], fraction=fraction, seed=config.seed, groups=groups)
    return rows[train], rows[held]


def _more(n: int) -> str:
    return f" and {n - _SHOWN:,} more" if n > _SHOWN else ""


def _posts(n: int) -> str:
    return "post" if n == 1 else "posts"
