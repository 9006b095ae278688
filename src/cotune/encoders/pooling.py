"""How token states become one embedding, and which way a model was trained for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from cotune.encoders.hf import cached_path
from cotune.errors import EncoderError

Pooling = Literal["cls", "mean", "max", "last"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
# Trained with a sentence-level objective on the first token, or by convention read there.
_CLS_TYPES = {"bert", "distilbert", "roberta", "xlm-roberta", "camembert", "deberta", "deberta-v2", "electra"}
# SigLIP was trained on texts that are padded to the full length, and reads the padding.
PADDED_TYPES = {"siglip_text_model", "siglip2_text_model"}


def pool_tokens(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Return one embedding for each text.

    Parameters
    ----------
    states : Tensor
        Token states, shape (B, T, dim).
    mask : Tensor
        1 for real tokens, 0 for padding on the right, shape (B, T).
    pooling : {"cls", "mean", "max", "last"}
        How.

    Returns
    -------
    Tensor
        Shape (B, dim).
    """
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), mask.sum(dim=1).clamp(min=1) - 1]
    real = mask.unsqueeze(-1)
    if pooling == "max":
        return states.masked_fill(real == 0, torch.finfo(states.dtype).min).amax(dim=1)
    weights = real.to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def choose_pooling(asked: str, name: str, config: Any, *, local: bool = True) -> Pooling:
    """Return how a model's tokens are best pooled, unless the user has said so.

    Raises
    ------
    EncoderError
        If the name is unknown, or the model's sentence-transformers file asks for a pooling that is not at hand.
    """
    if asked in POOLINGS:
        return asked
    if asked != "auto":
        known = ", ".join(repr(name) for name in ("auto", *POOLINGS[:-1]))
        raise EncoderError(f"text pooling is {known} or {POOLINGS[-1]!r}, not {asked!r}")
    pooling_file = cached_path(name, "1_Pooling/config.json", local)
    if pooling_file is not None:
        return _pooling_of_file(pooling_file)
    if config.model_type in PADDED_TYPES:
        return "last"
    classifier = getattr(config, "classifier_pooling", None)
    if classifier in ("cls", "mean"):
        return classifier  # type: ignore[no-any-return]
    return "cls" if config.model_type in _CLS_TYPES else "mean"


# What sentence-transformers calls its poolings, in the older and in the newer form of its file.
_FILE_POOLINGS: dict[str, Pooling] = {
    "cls_token": "cls", "cls": "cls", "mean_tokens": "mean", "mean": "mean", "max_tokens": "max", "max": "max",
    "lasttoken": "last",
}  # fmt: skip


def _pooling_of_file(path: Path) -> Pooling:
    try:
        modes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"{path} is not valid JSON ({error}); fix it, or choose a pooling with --text-pooling"
        ) from error
    modes = modes if isinstance(modes, dict) else {}
    named = modes.get("pooling_mode")
    wanted = [named] if isinstance(named, str) else list(named or [])
    wanted += [key.removeprefix("pooling_mode_") for key, on in modes.items() if key != "pooling_mode"
               and key.startswith("pooling_mode_") and on]  # fmt: skip
    known = {_FILE_POOLINGS.get(name) for name in wanted}
    if len(known) == 1 and None not in known:
        return cast(Pooling, known.pop())
    asks = f"asks for the pooling {' and '.join(wanted)}, which is not available" if wanted else "names no pooling"
    raise EncoderError(f"{path} {asks}; choose one with --text-pooling ({', '.join(POOLINGS)})")
