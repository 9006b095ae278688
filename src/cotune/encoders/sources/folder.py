"""A path: the folder of a saved encoder of transformers or timm, for which no network is ever used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from cotune.encoders.base import Encoder
from cotune.encoders.sources.base import SOURCES, Source, Wanted, in_one_line
from cotune.encoders.sources.hf import hf_skeleton, open_hf
from cotune.encoders.sources.timm import empty_timm_model, open_timm_folder
from cotune.errors import EncoderError

_CALLED = {"text": "a text", "image": "an image"}


class FolderSource(Source):
    """Saved folders, in the layout of transformers or of timm."""

    example = "./FOLDER"

    def open(self, name: str, wanted: Wanted) -> Encoder:
        """Open a folder."""
        folder = Path(name).expanduser()
        by_timm = _by_timm(_settings(folder))

        def open_it() -> Encoder:
            if wanted.modality == "image" and by_timm:
                return open_timm_folder(folder, spec=wanted.spec)
            return open_hf(str(folder), wanted, local=True)

        what = f"{folder} cannot be opened as {_CALLED[wanted.modality]} encoder"
        return in_one_line(wanted.spec, open_it, what, local=True)

    def skeleton(self, name: str, spec: str) -> tuple[str, nn.Module]:
        """Return the network that a folder describes."""
        folder = Path(name).expanduser()
        settings = _settings(folder)
        if not _by_timm(settings):
            return hf_skeleton(str(folder), spec, local=True)
        architecture = settings["architecture"]
        return f"timm {architecture}", empty_timm_model(architecture, settings.get("model_args") or {})


def _by_timm(settings: dict[str, Any]) -> bool:
    return "architecture" in settings


def _settings(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise EncoderError(
            f"{folder} holds no config.json, so it is no encoder; save one with save_pretrained() or timm's "
            "save_for_hf()"
        )
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(f"{folder / 'config.json'} is not valid JSON: {error}") from error
    return settings if isinstance(settings, dict) else {}


SOURCES.add("folder", FolderSource())
