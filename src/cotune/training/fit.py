"""From posts to a run: what `cotune fit` and `JointClassifier.fit` both do."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cotune.data.also import ALSO, is_own, own_posts, repeated_in, with_also
from cotune.data.duplicates import large_group_note, near_duplicates
from cotune.data.images.sources import has_urls, is_url
from cotune.data.posts import ColumnNames, data_hash, read_posts
from cotune.data.seen import TRAINED, WATCHED, PostKeys, SeenPosts
from cotune.data.tables.cells import field_labels
from cotune.encoders.base import Encoder
from cotune.encoders.prepared import ReadOptions
from cotune.encoders.prepared_images import PreparedImages
from cotune.encoders.resolve import asks_hub
from cotune.environment import MADE_FROM, environment
from cotune.errors import ConfigError, DataError, listed
from cotune.progress import Progress
from cotune.report.numbers import plural
from cotune.run import Run, weights_hash
from cotune.scoring import predictions_table
from cotune.settings import FitConfig
from cotune.tasks import Task, task_of_posts
from cotune.tasks.choose import AUTO, annotates
from cotune.training.build import cache_root, open_encoders, prepare_posts, read_options
from cotune.training.callbacks import Callback
from cotune.training.device import training_device
from cotune.training.encoder_check import check_encoder
from cotune.training.features import Features
from cotune.training.held_out_rows import hold_out
from cotune.training.members import fit_members
from cotune.training.notes import below_chance, below_the_probe, undefined_score
from cotune.training.post_notes import count_cut_texts, count_overlap, readable_posts, tell_gaps
from cotune.training.posts_summary import summarise
from cotune.training.precision import Precision, choose_precision
from cotune.training.ranks import join_ranks, ranks
from cotune.training.shares import predict_shares
from cotune.training.start import config_to_start
from cotune.training.trainer import HeldOut, Trained, Trainer, TrainingData

_SHOWN = 5
#: Settings that change nothing of what is learned.
_OF_MACHINE = {"cache", "cache_gb", "engine", "devices", "nodes", "strategy"}


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
    if validation_posts is None and isinstance(config.validation, str):
        validation_posts = read_posts(
            config.validation, columns=ColumnNames(fields=config.read_fields()), allow_outside=allow_outside
        )
    if config.also and ALSO not in posts:
        names = ColumnNames(fields=config.read_fields())
        posts = with_also(posts, config.also, names, weight=config.also_weight, allow_outside=allow_outside)
    labels_as = config if start is None else config.model_copy(update={"task": start.task.name})
    usable, counts = readable(posts, progress, labels_as)
    precision = _precision(config, callbacks, progress)
    config = config.model_copy(update={"precision": precision.name})
    task, encoders, config = _begin(usable, config, start, progress)
    usable = task.complete(usable)
    refuse_other_labels(task, usable, "post", started=start is not None)
    part = _validation_part(config) if validation_posts is None else None
    for note in task.notes(usable):
        progress.say(f"note: {note}")
    shown = usable
    own = is_own(usable)
    cuts = part is not None or config.distill
    # Looks are always read: what a run was trained on is to be known again.
    options = read_options(config, allow_remote=allow_remote, looks=True, progress=progress)
    data = _training_data(usable, task, encoders, config, options)
    counts |= count_cut_texts(usable, data.features, progress)
    tell_gaps(usable, data.features, data.rows, task, progress)
    further = data.rows[~own[data.rows]]
    data = replace(data, rows=data.rows[own[data.rows]], further=None if own.all() else ~own)
    task.refuse_untrainable(data.targets[data.rows])
    groups = groups_of(usable, data.features, config) if cuts else None
    if validation_posts is not None:
        validation_posts = readable(task.complete(validation_posts), progress)[0]
        held, shown = _table_held_out(validation_posts, task, encoders, config, options)
        data = replace(data, held_out=held)
        counts["validation_overlap"] = _overlap(data, progress)
    elif part is not None:
        data = _hold_out(data, task, part, groups, config)
    data, also = _add_further(usable, data, further, shown, config)
    key = _key(posts, usable, validation_posts, data, config)
    if start is not None:
        key["run to start from"] = weights_hash(start.model)
    for callback in callbacks:
        callback.on_begin(key)
    notes = [] if data.held_out is None else _notes_before(data.held_out, task, config, progress)
    if config.members > 1:
        trained, members = fit_members(data, task, config, groups=groups, callbacks=callbacks, progress=progress)
    else:
        head = None if start is None else start.model.head
        trained, members = Trainer(data, task, config, start=head, callbacks=callbacks, progress=progress).fit(), None
    metrics: dict[str, Any] = {
        "status": "interrupted" if trained.interrupted else "finished",
        "posts": {
            "read": int(is_own(posts).sum()),
            "train": len(data.rows),
            "held_out": 0 if data.held_out is None else len(data.held_out.rows),
            "labels": task.count(data.targets[data.rows]),
            "unreadable_images": len(data.features.faults),
            **counts,
        },
        "seconds": time.perf_counter() - started,
        "history": trained.history,
    }
    if members is not None:
        metrics["members"] = members
    if also:
        metrics["also"] = [{**each, "data_hash": key[f"posts of {each['table']}"]} for each in also]
    if "labels_from" in posts.attrs:
        metrics["labels_from"] = posts.attrs["labels_from"]
    if start is not None:
        before = start.environment.get("data_hash")
        metrics["started_from"] = {"data_hash": before, "weights": key["run to start from"]}
    held_out = None
    if data.held_out is not None:
        metrics["validation"], table = _validate(trained, task, data.held_out, config, shown, progress)
        held_out = (shown.iloc[data.held_out.rows], table)
    notes += _notes_after(trained, task, config, progress)
    if notes:
        metrics["notes"] = notes
    about = environment(config.seed, key["posts"], training_device(config).type) | {"precision": str(precision)}
    about[MADE_FROM] = {
        **posts.attrs.get(MADE_FROM, {}),
        "hashes": input_hashes(key),
        "encoders": {name: encoder.fingerprint() for name, encoder in encoders.items() if not encoder.learned},
    }
    if ranks().count > 1:
        about["devices"] = ranks().count
    summary = summarise(trained, task, data, usable, config, (counts["unreadable_cells"], len(posts)))
    seen = _seen(usable, shown, data, task, config)
    run = Run(trained.model, config, metrics, about, summary=summary, seen=seen)
    return FitResult(run, trained.interrupted, held_out)


def readable(
    posts: pd.DataFrame, progress: Progress, config: FitConfig | None = None
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the posts that have a label and can be read, and how many do not or cannot.

    With `config`, labels of fields count where its task learns from them.
    """
    kept, unreadable = readable_posts(posts, progress)
    columns = field_labels(kept).values() if config is not None and annotates(kept, config) else ()
    kept = _labelled(kept, ["label", *columns], progress)
    return kept, {"unreadable_cells": unreadable, "unlabelled": len(posts) - unreadable - len(kept)}


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


def _overlap(data: TrainingData, progress: Progress) -> int:
    assert data.held_out is not None
    return count_overlap(data.features, data.rows, data.held_out.features, data.held_out.rows, progress)


def _key(
    whole: pd.DataFrame, posts: pd.DataFrame, validation: pd.DataFrame | None, data: TrainingData, config: FitConfig
) -> dict[str, Any]:
    """Return what a training is made of; a checkpoint of anything else is not resumed."""
    fields, known = config.read_fields(), _known_keys(posts, data.features)
    key: dict[str, Any] = {
        "form": 2,
        "settings": config.model_dump(mode="json", exclude=_OF_MACHINE),
        "posts": data_hash(own_posts(whole), fields, known),
        "validation posts": None if validation is None else data_hash(validation, fields),
    }
    if not is_own(whole).all():
        further = whole.groupby(ALSO, sort=False)
        key |= {f"posts of {name}": data_hash(rows, fields, known) for name, rows in further}
    tables = [posts] if validation is None else [posts, validation]
    images = [field.name for field in fields if field.kind == "image"]
    remote = data.features.kept.options.allow_remote
    if remote and any(has_urls(table[name]) for table in tables for name in images if name in table):
        key["images by URL"] = "fetched"  # with them and without them the posts to train on are others
    if data.learned is not None:
        key["what is known of posts"] = hashlib.sha256(data.learned.tobytes()).hexdigest()
    if data.weights is not None:
        key["weights of posts"] = hashlib.sha256(data.weights.tobytes()).hexdigest()
    return key


def input_hashes(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hashes in what a training is made of, as :meth:`Callback.on_begin` gets it."""
    return {name: value for name, value in key.items() if name not in ("form", "settings")}


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


def _validation_part(config: FitConfig) -> float | None:
    """Return the part to hold out: what is asked for, or a tenth where stopping or a soup needs one."""
    if isinstance(config.validation, float):
        return config.validation
    return 0.1 if config.stop == "validation" or config.soup else None


def _validate(
    trained: Trained, task: Task, held: HeldOut, config: FitConfig, posts: pd.DataFrame, progress: Progress
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the scores of held-out posts, and their predictions."""
    progress.begin(f"scoring {plural(len(held.rows), 'held-out post')}")
    found, shares = predict_shares(trained.model, task, held.features, held.rows, trained.source)
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
    return scores, predictions_table(task, tuple(held.features.fields), ids, (found, shares, [""] * len(ids)))


def _seen(posts: pd.DataFrame, shown: pd.DataFrame, data: TrainingData, task: Task, config: FitConfig) -> SeenPosts:
    """Return the keys of the posts that were trained on, and of held-out ones that decided anything."""
    fields = [field for field in config.read_fields() if field.name in data.features.fields]
    parts = [PostKeys.of(posts.iloc[data.rows], fields, data.features.fingerprints(data.rows))]
    held = data.held_out
    decided = config.stop == "validation" or config.soup or type(task).choose_thresholds is not Task.choose_thresholds
    if held is not None and decided:
        parts.append(PostKeys.of(shown.iloc[held.rows], fields, held.features.fingerprints(held.rows)))
    role = np.repeat([TRAINED, WATCHED][: len(parts)], [len(part) for part in parts])
    return SeenPosts(PostKeys.joined(parts), role, tuple(field.name for field in fields))


def _known_keys(posts: pd.DataFrame, features: Features) -> dict[str, str]:
    """Return the content keys of the images that were read, by path: no file is read twice."""
    found: dict[str, str] = {}
    for name, prepared in features.fields.items():
        if isinstance(prepared, PreparedImages):
            paths = zip(posts[name], prepared.keys, strict=True)
            found |= {path: key for path, key in paths if key and isinstance(path, str) and not is_url(path)}
    return found


def _labelled(posts: pd.DataFrame, columns: Sequence[str], progress: Progress) -> pd.DataFrame:
    missing = posts[[column for column in columns if column in posts]].isna().all(axis=1)
    if missing[is_own(posts)].all():
        raise DataError("the posts have no labels; fill the `label` column, or name it with --label-column")
    if missing.any():
        rows = ", ".join(str(row) for row in posts.loc[missing, "row"].head(_SHOWN))
        progress.say(
            f"note: {plural(missing.sum(), 'post without a label is', 'posts without a label are')} left out "
            f"(rows {rows}{_more(missing.sum())})"
        )
        posts = posts[~missing].reset_index(drop=True)
    return posts


def refuse_other_labels(task: Task, posts: pd.DataFrame, what: str, *, started: bool) -> None:
    """Refuse a label that the task does not have: it was learned from other posts."""
    for row, label in zip(posts["row"], posts["label"], strict=True):
        problem = None if label is None else task.problem(label)
        if problem is not None:
            where = " by the run to start from" if started else ""
            raise DataError(
                f"the {what} of row {row} has the label {listed([label], quote=True)}, which {problem}{where}; "
                "leave such posts out, or train from scratch with posts of that label"
            )


def usable_rows(
    posts: pd.DataFrame, features: Features, config: FitConfig, what: str, progress: Progress
) -> np.ndarray:
    """Return the posts that can be used, and tell how many cannot, and why."""
    keep: np.ndarray = np.asarray(features.present.any(axis=1))
    for at, fault in list(features.faults.items())[:_SHOWN]:
        progress.say(f"note: row {posts['row'].iloc[at]}: {fault}")
    if features.faults:
        n = len(features.faults)
        if config.bad_images == "skip":
            keep[list(features.faults)] = False
        rest = "what else they have" if config.fields else "their text alone"
        done = "left out" if config.bad_images == "skip" else f"used by {rest}"
        progress.say(f"note: {plural(n, f'{what} post')} with an unreadable image {'is' if n == 1 else 'are'} {done}")
    cells = [(at, error) for at, error in features.errors.items() if not error.fields]
    for at, error in cells[:_SHOWN]:
        progress.say(f"note: row {posts['row'].iloc[at]}: {error}, counted as missing")
    if len(cells) > _SHOWN:
        progress.say(f"note: {plural(len(cells) - _SHOWN, 'more such post')}")
    empty = int((~features.present.any(axis=1)).sum() - sum(not features.present[i].any() for i in features.faults))
    if empty:
        progress.say(f"note: {plural(empty, f'{what} post')} with nothing that the model reads left out")
    rows = np.flatnonzero(keep)
    if not len(rows):
        raise DataError(f"no {what} post can be used; see `cotune check`")
    return rows


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


def _more(n: int) -> str:
    return f" and {n - _SHOWN:,} more" if n > _SHOWN else ""
