"""The settings of training: every name, type, default and help text is defined here, and nowhere else.

The flags of the commands, the parameters of the scikit-learn classes, the schema of a settings file and the reference
are made from :class:`FitConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args, get_origin

import pydantic
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from cotune.engines.sessions import Engine
from cotune.errors import ConfigError, clip, did_you_mean
from cotune.fields import DEFAULT_FIELDS, Field, check_fields
from cotune.files import read_yaml
from cotune.ownership import RUN

Tune = Literal["joint", "top", "lora", "frozen"]
Stop = Literal["train-loss", "validation"]
NormalizeText = Literal["none", "invisible", "confusables", "leet"]

# Old names of settings, still read in files, runs and `--set`.
RENAMED = {"clip": "max_grad_norm"}

_TASK, _ENCODERS, _HEAD, _TRAINING = "Task and fields", "Encoders", "Fusion head", "Training"
_HOLDOUT, _MACHINE = "Validation and stopping", "Machine"


def setting(
    default: Any, description: str, panel: str = "", flag_of: str = "fit", *, metavar: str | None = None, **limits: Any
) -> Any:
    """Return a field with its help; `flag_of` lists the commands with a flag for it, `--set` reaches every field."""
    extra: dict[str, Any] = {"panel": panel, "flag_of": flag_of.split(), "metavar": metavar}
    return pydantic.Field(default, description=description, json_schema_extra=extra, **limits)


class FitConfig(BaseModel):
    """All that decides how a model is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: str = setting(
        "auto",
        "What a label is: single-label, multi-label, regression, annotated (labels of fields help to learn the post's "
        "label), or auto: as the labels look.",
        _TASK,
        "fit tune",
    )
    rule: str | None = setting(
        None,
        "How a post's label follows from the labels of its fields: xu-mao, or a table with a column for each field and "
        "one called label.",
        _TASK,
        "fit bench tune",
        metavar="NAME|TABLE",
    )
    fields: tuple[Field, ...] | None = setting(
        None, "What a model reads of a post, if not one text and one image; the column flags of fit set it.", _TASK, ""
    )
    text_encoder: str = setting(
        "bundled:all-MiniLM-L6-v2", "bundled:NAME, hf:OWNER/NAME or a local folder.", _ENCODERS, "fit bench tune"
    )
    image_encoder: str = setting(
        "bundled:efficientnet-lite0",
        "bundled:NAME, timm:NAME, hf:OWNER/NAME or a local folder.",
        _ENCODERS,
        "fit bench tune",
    )
    text_pooling: Literal["auto", "cls", "mean", "max", "last"] = setting(
        "auto", "How token states become one embedding.", _ENCODERS
    )
    image_crop: Literal["encoder", "none"] = setting(
        "encoder", "encoder: crop as in its pretraining; none: the whole image, squeezed to fit.", _ENCODERS
    )
    max_tokens: int = setting(
        128, "Maximum tokens of a text; longer texts are cut.", _ENCODERS, "fit check", ge=4, le=8192
    )

    normalize_text: NormalizeText = setting(
        "none",
        "What is undone in texts before they are read, each with those before it: invisible characters, letters that "
        "only look like others (confusables), digits and signs for letters (leet).",
        _ENCODERS,
        "fit bench tune",
    )

    fusion: str = setting(
        "attention",
        "Fusion head: attention, concat, reference, or one modality alone: text, image.",
        _HEAD,
        "fit tune",
    )
    width: int = setting(128, "Size of the modality tokens, or of the hidden layer.", _HEAD, ge=4)
    heads: int = setting(4, "Attention heads; must divide the width.", _HEAD, "", ge=1)
    dropout: float = setting(0.5, "Dropout in the head.", _HEAD, ge=0, lt=1)
    modality_dropout: float = setting(0.3, "Probability that a training post loses a modality.", _HEAD, ge=0, lt=1)

    head_options: dict[str, Any] = setting({}, "Settings of a fusion head of your own, by name.", _HEAD, "")

    tune: Tune = setting(
        "top",
        "Trained after the probe: all weights, upper layers, adapters, or nothing.",
        _TRAINING,
        "fit bench tune",
    )
    text_top: int | None = setting(None, "Upper text layers that top trains; half of them if not set.", _TRAINING, ge=1)
    image_top: int | None = setting(
        None, "Upper image stages that top trains; a quarter of them if not set.", _TRAINING, ge=1
    )
    epochs: int = setting(3, "Maximum epochs of joint fine-tuning.", _TRAINING, "fit bench", ge=1, le=1000)
    min_epochs: int = setting(3, "Epochs before early stopping may act.", _HOLDOUT, ge=1)
    patience: int = setting(1, "Epochs without improvement before stopping.", _HOLDOUT, ge=1)
    stop: Stop = setting("train-loss", "What early stopping watches.", _HOLDOUT)
    validation: float | str | None = setting(
        None, "Fraction of the posts to hold out, or a posts table.", _HOLDOUT, "fit tune", metavar="FRACTION|POSTS"
    )
    folds_group: Literal["near-duplicates", "group", "none"] = setting(
        "near-duplicates", "Which posts are kept together when a part is held out.", _HOLDOUT, "fit tune"
    )
    also: tuple[str, ...] = setting(
        (),
        "A further table of posts to train on, which may lack fields or labels and is never held out; repeatable.",
        _TRAINING,
        metavar="POSTS",
    )
    also_weight: float = setting(
        1.0, "How much a post of the tables under also counts, where one of the posts table counts 1.", _TRAINING, gt=0
    )
    batch_size: int = setting(32, "Posts in a batch of joint fine-tuning.", _TRAINING, "fit bench", ge=1)
    accumulate: int = setting(1, "Batches per optimizer step.", _TRAINING, ge=1)
    probe_epochs: int = setting(10, "Epochs of the probe; 0 for no probe.", _TRAINING, ge=0)
    probe_batch_size: int = setting(64, "Posts in a batch of the probe.", _TRAINING, "", ge=1)
    probe_lr: float = setting(1e-3, "Learning rate of the probe.", _TRAINING, "", gt=0)

    lr_head: float = setting(3e-4, "Learning rate of the head in joint fine-tuning.", _TRAINING, gt=0)
    lr_text: float = setting(1e-4, "Learning rate of the text encoder's top layer.", _TRAINING, gt=0)
    lr_image: float = setting(3e-4, "Learning rate of the image encoder's top stage.", _TRAINING, gt=0)
    layer_decay: float = setting(
        0.9, "Factor on the learning rate from each layer to the next lower one.", _TRAINING, "", gt=0, le=1
    )
    weight_decay: float = setting(0.01, "Weight decay of AdamW; none on norms and biases.", _TRAINING, "", ge=0)
    warmup: float = setting(0.1, "Fraction of the steps over which the learning rate rises.", _TRAINING, "", ge=0, lt=1)
    max_grad_norm: float = setting(1.0, "Maximum gradient norm; 0 for no limit.", _TRAINING, "", ge=0)
    ema: float = setting(0.0, "Decay of averaged weights; 0 for no averaging.", _TRAINING, "", ge=0, lt=1)
    label_smoothing: float = setting(
        0.0, "Fraction of each label that is spread over all classes.", _TRAINING, ge=0, lt=1
    )
    regression_loss: Literal["squared", "huber"] = setting(
        "squared",
        "Loss of a regression; huber: an error of more than one standard deviation counts linearly, so that outliers "
        "have less effect.",
        _TRAINING,
        "",
    )
    class_weights: Literal["none", "balanced"] = setting(
        "none", "Weights of the classes in the loss; balanced: rare classes count as much as frequent ones.", _TRAINING
    )
    freeze_batch_norm: Literal["auto", "yes", "no"] = setting(
        "auto", "Whether batch-norm statistics stay as pretrained; auto: yes below 64 posts a batch.", _TRAINING, ""
    )

    members: int = setting(
        1,
        "Trainings that differ by their seed; the run predicts the mean of their probabilities, unless distill or soup "
        "makes one model of them.",
        _TRAINING,
        ge=1,
        le=100,
    )
    distill: bool = setting(
        False,
        "Train one model of the usual size on what the members predict of posts that they were not trained on.",
        _TRAINING,
    )
    distill_weight: float = setting(
        0.5, "With distill: the part of the loss that is against what the members predict.", _TRAINING, "", ge=0, le=1
    )
    soup: bool = setting(
        False, "Average the members' weights greedily, as long as the score of held-out posts does not fall.", _TRAINING
    )

    seed: int = setting(
        42, "Seed of initial weights, order of posts and dropout.", _TRAINING, "fit tune", ge=0, le=2**32 - 1
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = setting(
        "auto",
        "auto: the first available of cuda, mps, cpu.",
        _MACHINE,
        "fit bench tune predict evaluate explain serve decide audit calibrate",
    )
    devices: int = setting(
        1, "Devices of each machine that share every batch, each with a process of its own.", _MACHINE, ge=1
    )
    nodes: int = setting(1, "Machines; the command is started on each by torchrun.", _MACHINE, ge=1)
    strategy: Literal["auto", "ddp", "fsdp"] = setting(
        "auto",
        "What several devices hold: ddp the whole model each, fsdp a part of it each; auto is ddp.",
        _MACHINE,
    )
    precision: Literal["auto", "32", "bf16", "16"] = setting(
        "32",
        "Number format of encoders in torch; auto: bf16 on processors and GPUs with units for it, else 32.",
        _MACHINE,
        "fit bench tune predict evaluate serve decide audit",
    )
    bad_images: Literal["skip", "text-only"] = setting(
        "skip", "Training posts with an unreadable image: left out, or used by their text.", _TRAINING
    )
    cache: str | None = setting(
        None, "Folder for cached pixels and embeddings; ~/.cache/cotune if not set.", _MACHINE, "fit bench tune"
    )
    cache_gb: float = setting(20.0, "Maximum cache size in GB.", _MACHINE, gt=0)
    engine: Engine = setting(
        "auto",
        "What runs frozen encoders over the posts; auto: the fastest that is installed, where it pays.",
        _MACHINE,
        "fit bench tune",
    )

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        return current_names(values) if isinstance(values, Mapping) else values

    @field_validator("validation", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        # Flags are strings, and YAML reads 1e-1 as one; what parses as a number is a fraction, not a table.
        with suppress(ValueError, TypeError):
            return float(value)
        return value

    @field_validator("also", mode="before")
    @classmethod
    def _tables(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("fields", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        # Files name fields by their keys.
        if isinstance(value, Mapping):
            return [{"name": str(name), **(dict(about) if about else {})} for name, about in value.items()]
        return value

    @field_validator("fields")
    @classmethod
    def _together(cls, value: tuple[Field, ...] | None) -> tuple[Field, ...] | None:
        return value if value is None else check_fields(value)

    @field_validator("freeze_batch_norm", "precision", "cache", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        # YAML reads yes and no as booleans and 32 as a number; here they are words.
        if isinstance(value, bool):
            return "yes" if value else "no"
        return str(value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _check(self) -> FitConfig:
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        if self.strategy == "fsdp":
            self._check_sharded()
        if isinstance(self.validation, float) and not 0 < self.validation < 1:
            raise ValueError(f"validation is a fraction between 0 and 1 or a posts table, not {self.validation}")
        self._check_members()
        return self

    def _check_members(self) -> None:
        """Refuse what makes no sense of one training, or with several."""
        for name in ("distill", "soup"):
            if getattr(self, name) and self.members < 2:
                raise ValueError(f"{name} needs several trainings; set members to at least 2")
        if self.distill and self.soup:
            raise ValueError("distill and soup each make one model of the members; choose one of them")
        if self.soup and self.tune == "frozen":
            raise ValueError("soup averages fine-tuned encoders, and tune frozen trains none; leave soup out")
        if self.members > 1 and (self.devices > 1 or self.nodes > 1):
            raise ValueError("members are trained one after the other on one device; leave out devices and nodes")

    def _check_sharded(self) -> None:
        """Refuse what needs whole weights while they are trained in parts."""
        refused = {"tune": self.tune != "joint", "ema": self.ema > 0, "precision": self.precision == "16"}
        for name, refuse in refused.items():
            if refuse:
                raise ValueError(
                    f"strategy fsdp does not go with {name} {getattr(self, name)}; it shards what `tune joint` trains. "
                    "Use strategy ddp"
                )

    def read_fields(self) -> tuple[Field, ...]:
        """Return the fields of a post."""
        return self.fields or DEFAULT_FIELDS

    def head_settings(self) -> dict[str, Any]:
        """Return what a fusion head may want to know."""
        usual = self.model_dump(include={"width", "heads", "dropout", "modality_dropout"})
        return {**usual, **self.head_options}


class Setting(NamedTuple):
    """One setting, as commands and documents need it; `flag_of` lists the commands that have a flag for it."""

    name: str
    help: str
    type: Any
    default: Any
    panel: str
    flag_of: list[str]
    metavar: str | None

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that a value may be, if there are only some."""
        return tuple(part for part in get_args(self.type) if isinstance(part, str))

    @property
    def repeatable(self) -> bool:
        """Whether it is a list of words, which its flag is given for one by one."""
        return get_origin(self.type) is tuple and get_args(self.type)[0] is str

    @property
    def kind(self) -> str:
        """What a value may be, in the words of a docstring."""
        words = ", ".join(repr(choice) for choice in self.choices)
        return f"{{{words}}}" if words else getattr(self.type, "__name__", str(self.type)).replace(" | ", " or ")


def settings_of(config: type[FitConfig] = FitConfig) -> list[Setting]:
    """Return all settings of `config`, in their order."""
    return [
        Setting(name, field.description or "", field.annotation, field.default, **cast(Any, field.json_schema_extra))
        for name, field in config.model_fields.items()
    ]


def current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with old names replaced; the value under a new name takes precedence."""
    found = dict(settings)
    for old, new in RENAMED.items():
        if old in found:
            value = found.pop(old)
            found.setdefault(new, value)
    return found


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
        merged.update(current_names(_read_yaml(Path(file))))
    merged.update(current_names({key: value for key, value in settings.items() if value is not None}))
    where = f" in {file}" if file is not None else ""
    for key in merged:
        if key not in FitConfig.model_fields:
            raise ConfigError(f"unknown setting {clip(repr(key))}{where}{did_you_mean(key, FitConfig.model_fields)}")
    try:
        return FitConfig(**merged)
    except ValidationError as fault:
        raise ConfigError("; ".join(_explain(error) for error in fault.errors())) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        path = path / "config.json"  # of a run
    found = read_yaml(path, missing=f"there is no configuration file {path}")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path} must hold `setting: value` lines, not a {type(found).__name__}")
    if RUN.wrote("config.json", found) and isinstance(found.get("fit"), dict):
        found = found["fit"]  # a run's own file: the settings that it was trained with
    return {str(key).replace("-", "_"): value for key, value in found.items()}


def _explain(error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    return f"{field.replace('_', '-')}: {message} (got {clip(repr(error['input']))})" if field else message
