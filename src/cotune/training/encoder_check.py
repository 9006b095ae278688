"""One look at an encoder before anything is built on it: whether its answers vary, and how it can be trained.

A network with random parts, or one that lets padding change its answer, gives other predictions for the same post;
a network that cannot be cut or adapted fails in the middle of training. A few random posts tell, in a fraction of
a second. What is found is kept in the cache under the encoder's fingerprint, and is not computed twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotune.encoders.base import Encoder
from cotune.encoders.text import TextEncoder
from cotune.errors import ConfigError, CotuneError, EncoderError, first_line
from cotune.files import read_json, write_json
from cotune.settings import FitConfig, Tune
from cotune.training.lora import adapt, merge_adapters
from cotune.training.parameters import freeze_norms, lower_units

#: How far two answers that should be equal may lie apart, as a part of the largest value.
TOLERANCE = 1e-4
_OTHERS: tuple[Tune, ...] = ("top", "joint", "lora", "frozen")
_FORM = 1


def check_encoder(encoder: Encoder, config: FitConfig, root: Path | None = None) -> None:
    """Refuse an encoder whose answers vary, or that cannot be trained as the configuration asks.

    A text encoder that padding changes is told to encode texts of different length apart (``by_length``).

    Parameters
    ----------
    encoder : Encoder
        Just opened and whole.
    config : FitConfig
        ``tune`` and the depths of the cut say what will be done with it.
    root : Path, optional
        Cache folder where the outcome is kept; without it nothing is kept.

    Raises
    ------
    EncoderError
        If the encoder answers differently when asked twice, or by the company that a post is in.
    ConfigError
        If it cannot be trained as asked; the line says which ways remain.
    """
    if encoder.learned:
        return
    path = None if root is None else root / "checks" / f"{encoder.fingerprint()}.json"
    known = _read(path)
    before = dict(known)
    if "answers" not in known:
        known["answers"] = _answers(encoder)
    if known["answers"] == "by length":
        _encode_by_length(encoder)
    elif known["answers"]:
        raise EncoderError(f"{encoder.spec} {known['answers']}; choose another encoder")
    way = _way(encoder, config)
    if way not in known:
        known[way] = _refusal(encoder, config)
    if path is not None and known != before:
        with suppress(CotuneError):  # where it cannot be written down it is found out again
            write_json(path, {"made with": _versions(), **known})
    if known[way]:
        raise ConfigError(f"{known[way]}; use --tune {_remaining(encoder, config)}")


def _way(encoder: Encoder, config: FitConfig) -> str:
    """Return how the encoder will be trained, with the depth of the cut if there is one."""
    return f"top {lower_units(encoder, config)}" if config.tune == "top" else config.tune


def _remaining(encoder: Encoder, config: FitConfig) -> str:
    """Return the ways of training that are left, for a message."""
    left = []
    for tune in _OTHERS:
        try:
            if tune != config.tune and not _refusal(encoder, config.model_copy(update={"tune": tune})):
                left.append(tune)
        except ConfigError:  # peft may not be installed
            continue
    return " or ".join([", ".join(left[:-1]), left[-1]] if len(left) > 1 else left)


# ---- what is found out ---------------------------------------------------------------------------


def _answers(encoder: Encoder) -> str:
    """Return what is wrong with the encoder's answers: nothing (""), "by length", or the rest of a sentence."""
    inputs = encoder.probe_inputs(encoder.probe_posts)

    def ask(batch: Any) -> Tensor:
        with torch.no_grad():
            pooled: Tensor = encoder(batch).pooled
        return pooled.float()

    try:
        together = ask(inputs)
        if together.shape[1] != encoder.dim:
            return f"gives embeddings {together.shape[1]} wide, and its configuration says {encoder.dim}"
        if not bool(torch.isfinite(together).all()):
            return "gives values that are not finite"
        if (gap := _gap(ask(inputs), together)) > TOLERANCE:
            return f"gives different embeddings for the same post from call to call (by {gap:.0%} of their size)"
        alone = torch.cat([ask(encoder.take(inputs, at)) for at in range(encoder.probe_posts - 1)])
        if (gap := _gap(together[: len(alone)], alone)) <= TOLERANCE:
            return ""
        if isinstance(encoder, TextEncoder) and not encoder.by_length:
            _encode_by_length(encoder)
            if _gap(ask(inputs)[: len(alone)], alone) <= TOLERANCE:
                return "by length"
    except _FAILURES as error:
        return f"cannot encode random posts ({first_line(error, 150)})"
    return f"gives a post another embedding when it shares a batch with others (by {gap:.2%} of its size)"


def _encode_by_length(encoder: Encoder) -> None:
    assert isinstance(encoder, TextEncoder)
    encoder.by_length = True
    encoder.weights_changed()  # the same weights, but other embeddings


def _refusal(encoder: Encoder, config: FitConfig) -> str:
    """Return why the encoder cannot be trained as the configuration asks, or "" if it can."""
    if config.tune == "frozen":
        return ""
    ways: dict[str, Callable[[Encoder, FitConfig], Encoder]] = {"joint": _whole, "top": _cut, "lora": _adapted}
    try:
        trained = ways[config.tune](copy.deepcopy(encoder), config)
        return _learns(trained, config)
    except CotuneError as error:
        return str(error).partition("; use ")[0]
    except _FAILURES as error:
        return f"{encoder.spec} cannot be trained with --tune {config.tune} ({first_line(error, 150)})"


def _whole(encoder: Encoder, _: FitConfig) -> Encoder:
    return encoder.requires_grad_(True)


def _cut(encoder: Encoder, config: FitConfig) -> Encoder:
    encoder.cut_at(lower_units(encoder, config))
    upper = encoder.upper_parameters()
    for name, parameter in encoder.model.named_parameters():
        parameter.requires_grad_(name in upper)
    return encoder


def _adapted(encoder: Encoder, _: FitConfig) -> Encoder:
    adapt(encoder)
    return encoder


def _learns(encoder: Encoder, config: FitConfig) -> str:
    """Return what goes wrong in one step of training, or "" if gradients arrive and adapters can be merged."""
    inputs = encoder.probe_inputs(encoder.probe_posts)
    if encoder.n_lower:
        hidden = encoder.kept(encoder.lower(inputs), inputs)
        inputs = encoder.dummy_inputs({**inputs, "hidden": hidden}) | {"hidden": hidden}
    encoder.train()
    freeze_norms(encoder)
    with torch.enable_grad():
        pooled = encoder(inputs).pooled
        if not pooled.requires_grad:
            return f"{encoder.spec} cannot be trained with --tune {config.tune}: no gradient reaches its weights"
        # A plain sum would not do: behind a layer norm its slopes are zero.
        pull = torch.linspace(-1, 1, pooled.numel(), dtype=pooled.dtype, device=pooled.device).view_as(pooled)
        (pooled * pull).sum().backward()
    slopes = [p.grad for p in encoder.parameters() if p.grad is not None]
    if not any(bool(slope.abs().sum() > 0) for slope in slopes):
        return f"{encoder.spec} cannot be trained with --tune {config.tune}: no gradient reaches its weights"
    if not all(bool(torch.isfinite(slope).all()) for slope in slopes):
        return f"{encoder.spec} cannot be trained with --tune {config.tune}: its gradients are not finite"
    if config.tune == "lora":
        merge_adapters(encoder)
        with torch.no_grad():
            encoder.eval()(inputs)
    return ""


_FAILURES = (
    RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError, NotImplementedError,
    ArithmeticError,
)  # fmt: skip


def _gap(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a part of the largest value."""
    if found.shape != expected.shape:
        return float("inf")
    size = max(float(expected.abs().max()), 1e-6)
    return float((found - expected).abs().max()) / size


# ---- what is kept --------------------------------------------------------------------------------


def _read(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    try:
        found = read_json(path)
    except CotuneError:  # cut short; it costs little to find out again
        return {}
    if not isinstance(found, dict) or found.pop("made with", None) != _versions():
        return {}
    return found


def _versions() -> dict[str, Any]:
    return {"form": _FORM, **{name: metadata.version(name) for name in ("torch", "transformers", "timm")}}
