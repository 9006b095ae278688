"""Pixels of any kind turned into 8-bit RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from cotune.data.images.sources import ImageFault, describe


def to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` in RGB: wide grey scales are scaled to 8 bits, transparency is laid over white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy() if type(image) is not Image.Image else image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


_PIXELS_AT_ONCE = 1 << 20  # each takes up to 40 bytes on the way


def _to_eight_bits(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    height = max(1, _PIXELS_AT_ONCE // max(1, pixels.shape[1]))
    parts = [slice(start, start + height) for start in range(0, len(pixels), height)]
    top = max((_plain_values(pixels[part]).max(initial=0.0) for part in parts), default=0.0)
    if np.issubdtype(pixels.dtype, np.floating):
        span = 1.0 if top <= 1.0 else 255.0 if top <= 255.0 else top
    else:
        span = 65535.0 if pixels.dtype.itemsize == 2 or 255.0 < top <= 65535.0 else max(255.0, top)
    eight: np.ndarray[Any, Any] = np.empty(pixels.shape, dtype=np.uint8)
    for part in parts:
        eight[part] = np.clip(np.rint(_plain_values(pixels[part]) * (255.0 / span)), 0, 255)
    return eight


def _plain_values(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = np.nan_to_num(pixels.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return values


def array_to_image(array: np.ndarray[Any, Any], max_pixels: int) -> Image.Image:
    """Return the image that `array` holds; one whose layout or values leave doubt is an ImageFault."""
    name = describe(array)
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        raise ImageFault("unreadable", f"{name}: channels come first; give array.transpose(1, 2, 0)")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageFault("unreadable", f"{name}: must be height x width, or height x width x 1, 3 or 4 channels")
    if array.size == 0:
        raise ImageFault("empty", f"{name}: holds no pixels")
    if array.shape[0] * array.shape[1] > max_pixels:
        raise ImageFault("too large", f"{name}: the limit is {max_pixels:,} pixels")
    kind = array.dtype.kind
    if kind not in "uifb":
        raise ImageFault("unreadable", f"{name}: values of type {array.dtype} are no pixels")
    low, high = (array.min(), array.max()) if kind != "b" else (0, 1)
    limit = 1.0 + 1e-6 if kind == "f" else 65535 if array.dtype == np.uint16 else 255
    if not (np.isfinite(low) and np.isfinite(high) and low >= (-1e-6 if kind == "f" else 0) and high <= limit):
        raise ImageFault("unreadable", f"{name}: values run from {low} to {high}; integers must lie "
                         "in 0..255, floats in 0..1")  # fmt: skip
    if kind == "b":
        pixels = array.astype(np.uint8) * 255
    elif kind == "f":
        pixels = np.clip(np.rint(array.astype(np.float32) * 255.0), 0, 255).astype(np.uint8)
    else:
        pixels = (array // 257 if array.dtype == np.uint16 else array).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return to_rgb(Image.fromarray(np.ascontiguousarray(pixels)))


def not_too_long(image: Image.Image, most: int = 50) -> Image.Image:
    """Cut the ends off an image whose long side is over `most` times its short one.

    Resizing such an image by its short side would make it so large that it fills the memory.
    """
    width, height = image.size
    limit = most * min(width, height)
    if max(width, height) <= limit:
        return image
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, top, min(width, left + limit), min(height, top + limit)))
