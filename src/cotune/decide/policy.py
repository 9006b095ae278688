"""What a policy asks for, and the record of the thresholds that were chosen for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cotune._version import __version__
from cotune.checksums import seal_holds, sealed
from cotune.errors import ConfigError, clip, did_you_mean
from cotune.files import read_yaml
from cotune.ownership import DECISIONS

Route = Literal["act", "review", "allow"]
ROUTES: tuple[Route, ...] = ("act", "review", "allow")
RECORD = "policy.json"
FORMAT = 1
_EXAMPLE = "`class: hateful`, `act: {precision: 0.95}` and `allow: {recall: 0.95}`"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Act(_Part):
    """When to act: at least this part of the posts acted on has the class."""

    precision: float = Field(gt=0, lt=1)


class Allow(_Part):
    """When to allow: at least this part of the posts of the class is not allowed."""

    recall: float = Field(gt=0, lt=1)


class Policy(_Part):
    """Three-way routing by the probability of one class.

    Attributes
    ----------
    class_ : str
        The class, `class` in files.
    act, allow : Act, Allow or None
        Targets; without one of them no post takes that route.
    known : {"act", "review", "allow"} or None
        Where posts go whose image is known, whatever the model says of them; None where none is looked for.
    confidence : float
        Probability with which each target is kept.
    version : str
        What its owner calls it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    class_: str = Field(alias="class", min_length=1)
    act: Act | None = None
    allow: Allow | None = None
    known: Route | None = None
    confidence: float = Field(0.95, ge=0.5, le=0.999999)
    version: str = "1"

    @field_validator("class_", "version", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check(self) -> Policy:
        if self.act is None and self.allow is None:
            raise ValueError("a policy needs a target: act with a precision, allow with a recall, or both")
        return self

    def plain(self) -> dict[str, Any]:
        """Return it as a file would say it."""
        return self.model_dump(by_alias=True, exclude_none=True)


class _Threshold(BaseModel):
    value: float


class _Thresholds(BaseModel):
    act: _Threshold | None
    allow: _Threshold | None


class _Record(BaseModel):
    """What of a record is relied on."""

    policy: dict[str, Any]
    run: dict[str, Any]
    thresholds: _Thresholds


@dataclass(frozen=True)
class ChosenPolicy:
    """A policy with the thresholds that were chosen for it, as ``policy.json`` holds it.

    Attributes
    ----------
    policy : Policy
        What was asked for.
    record : dict
        What the file holds: the policy, the run's hash, the thresholds and what they rest on.
    """

    policy: Policy
    record: dict[str, Any]

    @classmethod
    def make(cls, policy: Policy, run: Mapping[str, Any], thresholds: Mapping[str, Any], **more: Any) -> ChosenPolicy:
        """Return the policy with a sealed record; equal choices have equal hashes."""
        about = {"format": FORMAT, "cotune": __version__, "policy": policy.plain(), "run": dict(run)}
        return cls(policy, sealed({**DECISIONS.mark(), **about, "thresholds": dict(thresholds), **more}))

    @property
    def hash(self) -> str:
        """A hash of all that the record says."""
        return str(self.record["checksum"])

    @property
    def thresholds(self) -> dict[str, float | None]:
        """The thresholds of `act` and `allow`; None where no post takes the route."""
        found = self.record["thresholds"]
        return {route: None if found[route] is None else float(found[route]["value"]) for route in ("act", "allow")}


def route_of(probability: float, thresholds: Mapping[str, float | None]) -> Route:
    """Return the route of a post; one without a probability is reviewed."""
    act, allow = thresholds["act"], thresholds["allow"]
    if act is not None and probability > act:
        return "act"
    return "allow" if allow is not None and probability < allow else "review"


def read_policy(path: Path) -> Policy | ChosenPolicy:
    """Read a policy, or the record of one whose thresholds were chosen.

    Raises
    ------
    ConfigError
        If a key is unknown (the nearest is named) or a value out of range, or the record was changed.
    """
    found = read_yaml(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no policy; it has lines such as {_EXAMPLE}")
    if "written_by" not in found:
        return make_policy(found, str(path))
    if not DECISIONS.wrote(RECORD, found) or found.get("format") != FORMAT:
        raise ConfigError(f"{path} is no policy that this version of cotune wrote; choose its thresholds again")
    if "checksum" not in found or not seal_holds(found):
        raise ConfigError(f"{path} was changed (its checksum differs); choose its thresholds again from the policy")
    try:
        _Record.model_validate(found)
    except ValidationError as fault:
        wrong = ".".join(map(str, fault.errors()[0]["loc"]))
        raise ConfigError(f"{path} is damaged ({clip(wrong)}); choose its thresholds again from the policy") from None
    return ChosenPolicy(make_policy(found["policy"], str(path)), found)


def make_policy(found: Mapping[Any, Any], where: str = "the policy") -> Policy:
    """Return the policy that plain values describe, checked; see :func:`read_policy`."""
    try:
        return Policy.model_validate({str(key): value for key, value in found.items()})
    except ValidationError as fault:
        raise ConfigError(f"{where}: {'; '.join(_explain(error) for error in fault.errors())}") from None


def _explain(error: Any) -> str:
    *into, name = (str(part) for part in error["loc"]) if error["loc"] else ("",)
    parts: dict[str, type[BaseModel]] = {"act": Act, "allow": Allow}
    known = parts.get(into[0] if into else "", Policy).model_fields
    names = [field.alias or name for name, field in known.items()]
    place = ".".join([*into, name])
    if error["type"] == "extra_forbidden":
        return f"unknown key {clip(place)!r}{did_you_mean(name, names)}; known are {', '.join(names)}"
    if error["type"] == "missing":
        return f"{place} is missing; a policy has {_EXAMPLE}"
    if error["type"] == "model_type" and name in parts:
        (key,) = parts[name].model_fields
        return f"{place}: give its target, such as `{name}: {{{key}: 0.95}}` (got {clip(repr(error['input']))})"
    message = error["msg"].removeprefix("Value error, ")
    return f"{place}: {message} (got {clip(repr(error['input']))})" if name else message
