"""Which settings a search tries, and which values of each: a YAML file, or the spaces that come with cotune."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from cotune.errors import ConfigError, clip, did_you_mean, listed
from cotune.files import read_yaml
from cotune.settings import FitConfig, make_config

if TYPE_CHECKING:
    from optuna.trial import Trial

# What is learned, of which posts, on which machine, and how posts are cut: all trials of a search share it.
FIXED = frozenset({"task", "fields", "head_options", "validation", "folds_group", "bad_images", "seed", "stop",
                   "device", "precision", "cache", "cache_gb", "engine"})  # fmt: skip
_FINE_TUNING = frozenset({"lr_head", "lr_text", "lr_image", "layer_decay", "epochs", "min_epochs", "patience",
                          "batch_size", "accumulate", "ema", "freeze_batch_norm"})  # fmt: skip
# Whole numbers that are looked at one by one; of more, only the ends and some in pairs.
_EVERY, _IN_PAIRS = 2000, 12


class Range(BaseModel):
    """Numbers from `low` to `high`, both included.

    Attributes
    ----------
    low, high : float
        The ends.
    log : bool
        Whether each factor, rather than each difference, is as likely; for learning rates and the like.
    step : float or None
        Only `low`, `low` + `step` and so on; 1 for whole numbers if not given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @field_validator("low", "high", "step", mode="before")
    @classmethod
    def _no_words(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("must be a number")
        return value

    @model_validator(mode="after")
    def _check(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range begins above 0, not at {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("a logarithmic range has no step; leave out log or step")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step must be above 0 and at most high - low, not {self.step:g}")
        return self

    def whole(self) -> bool:
        """Tell whether all values are whole numbers."""
        return all(value is None or value == int(value) for value in (self.low, self.high, self.step))

    def spread(self, *, integer: bool, most: int) -> list[float]:
        """Return values to look at: all if they are whole and at most `most`, else the two ends."""
        step = self.step or 1
        if integer and (self.high - self.low) / step < most:
            return [self.low + i * step for i in range(int((self.high - self.low) // step) + 1)]
        return [self.low, self.high]

    def plain(self) -> dict[str, Any]:
        """Return it as a file would say it."""
        found = self.model_dump(exclude_defaults=True)
        return {key: int(value) if isinstance(value, float) and value == int(value) else value
                for key, value in found.items()}  # fmt: skip


Choices: TypeAlias = tuple[Any, ...]
Values: TypeAlias = Range | Choices


@dataclass(frozen=True)
class Space:
    """The settings to be searched, each with its values, in the order in which they are chosen.

    Attributes
    ----------
    settings : mapping
        From a name of :class:`~cotune.settings.FitConfig` to a range or to choices.
    """

    settings: Mapping[str, Values]

    def choose(self, trial: Trial, config: FitConfig) -> FitConfig:
        """Return `config` with a value of each setting that has an effect beside the others, chosen by a trial.

        Raises
        ------
        ConfigError
            If the chosen values contradict one another.
        """
        found: dict[str, Any] = {}
        for name, values in self.settings.items():
            if _without_effect(name, {**config.model_dump(), **found}) is None:
                found[name] = _suggest(trial, name, values)
        return with_settings(config, found)

    def within(self, config: FitConfig) -> dict[str, Any]:
        """Return the settings of `config` that are searched, for a trial of them; without those beyond their range."""
        values = config.model_dump()
        return {
            name: values[name]
            for name, found in self.settings.items()
            if _without_effect(name, values) is None and _holds(found, values[name])
        }

    def most_epochs(self, config: FitConfig) -> int:
        """Return how many epochs the last stage of a trial may have."""

        def most(name: str) -> int:
            values = self.settings.get(name, (getattr(config, name),))
            return int(values.high) if isinstance(values, Range) else max(values)

        modes = self.settings.get("tune", (config.tune,))
        assert isinstance(modes, tuple)
        return max(most("probe_epochs" if mode == "frozen" else "epochs") for mode in modes)

    def plain(self) -> dict[str, Any]:
        """Return the space as a file would say it."""
        return {
            name.replace("_", "-"): values.plain() if isinstance(values, Range) else list(values)
            for name, values in self.settings.items()
        }

    def yaml(self) -> str:
        """Return the space as a file."""
        lines = [f"{name}: {_flow(values)}\n" for name, values in self.plain().items()]
        return "".join(lines)


def with_settings(config: FitConfig, settings: Mapping[str, Any]) -> FitConfig:
    """Return `config` with other settings, checked.

    Raises
    ------
    ConfigError
        If they contradict one another.
    """
    return make_config({**config.model_dump(), **settings})


def read_space(path: Path, config: FitConfig) -> Space:
    """Read a space from a YAML file of settings.

    Parameters
    ----------
    path : Path
        Lines such as ``lr-head: {low: 0.0001, high: 0.001, log: true}`` and ``width: [64, 128]``.
    config : FitConfig
        The settings that are not searched.

    Raises
    ------
    ConfigError
        With file and key, if the file cannot be read, a setting is unknown or cannot be searched, a value is none of
        the setting's, or values contradict one another.
    """
    found = read_yaml(path, missing=f"there is no search space {path}; `cotune tune --show-space` prints one")
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"{path} must hold lines such as `lr-head: {{low: 0.0001, high: 0.001, log: true}}`")
    return make_space(found, config, where=str(path))


def make_space(found: Mapping[str, Any], config: FitConfig, *, where: str = "the search space") -> Space:
    """Return the space that plain values describe, checked; see :func:`read_space`."""
    settings: dict[str, Values] = {}
    for key, value in found.items():
        name = str(key).replace("-", "_")
        if name not in FitConfig.model_fields:
            known = [known for known in FitConfig.model_fields if known not in FIXED]
            raise ConfigError(f"{where}: unknown setting {clip(repr(key))}{did_you_mean(name, known)}")
        if name in FIXED:
            raise ConfigError(f"{where}: {key} is the same for all trials of a search; leave it out of the space")
        if name in settings:
            raise ConfigError(f"{where}: {key} is there twice; keep one of them")
        settings[name] = _values(name, value, f"{where}: {key}")
    # What the others hang on is chosen first.
    order = sorted(settings, key=lambda name: (name != "tune", name != "probe_epochs"))
    space = Space({name: settings[name] for name in order})
    _refuse_idle(space, config, where)
    _refuse_contradictions(space, config, where)
    return space


def default_space(config: FitConfig, task: str | None = None) -> Space:
    """Return the space that is searched if no other is given.

    Parameters
    ----------
    config : FitConfig
        The settings that the search begins from; ``tune`` decides what is worth searching.
    task : str, optional
        The task, if it is known already.
    """
    found: dict[str, Any] = {
        "probe-epochs": {"low": 3, "high": 20},
        "probe-lr": {"low": 2e-4, "high": 5e-3, "log": True},
        "width": [64, 128, 256],
        "dropout": {"low": 0.1, "high": 0.7},
        "modality-dropout": {"low": 0, "high": 0.5},
        "weight-decay": {"low": 1e-4, "high": 0.1, "log": True},
    }
    widths = [width for width in found["width"] if not width % config.heads]
    found["width"] = widths if len(widths) > 1 else [config.heads * 16, config.heads * 32]
    if config.fusion in ("attention", "concat"):
        found["fusion"] = ["attention", "concat"]
    if (task or config.task) != "regression":
        found["label-smoothing"] = {"low": 0, "high": 0.2}
    if config.tune == "frozen":
        found["probe-batch-size"] = [32, 64, 128]
    else:
        found |= {
            "lr-head": {"low": 5e-5, "high": 2e-3, "log": True},
            "lr-text": {"low": 2e-5, "high": 5e-4, "log": True},
            "lr-image": {"low": 5e-5, "high": 1e-3, "log": True},
            "layer-decay": {"low": 0.7, "high": 1},
            "epochs": {"low": 2, "high": 5},
            "batch-size": [16, 32, 64],
            "ema": [0, 0.9, 0.98],
        }
    settings: dict[str, Values] = {}
    for key, value in found.items():
        name = key.replace("-", "_")
        settings[name] = _values(name, value, key)
    return Space(settings)


def _values(name: str, value: Any, where: str) -> Values:
    """Return a range or choices of a setting, each value as the setting has it."""
    kinds = _kinds(name)
    if isinstance(value, list):
        if len(value) < 2:
            raise ConfigError(f"{where}: a list of choices needs two at least; what does not vary is given by --set")
        if any(isinstance(item, dict | list) for item in value):
            raise ConfigError(f"{where}: choices are single values, not lists or mappings")
        choices = tuple(_checked(name, item, where) for item in value)
        if len(set(choices)) < len(choices):
            raise ConfigError(f"{where}: a choice is there twice in {clip(repr(value))}")
        return choices
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be {{low: ..., high: ...}} or a list of choices, not {clip(repr(value))}")
    if not kinds & {int, float}:
        raise ConfigError(f"{where}: its values are words, so give a list of choices{_known(name)}")
    try:
        found = Range(**{str(key): item for key, item in value.items()})
    except ValidationError as fault:
        raise ConfigError(f"{where}: {_first(fault)}") from None
    if float not in kinds and not found.whole():
        raise ConfigError(f"{where}: takes whole numbers; make low, high and step whole")
    for item in (found.low, found.high):
        _checked(name, int(item) if float not in kinds else item, where)
    return found


def _kinds(name: str) -> set[Any]:
    annotation: Any = FitConfig.model_fields[name].annotation
    return {annotation, *get_args(annotation)}


def _known(name: str) -> str:
    words = [word for word in get_args(FitConfig.model_fields[name].annotation) if isinstance(word, str)]
    return f" out of {listed(words)}" if words else ""


def _checked(name: str, value: Any, where: str) -> Any:
    """Return a value as the settings have it; whether it suits the others is looked at later."""
    if value is None and type(None) not in _kinds(name):
        raise ConfigError(f"{where}: null is no value of it{_known(name)}")
    try:
        return getattr(FitConfig(**{name: value}), name)
    except ValidationError as fault:
        own = [error for error in fault.errors() if error["loc"]]
        if own:
            message = own[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{where}: {message} (got {clip(repr(own[0]['input']))})") from None
        return value


def _first(fault: ValidationError) -> str:
    error = fault.errors()[0]
    key = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"is unknown{did_you_mean(key, Range.model_fields)}"
    return f"{key}: {message}" if key else message


def _refuse_idle(space: Space, config: FitConfig, where: str) -> None:
    """Refuse a setting that has no effect in any trial."""
    modes = space.settings.get("tune", (config.tune,))
    assert isinstance(modes, tuple)
    probe = 1 if "probe_epochs" in space.settings else config.probe_epochs
    worlds = [{"tune": mode, "probe_epochs": probe} for mode in modes]
    for name in space.settings:
        reasons = [_without_effect(name, world) for world in worlds]
        if None not in reasons:
            raise ConfigError(
                f"{where}: {name.replace('_', '-')} has no effect with {reasons[0]}; leave it out, or change that"
            )


def _refuse_contradictions(space: Space, config: FitConfig, where: str) -> None:
    """Refuse values that cannot go together: each beside the first of the others, and pairs of them."""
    every, some = ({name: _look_at(name, values, most) for name, values in space.settings.items()}
                   for most in (_EVERY, _IN_PAIRS))  # fmt: skip
    first = {name: values[0] for name, values in every.items()}
    for name, values in every.items():
        for value in values:
            problem = _problem(config, {**first, name: value})
            if problem is not None:
                raise ConfigError(f"{where}: {name.replace('_', '-')}: {problem}")
    for a, b in combinations(space.settings, 2):
        for x, y in product(some[a], some[b]):
            problem = _problem(config, {**first, a: x, b: y})
            if problem is not None:
                names = " and ".join(name.replace("_", "-") for name in (a, b))
                raise ConfigError(f"{where}: {names} contradict each other: {problem}")


def _look_at(name: str, values: Values, most: int) -> list[Any]:
    if not isinstance(values, Range):
        return list(values)
    whole = float not in _kinds(name)
    return [int(value) if whole else value for value in values.spread(integer=whole, most=most)]


def _problem(config: FitConfig, settings: Mapping[str, Any]) -> str | None:
    try:
        found = with_settings(config, settings)
    except ConfigError as fault:
        return str(fault)
    if found.tune == "frozen" and not found.probe_epochs:
        return "nothing would be trained with tune frozen and probe-epochs 0"
    return None


def _without_effect(name: str, settings: Mapping[str, Any]) -> str | None:
    """Return the setting beside which another one has no effect, None if it has one."""
    tune = settings["tune"]
    if name in _FINE_TUNING and tune == "frozen":
        return "tune frozen"
    if name in ("text_top", "image_top") and tune != "top":
        return f"tune {tune}"
    if name in ("probe_lr", "probe_batch_size") and not settings["probe_epochs"]:
        return "probe-epochs 0"
    return None


def _holds(values: Values, value: Any) -> bool:
    if not isinstance(values, Range):
        return value in values
    if value is None or not values.low <= value <= values.high:
        return False
    steps = (value - values.low) / (values.step or 1)
    return values.step is None or abs(steps - round(steps)) < 1e-9


def _suggest(trial: Trial, name: str, values: Values) -> Any:
    if not isinstance(values, Range):
        return trial.suggest_categorical(name, list(values))
    if float in _kinds(name):
        return trial.suggest_float(name, values.low, values.high, log=values.log, step=values.step)
    return trial.suggest_int(name, int(values.low), int(values.high), log=values.log, step=int(values.step or 1))


def _flow(values: Any) -> str:
    """Return a value as YAML on one line; small numbers so that YAML reads them as numbers."""
    if isinstance(values, dict):
        return "{" + ", ".join(f"{key}: {_flow(value)}" for key, value in values.items()) + "}"
    if isinstance(values, list):
        return "[" + ", ".join(map(_flow, values)) + "]"
    return str(yaml.safe_dump(values, default_flow_style=True)).splitlines()[0]
