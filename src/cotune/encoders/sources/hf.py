"""``hf:OWNER/NAME``: text and image models that transformers opens, from the hub or its cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cotune.encoders.base import Encoder
from cotune.encoders.hf import open_model, reading
from cotune.encoders.image import HFImageEncoder
from cotune.encoders.pooling import choose_pooling
from cotune.encoders.sources.base import SOURCES, ReadyEncoder, Source, Wanted
from cotune.encoders.sources.hub import cached_encoders, from_hub
from cotune.encoders.text import TextEncoder
from cotune.encoders.tokenizer import open_tokenizer
from cotune.errors import EncoderError

_FEWEST_TOKENS = 20


class HFSource(Source):
    """Models of transformers, by their name in the hub."""

    example = "hf:OWNER/NAME"
    kinds = frozenset({"hf"})
    hub = True

    def open(self, name: str, wanted: Wanted) -> Encoder:
        """Open a model of the hub."""
        if not name:
            raise EncoderError(f"{wanted.spec!r} names no model; write hf:OWNER/NAME")
        return from_hub(wanted.spec, lambda: open_hf(name, wanted, local=False))

    def load(self, folder: Path, saved: Mapping[str, Any]) -> Encoder:
        """Build a network from its configuration, without weights."""
        if saved["modality"] == "image":
            return open_hf_image(str(folder), spec=saved["spec"], local=True, weights=False)
        return open_text_encoder(
            str(folder),
            spec=saved["spec"],
            pooling=saved["pooling"],
            max_tokens=saved["max_tokens"],
            local=True,
            weights=False,
            by_length=saved.get("by_length", False),
        )

    def skeleton(self, name: str, spec: str) -> tuple[str, nn.Module]:
        """Return the network of a configuration in the hub's cache, without an unused pooler."""
        if not name:
            raise EncoderError(f"{spec!r} names no encoder; write hf:OWNER/NAME")
        return hf_skeleton(name, spec, local=False)

    def ready(self) -> list[ReadyEncoder]:
        """Return what is in the hub's cache."""
        return cached_encoders("transformers", "hf:")

    def hub_name(self, name: str) -> str | None:
        """Return the name itself."""
        return name


def open_hf(name: str, wanted: Wanted, *, local: bool) -> Encoder:
    """Open a model of transformers by its name in the hub, or from a folder."""
    if wanted.modality == "image":
        return open_hf_image(name, spec=wanted.spec, local=local)
    return open_text_encoder(name, spec=wanted.spec, pooling=wanted.pooling, max_tokens=wanted.max_tokens, local=local)


def hf_skeleton(name: str, spec: str, *, local: bool) -> tuple[str, nn.Module]:
    """Return what a model of transformers is called, and its network without weights."""
    model = open_model(name, spec=spec, local=local, weights=False)
    return f"{type(model).__name__} without an unused pooler", model


def open_text_encoder(
    name: str,
    *,
    spec: str,
    pooling: str = "auto",
    max_tokens: int = 128,
    local: bool,
    weights: bool = True,
    by_length: bool = False,
) -> TextEncoder:
    """Open a Hugging Face text model from the hub or a folder.

    Parameters
    ----------
    name : str
        Hub name or folder.
    spec : str
        How the user named it.
    pooling : {"auto", "cls", "mean", "max", "last"}
        ``auto`` takes what the model's sentence-transformers file says, else what suits the model's type.
    max_tokens : int
        Longest text in tokens.
    local : bool
        Whether to stay off the network.
    weights : bool
        False builds the network from its configuration alone, to be filled later.
    by_length : bool
        See :class:`TextEncoder`.
    """
    model: Any = open_model(name, spec=spec, local=local, weights=weights)
    tokenizer = open_tokenizer(name, spec=spec, local=local)
    if len(tokenizer) < _FEWEST_TOKENS:  # without its files the library makes one that knows special tokens alone
        raise EncoderError(
            f"{spec} has no tokenizer files, such as tokenizer.json; save the tokenizer beside the model"
        )
    chosen = choose_pooling(pooling, name, model.config, local=local)
    return TextEncoder(model, tokenizer, spec=spec, pooling=chosen, max_tokens=max_tokens, by_length=by_length)


def open_hf_image(name: str, *, spec: str, local: bool, weights: bool = True) -> HFImageEncoder:
    """Open an image model of transformers from the hub or a folder."""
    from transformers import AutoImageProcessor

    model = open_model(name, spec=spec, local=local, weights=weights)
    processor = AutoImageProcessor.from_pretrained(name, **reading(local))
    return HFImageEncoder(model, processor, spec=spec)


SOURCES.add("hf", HFSource())
