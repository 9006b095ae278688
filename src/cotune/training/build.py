"""From posts and settings to a model that can be trained: encoders opened, posts prepared, a head built."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cotune.data.store import default_root, usable_root
from cotune.encoders.base import Encoder
from cotune.encoders.prepared import ReadOptions
from cotune.encoders.resolve import open_encoder
from cotune.fields import Field
from cotune.heads import HEADS, FusionHead, make_head
from cotune.heads.base import check_options
from cotune.model import JointModel
from cotune.progress import Progress
from cotune.settings import FitConfig
from cotune.tasks import Task
from cotune.training.device import training_device
from cotune.training.encoder_check import check_encoder
from cotune.training.features import Features, prepare
from cotune.training.kept import Source
from cotune.training.parameters import cut_for_top
from cotune.training.ranks import ranks


def open_encoders(config: FitConfig, posts: pd.DataFrame | None = None) -> dict[str, Encoder]:
    """Open the encoders that the configuration's fusion head uses, and check that they can be trained as it asks.

    Parameters
    ----------
    config : FitConfig
        The settings.
    posts : DataFrame, optional
        The posts, for encoders that are learned from them.

    Raises
    ------
    EncoderError
        If an encoder cannot be opened, or its answers cannot be relied on.
    ConfigError
        If it cannot be trained as asked.
    """
    encoders = open_unchecked(config, posts)
    for encoder in {id(encoder): encoder for encoder in encoders.values()}.values():
        check_encoder(encoder, config, cache_root(config))
    return encoders


def open_unchecked(config: FitConfig, posts: pd.DataFrame | None = None) -> dict[str, Encoder]:
    """Open the encoders that the configuration's fusion head uses, and look no further."""
    fields = {field.name: field for field in config.read_fields()}
    reads = HEADS[config.fusion].reads({name: field.kind for name, field in fields.items()})
    check_options(config.fusion, config.head_options)
    encoders: dict[str, Encoder] = {}
    for name in reads:
        owner = fields[name].shared or name
        if owner in encoders:
            encoders[name] = encoders[owner]
        else:
            encoders[name] = _open(fields[owner], config, posts)
            encoders.setdefault(owner, encoders[name])
    return {name: encoders[name] for name in reads}


def _open(field: Field, config: FitConfig, posts: pd.DataFrame | None) -> Encoder:
    values = None if posts is None or field.name not in posts else list(posts[field.name])
    rows = None if posts is None or "row" not in posts else posts["row"].tolist()
    return open_encoder(field, config, values, rows)


def cache_root(config: FitConfig) -> Path:
    """Return the cache folder that the configuration names, or the usual one."""
    return Path(config.cache).expanduser() if config.cache else default_root()


def read_options(
    config: FitConfig, *, allow_remote: bool = False, looks: bool = False, progress: Progress | None = None
) -> ReadOptions:
    """Return how the configuration wants posts to be read: with a cache folder."""
    limit, progress, root = int(config.cache_gb * 1e9), progress or Progress(), cache_root(config)
    if ranks().count == 1:  # several need one that they share
        root = usable_root(root, progress.say)
    return ReadOptions(root, limit, allow_remote, looks, config.engine, progress)


def prepare_posts(
    posts: pd.DataFrame,
    encoders: Mapping[str, Encoder],
    config: FitConfig,
    options: ReadOptions | None = None,
    *,
    device: torch.device | None = None,
) -> Features:
    """Read and cache what the encoders need of the posts."""
    with ranks().first_of_machine_first():
        return prepare(posts, encoders, options or read_options(config), device=device or training_device(config))


def build_model(
    features: Features, task: Task, config: FitConfig, rows: np.ndarray, start: FusionHead | None = None
) -> JointModel:
    """Return a model to train: copies of the pretrained encoders, and a head.

    Parameters
    ----------
    features : Features
        The prepared posts, with the pretrained encoders, which stay as they are.
    task : Task
        What the outputs mean.
    config : FitConfig
        The settings.
    rows : ndarray of int
        The posts to train on, which encoders that are learned from scratch look at.
    start : FusionHead, optional
        A trained head to begin with; the encoders are those it was trained with.
    """
    kinds = {field.name: field.kind for field in config.read_fields()}
    reads = HEADS[config.fusion].reads(kinds) if start is None else start.fields
    copies: dict[int, Encoder] = {}
    for name in reads:
        pretrained = features.encoders[name]
        if id(pretrained) not in copies:
            copies[id(pretrained)] = copy.deepcopy(pretrained)
            if start is None and pretrained.learned:
                copies[id(pretrained)].learn_from(features.fields[name], rows)
    encoders = {name: copies[id(features.encoders[name])] for name in reads}
    if start is None:
        dims = {name: encoder.dim for name, encoder in encoders.items()}
        head = make_head(config.fusion, dims, task.n_outputs, **config.head_settings())
    else:
        head = copy.deepcopy(start).requires_grad_(True)
    model = JointModel(encoders, head, task)
    if config.tune == "top":
        cut_for_top(model, config)
        _share_lower(model, features)
    return model


def _share_lower(model: JointModel, features: Features) -> None:
    """Let the frozen lower parts be those of the pretrained encoders, which training leaves alone, not copies."""
    for name, encoder in model.distinct_encoders.items():
        upper, pretrained = encoder.upper_parameters(), dict(features.encoders[name].model.named_parameters())
        for at, parameter in encoder.model.named_parameters():
            if at not in upper and parameter.device == pretrained[at].device:
                parameter.data = pretrained[at].data


def compute_sources(features: Features, model: JointModel, config: FitConfig) -> dict[str, dict[str, Source]]:
    """Store what the stages read, and return where each kind of it lies, by field."""
    sources: dict[str, dict[str, Source]] = {"raw": {}, "hidden": {}, "pooled": {}}
    for name, encoder in model.encoders.items():
        # What is whole has no activations to keep, and what is learned from scratch has nothing that stays the same.
        sources["raw"][name] = sources["hidden"][name] = sources["pooled"][name] = "raw"
        if encoder.learned:
            continue
        if config.tune == "top" and encoder.n_lower:
            sources["hidden"][name] = features.compute(name, "hidden", encoder)
        if model.head.needs_states:
            sources["pooled"][name] = sources["hidden"][name]
        elif config.probe_epochs or config.tune == "frozen":
            sources["pooled"][name] = features.compute(name, "pooled", encoder)
    return sources
