"""A source of encoders: image encoders that see the mean colour of each cell of a grid."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cotune.encoders.base import Encoder, EncoderOutput
from cotune.encoders.image import ImageEncoder
from cotune.encoders.preprocess import TimmPreprocessor
from cotune.encoders.sources import Source, Wanted

LOOK = {"input_size": [3, 32, 32], "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0,
        "crop_mode": "squash"}  # fmt: skip


class Colours(ImageEncoder):
    def __init__(self, cells: int, spec: str) -> None:
        self.cells = cells
        dim = 3 * cells**2
        super().__init__(nn.Linear(dim, dim), TimmPreprocessor(LOOK), spec=spec, dim=dim, units=())

    def _encode_normalised(self, pixels: Tensor) -> EncoderOutput:
        colours = nn.functional.adaptive_avg_pool2d(pixels, self.cells).flatten(1)
        return EncoderOutput(self.model(colours), None, None)

    def describe(self) -> dict[str, Any]:
        return {"kind": "colours", "modality": "image", "spec": self.spec, "cells": self.cells}

    def depths(self) -> dict[str, int]:
        return {name: 1 for name, _ in self.model.named_parameters()}

    def save_config(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "encoder.json").write_text(json.dumps(self.describe()))


class ColourSource(Source):
    example = "colours:CELLS"
    kinds = frozenset({"colours"})

    def open(self, name: str, wanted: Wanted) -> Encoder:
        torch.manual_seed(0)
        return Colours(int(name), wanted.spec)

    def load(self, folder: Path, saved: Mapping[str, Any]) -> Encoder:
        return Colours(saved["cells"], saved["spec"])

    def skeleton(self, name: str, spec: str) -> tuple[str, nn.Module]:
        return "a linear layer on mean colours", Colours(int(name), spec).model


COLOURS = ColourSource()
