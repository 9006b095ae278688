"""``clip:hf:OWNER/NAME`` or ``clip:FOLDER``: one tower of a dual encoder such as CLIP or SigLIP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cotune.encoders.base import Encoder
from cotune.encoders.dual import DualImageEncoder, DualTextEncoder, Tower
from cotune.encoders.hf import reading
from cotune.encoders.sources.base import SOURCES, Source, Wanted, in_one_line
from cotune.encoders.sources.hub import from_hub
from cotune.encoders.tokenizer import open_tokenizer
from cotune.errors import EncoderError


class ClipSource(Source):
    """Towers of dual encoders."""

    example = "clip:hf:OWNER/NAME"
    kinds = frozenset({"dual"})
    hub = True

    def open(self, name: str, wanted: Wanted) -> Encoder:
        """Open the tower that reads the modality."""
        encoder = _open_dual(name, wanted.max_tokens).get(wanted.modality)
        if encoder is None:
            raise EncoderError(f"{wanted.spec} reads texts and images, not a field of kind {wanted.modality}")
        encoder.spec = wanted.spec
        return encoder

    def load(self, folder: Path, saved: Mapping[str, Any]) -> Encoder:
        """Build a tower from the dual model's configuration, without weights."""
        return load_dual_config(folder, saved)

    def skeleton(self, name: str, spec: str) -> tuple[str, nn.Module]:
        """Return both towers, as a dual model has them."""
        from transformers import AutoConfig, AutoModel

        local = Path(name).expanduser().is_dir()
        config = AutoConfig.from_pretrained(name if local else name.removeprefix("hf:"), **reading(local))
        _refuse_unimodal(config, spec)
        dual = AutoModel.from_config(config, trust_remote_code=False)
        return f"both towers of {type(dual).__name__}", nn.ModuleList([Tower(dual, "text"), Tower(dual, "image")])

    def hub_name(self, name: str) -> str | None:
        """Return the dual encoder's name."""
        return name.removeprefix("hf:") if name.startswith("hf:") else None


def _open_dual(spec: str, max_tokens: int) -> dict[str, Encoder]:
    folder = Path(spec).expanduser()
    if folder.is_dir():
        what = f"{folder} cannot be opened as a dual encoder"
        return in_one_line(spec, lambda: _open(str(folder), spec, max_tokens, local=True), what, local=True)
    kind, _, name = spec.partition(":")
    if kind == "hf" and name:
        return from_hub(spec, lambda: _open(name, spec, max_tokens, local=False))
    raise EncoderError(
        f"{spec!r} is neither a folder nor hf:OWNER/NAME; a dual encoder is for example hf:openai/clip-vit-base-patch32"
    )


def _open(name: str, spec: str, max_tokens: int, *, local: bool) -> dict[str, Encoder]:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    _refuse_unimodal(AutoConfig.from_pretrained(name, **reading(local)), spec)
    dual, found = AutoModel.from_pretrained(
        name, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **reading(local)
    )
    missing = sorted(found["missing_keys"])
    if missing:
        raise EncoderError(f"{spec} lacks {len(missing)} weights (first: {missing[0]}); they would be random")
    tokenizer = open_tokenizer(name, spec=spec, local=local)
    processor = AutoImageProcessor.from_pretrained(name, **reading(local))
    return {
        "text": DualTextEncoder(dual.eval(), tokenizer, spec=spec, max_tokens=max_tokens),
        "image": DualImageEncoder(dual, processor, spec=spec),
    }


def load_dual_config(folder: Path, saved: Mapping[str, Any]) -> Encoder:
    """Build a tower from what ``save_config`` wrote, without its weights; they are to be loaded into it."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    config = AutoConfig.from_pretrained(folder, **reading(True))
    dual = AutoModel.from_config(config, trust_remote_code=False).float().eval()
    if saved["modality"] == "text":
        tokenizer = open_tokenizer(str(folder), spec=saved["spec"], local=True)
        return DualTextEncoder(dual, tokenizer, spec=saved["spec"], max_tokens=saved["max_tokens"])
    processor = AutoImageProcessor.from_pretrained(folder, **reading(True))
    return DualImageEncoder(dual, processor, spec=saved["spec"])


def _refuse_unimodal(config: Any, spec: str) -> None:
    if not (hasattr(config, "text_config") and hasattr(config, "vision_config")):
        raise EncoderError(f"{spec} is a {config.model_type} model, not a dual encoder of text and image such as CLIP")


SOURCES.add("clip", ClipSource())
