"""``timm:NAME``: image models of timm, by name, by repository of the hub, or from a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cotune.encoders.base import Encoder
from cotune.encoders.image import TimmEncoder
from cotune.encoders.sources.base import OFFLINE, SOURCES, ReadyEncoder, Source, Wanted
from cotune.encoders.sources.hub import cached_encoders, from_hub
from cotune.errors import EncoderError, did_you_mean

_FOLDER = "local-dir:"  # timm's own way to name a folder; the hub has no part in it
_HUB = ("hf-hub:", "hf_hub:")


class TimmSource(Source):
    """Image models of timm."""

    example = "timm:NAME"
    kinds = frozenset({"timm"})
    hub = True

    def open(self, name: str, wanted: Wanted) -> Encoder:
        """Open an image model; its weights come from the hub or its cache, or from a folder."""
        import timm

        if wanted.modality != "image":
            raise EncoderError(f"{wanted.spec}: timm has image models only; name a text encoder with hf: or a folder")
        if name.startswith(_FOLDER):
            return SOURCES["folder"].open(name.removeprefix(_FOLDER), wanted)
        if not name.startswith(_HUB) and not timm.is_model(name.split(".")[0]):
            near = did_you_mean(name.split(".")[0], timm.list_models())
            raise EncoderError(f"timm has no model {name!r}{near}; `timm.list_models()` lists them. Offline: {OFFLINE}")
        return from_hub(wanted.spec, lambda: open_timm(name, spec=wanted.spec))

    def load(self, folder: Path, saved: Mapping[str, Any]) -> Encoder:
        """Build the network that ``encoder.json`` describes, without weights."""
        return TimmEncoder(
            empty_timm_model(saved["architecture"], saved["model_args"]),
            architecture=saved["architecture"],
            data_config={key: value for key, value in saved["preprocessing"].items() if key != "by"},
            spec=saved["spec"],
            model_args=saved["model_args"],
        )

    def skeleton(self, name: str, spec: str) -> tuple[str, nn.Module]:
        """Return the network without its classifier."""
        import timm

        if not timm.is_model(name.split(".")[0]):
            raise EncoderError(f"{spec!r} names no encoder; timm has no model {name!r}")
        return f"timm {name}", timm.create_model(name, pretrained=False, num_classes=0)

    def ready(self) -> list[ReadyEncoder]:
        """Return what is in the hub's cache."""
        return cached_encoders("timm", "timm:hf-hub:")

    def hub_name(self, name: str) -> str | None:
        """Return where timm gets the weights from."""
        import timm

        if name.startswith(_HUB):
            return name[len(_HUB[0]) :]
        try:
            found = timm.get_pretrained_cfg(name)
        except RuntimeError:  # no such weights
            return None
        return None if found is None else found.hf_hub_id


def open_timm(name: str, *, spec: str, weights: bool = True, model_args: dict[str, Any] | None = None) -> TimmEncoder:
    """Open a timm model by name (weights come from the hub, if asked for)."""
    import timm
    from timm.data.config import resolve_data_config

    args = dict(model_args or {})
    with _no_pickle(spec):
        model = timm.create_model(name, pretrained=weights, num_classes=0, **args)
    config = resolve_data_config({}, model=model)
    if ":" in name:  # a repository or folder; what it names must be known without it when the run is loaded
        name = str(model.pretrained_cfg["architecture"])  # type: ignore[index]
        made_with = getattr(model, "_model_args", None) or {}
        args = {**{key: value for key, value in made_with.items() if key != "num_classes"}, **args}
    return TimmEncoder(model, architecture=name, data_config=config, spec=spec, model_args=args)


@contextmanager
def _no_pickle(spec: str) -> Iterator[None]:
    """Refuse what timm reads with ``torch.load`` where a repository holds no safetensors."""

    def refuse(*_: object, **__: object) -> None:
        raise EncoderError(f"{spec} holds no safetensors weights; only those are read (convert the others first)")

    load, torch.load = torch.load, refuse
    try:
        yield
    finally:
        torch.load = load


def empty_timm_model(architecture: str, args: Mapping[str, Any]) -> Any:
    """Build a timm network that a folder describes, without weights; only what timm itself knows, from nowhere else.

    Raises
    ------
    EncoderError
        If the folder asks for a hub's model, or names weights to be read.
    """
    import timm

    args = {key: value for key, value in args.items() if key != "num_classes"}
    foreign = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"} & args.keys()
    if foreign:
        raise EncoderError(
            f"the folder's model_args hold {', '.join(sorted(foreign))}; only the network's form is taken"
        )
    if ":" in architecture or not timm.is_model(architecture.partition(".")[0]):
        raise EncoderError(f"timm knows no architecture {architecture!r}; a folder may name no other place")
    return timm.create_model(architecture, pretrained=False, num_classes=0, **args)


def open_timm_folder(folder: Path, *, spec: str) -> TimmEncoder:
    """Open a folder in timm's layout: ``config.json`` with ``architecture``, and ``model.safetensors``."""
    from safetensors.torch import load_file
    from timm.data.config import resolve_data_config

    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise EncoderError(
            f"{folder} holds no model.safetensors; only safetensors weights are read (convert the others first)"
        )
    args = {key: value for key, value in (settings.get("model_args") or {}).items() if key != "num_classes"}
    model = empty_timm_model(settings["architecture"], args)
    state = load_file(weights)
    missing, _ = model.load_state_dict(state, strict=False)
    if missing:
        raise EncoderError(f"{weights} lacks {len(missing)} tensors of {settings['architecture']}, first {missing[0]}")
    config = resolve_data_config({}, pretrained_cfg=settings.get("pretrained_cfg") or {}, model=model)
    return TimmEncoder(model, architecture=settings["architecture"], data_config=config, spec=spec, model_args=args)


SOURCES.add("timm", TimmSource())
