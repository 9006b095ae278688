"""The recipe: a probe on frozen embeddings, then joint fine-tuning that starts from the probe's head."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.fabric import Fabric

from cotune.data.store import default_root
from cotune.encoders.base import Encoder
from cotune.encoders.resolve import resolve_image, resolve_text
from cotune.errors import ConfigError
from cotune.fusion import HEADS, FusionHead, make_head
from cotune.model import JointModel
from cotune.progress import Progress
from cotune.settings import FitConfig
from cotune.training.checkpoint import Checkpoint, to_device
from cotune.training.device import make_fabric, one_thread
from cotune.training.encoder_check import check_encoder
from cotune.training.features import Features, Source
from cotune.training.loop import (
    StagePlan,
    StageState,
    copy_tensors,
    final_weights,
    put_back,
    run_stage,
    trained_tensors,
)
from cotune.training.lora import add_adapters, merge_adapters
from cotune.training.parameters import cut_for_top, freeze, parameter_groups
from cotune.training.prepare import prepare

_LOWER_SOURCE = {"joint": "raw", "lora": "raw", "top": "hidden", "frozen": "pooled"}


@dataclass
class Trained:
    """What training gives.

    Attributes
    ----------
    model : JointModel
        In evaluation mode; after ``top`` its encoders are still cut, so that they take cached activations as well as
        raw inputs.
    history : list of dict
        One entry for each epoch of each stage.
    source : dict
        From which source of the features this model may be fed, by modality.
    interrupted : bool
        Whether the user stopped it; the model is that of the last finished epoch.
    """

    model: JointModel
    history: list[dict[str, Any]] = field(default_factory=list)
    source: dict[str, Source] = field(default_factory=dict)
    interrupted: bool = False


def open_encoders(config: FitConfig) -> dict[str, Encoder]:
    """Open the encoders that the configuration's fusion head uses, and check that they can be trained as it asks.

    Raises
    ------
    EncoderError
        If an encoder cannot be opened, or its answers cannot be relied on.
    ConfigError
        If it cannot be trained as asked.
    """
    encoders = open_unchecked(config)
    for encoder in encoders.values():
        check_encoder(encoder, config, cache_root(config))
    return encoders


def open_unchecked(config: FitConfig) -> dict[str, Encoder]:
    """Open the encoders that the configuration's fusion head uses, and look no further."""
    uses = HEADS[config.fusion].uses
    encoders: dict[str, Encoder] = {}
    if "text" in uses:
        encoders["text"] = resolve_text(config.text_encoder, pooling=config.text_pooling, max_tokens=config.max_tokens)
    if "image" in uses:
        encoders["image"] = resolve_image(config.image_encoder, crop=config.image_crop)
    return encoders


def cache_root(config: FitConfig) -> Path:
    """Return the cache folder that the configuration names, or the usual one."""
    return Path(config.cache).expanduser() if config.cache else default_root()


def prepare_posts(
    posts: pd.DataFrame,
    encoders: Mapping[str, Encoder],
    config: FitConfig,
    *,
    allow_remote: bool = False,
    progress: Progress | None = None,
    fabric: Fabric | None = None,
) -> Features:
    """Read and cache what the encoders need of the posts."""
    return prepare(
        posts,
        encoders,
        root=cache_root(config),
        max_bytes=int(config.cache_gb * 1e9),
        device=(fabric or make_fabric(config)).device,
        allow_remote=allow_remote,
        progress=progress,
    )


def fit_rows(
    features: Features,
    labels: np.ndarray,
    rows: np.ndarray,
    n_classes: int,
    config: FitConfig,
    *,
    validation_rows: np.ndarray | None = None,
    validation: tuple[Features, np.ndarray] | None = None,
    sample_weight: np.ndarray | None = None,
    start: FusionHead | None = None,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
    on_epoch: Any = None,
    progress: Progress | None = None,
    fabric: Fabric | None = None,
) -> Trained:
    """Train a model on some of the prepared posts; the encoders that `features` holds stay untouched.

    Parameters
    ----------
    features : Features
        The prepared posts, with the pretrained encoders.
    labels : ndarray of int
        Class index of every post.
    rows : ndarray of int
        The posts to train on.
    n_classes : int
        Number of classes.
    config : FitConfig
        The settings.
    validation_rows : ndarray of int, optional
        Held-out posts among `features`.
    validation : tuple of Features and ndarray, optional
        A validation table of its own, with labels.
    sample_weight : ndarray, optional
        How much each post of `features` counts in the loss; only their proportions matter.
    start : FusionHead, optional
        A trained head to begin with; the encoders in `features` are those it was trained with.
    checkpoint : Checkpoint, optional
        Where the state is kept between epochs.
    resume : bool
        Whether to go on from the checkpoint.
    on_epoch : callable, optional
        Called with each new row of the history.
    progress : Progress, optional
        Whom to tell.
    fabric : Fabric, optional
        Device and precision; made from the configuration by default.
    """
    progress = progress or Progress()
    fabric = fabric or make_fabric(config)
    torch.manual_seed(config.seed)
    encoders = {name: copy.deepcopy(features.encoders[name]) for name in HEADS[config.fusion].uses}
    dims = {name: encoder.dim for name, encoder in encoders.items()}
    if start is None:
        head = make_head(config.fusion, dims.get("text", 0), dims.get("image", 0), n_classes, **config.head_settings())
    else:
        head = copy.deepcopy(start).requires_grad_(True)
    post_weights = None if sample_weight is None else sample_weight / sample_weight[rows].mean()
    counts = np.bincount(labels[rows], None if post_weights is None else post_weights[rows], minlength=n_classes)
    weights = _class_weights(counts, config)
    head.set_prior(counts * np.asarray(weights or 1.0))
    model = JointModel(encoders.get("text"), encoders.get("image"), head).to(fabric.device)
    if config.tune == "top":
        cut_for_top(model, config)
        _share_lower(model, features)
    tables = [features] if validation is None else [features, validation[0]]
    sources, *_ = [_compute(table, model, config) for table in tables]
    done: dict[str, list[dict[str, Any]]] = {}
    resumed: tuple[str, StageState] | None = None
    if resume and checkpoint is not None and checkpoint.exists():
        stage, state, done = checkpoint.load()
        resumed = (stage, to_device(state, fabric.device))
        progress.say(f"resuming: {stage}, after epoch {state.epoch}")
    trained = Trained(model)
    common: dict[str, Any] = {
        "validation_rows": validation_rows,
        "validation": validation,
        "progress": progress,
    }
    watched = validation_rows is not None or validation is not None
    for plan in _plans(config, weights, post_weights, sources, watched=watched, started=start is not None):
        if plan.name in done and not (resumed and resumed[0] == plan.name):
            trained.history += done[plan.name]
            continue
        _set_gradients(model, plan.name, config)
        state_before = resumed[1] if resumed and resumed[0] == plan.name else None
        if state_before is None and resumed and plan.name == "probe":
            raise AssertionError("a checkpoint of a later stage lists the stages before it")
        groups = _groups(model, plan.name, config)
        history = list(trained.history)
        before = copy_tensors(trained_tensors(model, plan))
        saved = [plan.name] if state_before is not None else []

        def after(
            state: StageState, plan: StagePlan = plan, history: list[Any] = history, saved: list[str] = saved
        ) -> None:
            if checkpoint is not None:
                # Later stages begin from the earlier one's weights, which the state then holds.
                checkpoint.save(plan.name, state, dict(done))
                saved.append(plan.name)
            if on_epoch is not None:
                on_epoch([*history, *state.history])

        try:
            with one_thread(plan.name == "probe" and fabric.device.type == "cpu"):
                state = run_stage(
                    fabric, model, groups, features, labels, rows, plan, state=state_before, on_epoch=after, **common
                )
        except KeyboardInterrupt:
            if checkpoint is None or not (saved or history):
                raise
            trained.interrupted = True
            if saved:
                state = checkpoint.load()[1]
                put_back(trained_tensors(model, plan), final_weights(state))
                trained.history = [*history, *state.history]
            else:  # no epoch of this stage is done: back to where the stage before ended
                put_back(trained_tensors(model, plan), before)
            break
        trained.history = [*history, *state.history]
        done[plan.name] = state.history
    trained.source = sources[_LOWER_SOURCE[config.tune]]
    return _finish(trained, config)


def _share_lower(model: JointModel, features: Features) -> None:
    """Let the frozen lower parts be those of the pretrained encoders, which training leaves alone, not copies."""
    for name, encoder in model.encoders.items():
        upper, pretrained = encoder.upper_parameters(), dict(features.encoders[name].model.named_parameters())
        for at, parameter in encoder.model.named_parameters():
            if at not in upper and parameter.device == pretrained[at].device:
                parameter.data = pretrained[at].data


def _plans(
    config: FitConfig,
    weights: tuple[float, ...] | None,
    post_weights: np.ndarray | None,
    sources: Mapping[str, dict[str, Source]],
    *,
    watched: bool,
    started: bool,
) -> list[StagePlan]:
    """Return the stages in their order; `started` says whether the head they begin with has been trained."""
    common: dict[str, Any] = {
        "seed": config.seed,
        "warmup": config.warmup,
        "max_grad_norm": config.max_grad_norm,
        "label_smoothing": config.label_smoothing,
        "class_weights": weights,
        "post_weights": None if post_weights is None else torch.from_numpy(post_weights),
        "stop": config.stop if watched else "train-loss",
        "keep_best": config.stop == "validation" and watched,
    }
    plans = []
    if config.probe_epochs:
        plans.append(
            StagePlan(
                "probe",
                sources["pooled"],
                config.probe_epochs,
                config.probe_batch_size,
                min_epochs=config.probe_epochs,
                trained_start=started,
                **common,
            )
        )
    if config.tune != "frozen":
        frozen = config.freeze_batch_norm == "yes" or (config.freeze_batch_norm == "auto" and config.batch_size < 64)
        plans.append(
            StagePlan(
                config.tune,
                sources[_LOWER_SOURCE[config.tune]],
                config.epochs,
                config.batch_size,
                min_epochs=min(config.min_epochs, config.epochs),
                patience=config.patience,
                accumulate=config.accumulate,
                ema=config.ema,
                frozen_norms=frozen,
                trained_start=started or bool(plans),
                **common,
            )
        )
    if not plans:
        raise ConfigError("nothing would be trained: --tune frozen needs --probe-epochs of at least 1")
    return plans


def _compute(features: Features, model: JointModel, config: FitConfig) -> dict[str, dict[str, Source]]:
    """Store what the stages read, and return where each kind of it lies, by modality."""
    sources: dict[str, dict[str, Source]] = {"raw": {}, "hidden": {}, "pooled": {}}
    for name, encoder in model.encoders.items():
        sources["raw"][name] = sources["hidden"][name] = "raw"  # an encoder that is whole has no activations to keep
        if config.tune == "top" and encoder.n_lower:
            sources["hidden"][name] = features.compute(encoder.modality, "hidden", encoder)
        if config.probe_epochs or config.tune == "frozen":
            sources["pooled"][name] = features.compute(encoder.modality, "pooled", encoder)
    return sources


def _set_gradients(model: JointModel, stage: str, config: FitConfig) -> None:
    if stage == "probe":
        for encoder in model.encoders.values():
            encoder.requires_grad_(False)
    elif config.tune == "lora":
        add_adapters(model, seed=config.seed)
    else:
        freeze(model)


def _groups(model: JointModel, stage: str, config: FitConfig) -> list[dict[str, Any]]:
    if stage == "probe":
        config = config.model_copy(update={"lr_head": config.probe_lr})
    return parameter_groups(model, config)


def _class_weights(counts: np.ndarray, config: FitConfig) -> tuple[float, ...] | None:
    """Return weights inversely proportional to class frequency, mean one over the posts."""
    if config.class_weights == "none":
        return None
    return tuple(float(counts.sum() / (len(counts) * count)) if count else 0.0 for count in counts)


def _finish(trained: Trained, config: FitConfig) -> Trained:
    model = trained.model
    if config.tune == "lora":
        for encoder in model.encoders.values():
            merge_adapters(encoder)
    for encoder in model.encoders.values():
        encoder.weights_changed()
    model.requires_grad_(False).eval()
    return trained
