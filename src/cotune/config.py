"""Settings: frozen, validated, from YAML and flags; an unknown key names the nearest known one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cotune.errors import ConfigError, did_you_mean
from cotune.ownership import RUN

Tune = Literal["joint", "top", "lora", "frozen"]
Stop = Literal["train-loss", "validation"]


class FitConfig(BaseModel):
    """All that decides how a model is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    text_encoder: str = Field("bundled:all-MiniLM-L6-v2", description="bundled:, hf: or a local folder")
    image_encoder: str = Field("bundled:efficientnet-lite0", description="bundled:, timm:, hf: or a local folder")
    text_pooling: Literal["auto", "cls", "mean", "max", "last"] = Field(
        "auto", description="how token states become one embedding"
    )
    image_crop: Literal["encoder", "none"] = Field(
        "encoder", description="encoder: as its own preprocessing crops; none: the whole picture, squeezed to fit"
    )
    max_tokens: int = Field(128, ge=4, le=8192, description="longer texts are cut here")

    fusion: str = Field("attention", description="fusion head")
    width: int = Field(128, ge=4, description="size of the modality tokens, or of the hidden layer")
    heads: int = Field(4, ge=1, description="attention heads; must divide the width")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout in the head")
    modality_dropout: float = Field(0.3, ge=0, lt=1, description="chance that a training post loses a modality")

    tune: Tune = Field("top", description="which weights are trained after the probe")
    text_top: int | None = Field(None, ge=1, description="upper text layers that `top` trains (default: half)")
    image_top: int | None = Field(None, ge=1, description="upper image stages that `top` trains (default: a quarter)")

    epochs: int = Field(3, ge=1, le=1000, description="most epochs of joint fine-tuning")
    min_epochs: int = Field(3, ge=1, description="epochs before early stopping may act")
    patience: int = Field(1, ge=1, description="epochs without progress before stopping")
    stop: Stop = Field("train-loss", description="what early stopping watches")
    validation: float | str | None = Field(
        None, description="part of the training posts, or a posts table, to validate on"
    )
    folds_group: Literal["near-duplicates", "group", "none"] = Field(
        "near-duplicates", description="which posts may not be parted when a validation part is cut"
    )
    batch_size: int = Field(32, ge=1, description="posts in a batch of joint fine-tuning")
    accumulate: int = Field(1, ge=1, description="batches per optimiser step")
    probe_epochs: int = Field(10, ge=0, description="epochs of the probe; 0 for no probe")
    probe_batch_size: int = Field(64, ge=1, description="posts in a batch of the probe")
    probe_lr: float = Field(1e-3, gt=0, description="learning rate of the probe")

    lr_head: float = Field(3e-4, gt=0, description="learning rate of the head in joint fine-tuning")
    lr_text: float = Field(1e-4, gt=0, description="learning rate of the text encoder, above its layers")
    lr_image: float = Field(3e-4, gt=0, description="learning rate of the image encoder, above its stages")
    layer_decay: float = Field(0.9, gt=0, le=1, description="each lower layer learns this much slower")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW; none on norms and biases")
    warmup: float = Field(0.1, ge=0, lt=1, description="part of the steps over which the rate rises")
    clip: float = Field(1.0, ge=0, description="gradient norm limit; 0 for none")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of averaged weights; 0 for none")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="part of the target that all classes share")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: posts of rare classes count more in the loss"
    )
    freeze_batch_norm: Literal["auto", "yes", "no"] = Field("auto", description="auto: yes below 64 posts a batch")

    seed: int = Field(42, ge=0, le=2**32 - 1, description="of first weights, order of posts and dropout")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: the first of cuda, mps, cpu")
    precision: Literal["auto", "32", "bf16", "16"] = Field(
        "auto", description="auto: bf16 on CUDA that has it, else 32"
    )
    bad_images: Literal["skip", "text-only"] = Field(
        "skip", description="training posts whose image cannot be read: left out, or used by their text alone"
    )
    cache: str | None = Field(None, description="folder for pixels and embeddings (default: ~/.cache/cotune)")
    cache_gb: float = Field(20.0, gt=0, description="size that the cache must not outgrow")

    @field_validator("validation", mode="before")
    @classmethod
    def _number(cls, said: Any) -> Any:
        # Flags are strings, and YAML takes 1e-1 for one; what reads as a number is a part, not a table.
        with suppress(ValueError, TypeError):
            return float(said)
        return said

    @field_validator("freeze_batch_norm", "precision", "cache", mode="before")
    @classmethod
    def _word(cls, said: Any) -> Any:
        # YAML takes yes and no for truth values and 32 for a number; here they are words.
        return (
            {True: "yes", False: "no"}[said] if isinstance(said, bool) else str(said) if isinstance(said, int) else said
        )

    @model_validator(mode="after")
    def _check(self) -> FitConfig:
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        if isinstance(self.validation, float) and not 0 < self.validation < 1:
            raise ValueError(f"validation is a part between 0 and 1 or a posts table, not {self.validation}")
        return self

    def head_settings(self) -> dict[str, Any]:
        """Return what a fusion head may want to know."""
        return self.model_dump(include={"width", "heads", "dropout", "modality_dropout"})


def make_config(settings: Mapping[str, Any], *, file: str | Path | None = None) -> FitConfig:
    """Build a configuration from a YAML file and, on top of it, single settings.

    Parameters
    ----------
    settings : mapping
        Settings that were given; a value of None counts as not given.
    file : path, optional
        A YAML or JSON mapping of settings; or a run, or its ``config.json``, for the settings it was trained with.

    Raises
    ------
    ConfigError
        If a key is unknown (the nearest is named) or a value out of range.
    """
    merged: dict[str, Any] = {}
    if file is not None:
        merged.update(_read_yaml(Path(file)))
    merged.update({key: value for key, value in settings.items() if value is not None})
    where = f" in {file}" if file is not None else ""
    for key in merged:
        if key not in FitConfig.model_fields:
            raise ConfigError(f"unknown setting {key!r}{where}{did_you_mean(key, FitConfig.model_fields)}")
    try:
        return FitConfig(**merged)
    except ValidationError as fault:
        raise ConfigError("; ".join(_explain(error) for error in fault.errors())) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        path = path / "config.json"  # of a run
    try:
        text = path.read_text(encoding="utf-8")
        said = yaml.safe_load(text) if path.suffix != ".json" else json.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(f"the configuration file {path} cannot be read: {fault}") from None
    except (yaml.YAMLError, json.JSONDecodeError) as fault:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ConfigError(f"{path} is not valid {kind}: {' '.join(str(fault).split())}") from None
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise ConfigError(f"{path} must hold `setting: value` lines, not a {type(said).__name__}")
    if RUN.wrote("config.json", said) and isinstance(said.get("fit"), dict):
        said = said["fit"]  # a run's own file: the settings that it was trained with
    return {str(key).replace("-", "_"): value for key, value in said.items()}


def _explain(error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    return f"{field.replace('_', '-')}: {message} (got {error['input']!r})" if field else message
