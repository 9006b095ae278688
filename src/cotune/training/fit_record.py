"""What a run records of its making: what it was made of, counts and scores, versions, and which posts it has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.also import ALSO, is_own, own_posts
from cotune.data.images.sources import has_urls, is_url
from cotune.data.posts import data_hash
from cotune.data.seen import TRAINED, WATCHED, PostKeys, SeenPosts
from cotune.encoders.base import Encoder
from cotune.encoders.prepared_images import PreparedImages
from cotune.environment import MADE_FROM, environment
from cotune.run import Run, weights_hash
from cotune.settings import FitConfig
from cotune.tasks import Task
from cotune.training.checkpoint import differences
from cotune.training.device import training_device
from cotune.training.features import Features
from cotune.training.fit_data import FitData
from cotune.training.precision import Precision
from cotune.training.ranks import ranks

#: Settings that change nothing of what is learned.
_OF_MACHINE = {"cache", "cache_gb", "engine", "devices", "nodes", "strategy"}


def made_of(whole: pd.DataFrame, fitted: FitData, config: FitConfig, start: Run | None) -> dict[str, Any]:
    """Return what a training is made of; a checkpoint of anything else is not resumed.

    Parameters
    ----------
    whole : DataFrame
        The posts as they were given, with those that cannot be used.
    fitted : FitData
        Those that can.
    config : FitConfig
        The settings.
    start : Run, optional
        The run to start from.
    """
    posts, validation, data = fitted.posts, fitted.validation, fitted.data
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
    if start is not None:
        key["run to start from"] = weights_hash(start.model)
    return key


def differs_from(run: Run, posts: pd.DataFrame, config: FitConfig, start: Run | None) -> list[str]:
    """Name what a finished run was made of and what is asked for now, where the two differ; nothing is opened.

    Parameters
    ----------
    run : Run
        The run, which may be too old to know its posts.
    posts : DataFrame
        The posts as they are given now.
    config : FitConfig
        The settings that are given now.
    start : Run, optional
        The run to start from now.
    """
    machine = set(_OF_MACHINE)
    if config.precision == "auto":
        machine.add("precision")  # the run has what was chosen for its machine
    now: dict[str, Any] = {"settings": config.model_dump(mode="json", exclude=machine)}
    before: dict[str, Any] = {"settings": run.config.model_dump(mode="json", exclude=machine)}
    if (known := run.environment.get("data_hash")) is not None:
        before["posts"], now["posts"] = known, data_hash(own_posts(posts), config.read_fields())
    before["run to start from"] = run.metrics.get("started_from", {}).get("weights")
    now["run to start from"] = None if start is None else weights_hash(start.model)
    return list(differences(before, now))


def input_hashes(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hashes in what a training is made of, as :meth:`Callback.on_begin` gets it."""
    return {name: value for name, value in key.items() if name not in ("form", "settings")}


def _known_keys(posts: pd.DataFrame, features: Features) -> dict[str, str]:
    """Return the content keys of the images that were read, by path: no file is read twice."""
    found: dict[str, str] = {}
    for name, prepared in features.fields.items():
        if isinstance(prepared, PreparedImages):
            paths = zip(posts[name], prepared.keys, strict=True)
            found |= {path: key for path, key in paths if key and isinstance(path, str) and not is_url(path)}
    return found


def seen_posts(fitted: FitData, task: Task, config: FitConfig) -> SeenPosts:
    """Return the keys of the posts that were trained on, and of held-out ones that decided anything."""
    data, shown = fitted.data, fitted.shown
    fields = [field for field in config.read_fields() if field.name in data.features.fields]
    parts = [PostKeys.of(fitted.posts.iloc[data.rows], fields, data.features.fingerprints(data.rows))]
    held = data.held_out
    decided = config.stop == "validation" or config.soup or type(task).choose_thresholds is not Task.choose_thresholds
    if held is not None and decided:
        parts.append(PostKeys.of(shown.iloc[held.rows], fields, held.features.fingerprints(held.rows)))
    role = np.repeat([TRAINED, WATCHED][: len(parts)], [len(part) for part in parts])
    return SeenPosts(PostKeys.joined(parts), role, tuple(field.name for field in fields))


def fit_metrics(
    whole: pd.DataFrame, fitted: FitData, counts: Mapping[str, int], task: Task, key: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the part of a run's metrics that tells of its posts."""
    data = fitted.data
    metrics: dict[str, Any] = {
        "posts": {
            "read": int(is_own(whole).sum()),
            "train": len(data.rows),
            "held_out": 0 if data.held_out is None else len(data.held_out.rows),
            "labels": task.count(data.targets[data.rows]),
            "unreadable_images": len(data.features.faults),
            **counts,
            **fitted.counts,
        }
    }
    if fitted.also:
        metrics["also"] = [{**each, "data_hash": key[f"posts of {each['table']}"]} for each in fitted.also]
    if "labels_from" in whole.attrs:
        metrics["labels_from"] = whole.attrs["labels_from"]
    return metrics


def fit_environment(
    whole: pd.DataFrame,
    encoders: Mapping[str, Encoder],
    config: FitConfig,
    precision: Precision,
    key: Mapping[str, Any],
) -> dict[str, Any]:
    """Return versions, machine and seed of a training, and the hashes of what it was made from."""
    about = environment(config.seed, key["posts"], training_device(config).type) | {"precision": str(precision)}
    about[MADE_FROM] = {
        **whole.attrs.get(MADE_FROM, {}),
        "hashes": input_hashes(key),
        "encoders": {name: encoder.fingerprint() for name, encoder in encoders.items() if not encoder.learned},
    }
    if ranks().count > 1:
        about["devices"] = ranks().count
    return about
