"""Resizing and cropping as plain steps of Pillow: what an export needs in the place of timm or transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


class PixelSteps:
    """Turns an RGB image into bytes of one size.

    Parameters
    ----------
    size : (int, int)
        Height and width of what comes out.
    resize : int or (int, int)
        Length of the short side after resizing, the shape being kept, or height and width.
    filter : str
        Pillow's name of the resampling filter, in lower case.
    """

    def __init__(self, size: Sequence[int], resize: int | Sequence[int], filter: str) -> None:  # noqa: A002
        self.size = (int(size[0]), int(size[1]))
        self.resize = int(resize) if isinstance(resize, int) else (int(resize[0]), int(resize[1]))
        self.filter = filter

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return the image as uint8, shape (3, height, width)."""
        width, height = image.size
        if isinstance(self.resize, int):
            short, long = sorted((width, height))
            across, down = self.resize, int(self.resize * long / short)
            new = (across, down) if width <= height else (down, across)
        else:
            new = (self.resize[1], self.resize[0])
        if new != image.size:
            image = image.resize(new, _FILTERS[self.filter])
        image = _centre(image, *self.size)
        return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        resize = self.resize if isinstance(self.resize, int) else list(self.resize)
        return {"size": list(self.size), "resize": resize, "filter": self.filter}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> PixelSteps:
        """Build it from what :meth:`to_json` returned."""
        return cls(saved["size"], saved["resize"], saved["filter"])


def steps_of_timm(config: Mapping[str, Any]) -> PixelSteps | None:
    """Return the steps of timm's evaluation transform; None if it does something else."""
    _, height, width = config["input_size"]
    part, mode = float(config.get("crop_pct") or 0.875), config.get("crop_mode") or "center"
    filter_name = str(config["interpolation"])
    if filter_name not in _FILTERS:
        return None
    scaled = (math.floor(height / part), math.floor(width / part))
    if mode == "squash":
        return PixelSteps((height, width), scaled, filter_name)
    if mode == "center" and scaled[0] == scaled[1]:
        return PixelSteps((height, width), scaled[0], filter_name)
    return None


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    """Cut out the centre; black where the image is smaller."""
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    if (left, top) == (0, 0) and image.size == (width, height):
        return image
    return image.crop((left, top, left + width, top + height))
