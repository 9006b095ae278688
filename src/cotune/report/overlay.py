"""The image of a post with what its parts did laid over it, in the image's own frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from cotune.encoders.crop_geometry import CropGeometry

#: Blue supports the class, orange opposes it; the two differ in lightness too.
FOR, AGAINST = (0, 90, 181), (230, 130, 0)
LONGEST = 480
_MARKED = 3


@dataclass(frozen=True)
class Patch:
    """One patch of the image.

    Attributes
    ----------
    number : int
        1 for the patch that matters most.
    row, column : int
        Its place in the grid of patches, counted from 1.
    value : float
        How much the log-odds fall when it is blurred away.
    box : tuple of float
        Left, top, right and bottom in parts of the whole image.
    """

    number: int
    row: int
    column: int
    value: float
    box: tuple[float, float, float, float]


def top_patches(patches: np.ndarray, geometry: CropGeometry, most: int = _MARKED) -> list[Patch]:
    """Return the patches that matter most, either way, the weightiest first; `patches` has their values as a grid."""
    grid = len(patches)
    order = np.argsort(-np.abs(patches), axis=None, kind="stable")[:most]
    found = []
    for number, at in enumerate(order, 1):
        row, column = divmod(int(at), grid)
        box = geometry.box(column / grid, row / grid, 1 / grid, 1 / grid)
        found.append(Patch(number, row + 1, column + 1, float(patches[row, column]), box))
    return found


def overlay(picture: Image.Image, attributions: np.ndarray, patches: np.ndarray, geometry: CropGeometry) -> Image.Image:
    """Return the image in grey with the map over it; stripes where the encoder sees nothing.

    The patches that matter most are outlined and numbered, so that the drawing can be read without its colours.

    Parameters
    ----------
    image : PIL image
        The whole image.
    attributions, patches : ndarray
        Over the square that the encoder sees: the map, and values of patches.
    geometry : CropGeometry
        Where that square lies in the image.
    """
    small = shrink(picture)
    grey = np.asarray(small.convert("L").convert("RGB"), dtype=np.float64)
    grey = 70 + grey * (185 / 255)
    values = geometry.spread(attributions, small.size)
    unseen = np.isnan(values)
    most = np.nanmax(np.abs(values)) if not unseen.all() else 0.0
    strength = np.nan_to_num(np.abs(values) / most) if most > 0 else np.zeros(unseen.shape)
    colour = np.where((np.nan_to_num(values) >= 0)[..., None], FOR, AGAINST)
    alpha = (0.8 * strength**0.8)[..., None]
    mixed = grey * (1 - alpha) + colour * alpha
    down, across = np.indices(unseen.shape)
    stripes = unseen & ((down + across) % 10 < 3)
    mixed[unseen] = mixed[unseen] * 0.55
    mixed[stripes] = 150
    result = Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))
    _mark(result, top_patches(patches, geometry))
    return result


def _mark(image: Image.Image, patches: list[Patch]) -> None:
    draw = ImageDraw.Draw(image)
    width, height = image.size
    for patch in reversed(patches):
        left, top, right, bottom = patch.box
        box = [
            max(1, left * width),
            max(1, top * height),
            min(width - 2, right * width),
            min(height - 2, bottom * height),
        ]
        if box[2] - box[0] < 2 or box[3] - box[1] < 2:
            continue
        draw.rectangle(box, outline="black", width=4)
        draw.rectangle([box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1], outline="white", width=2)
        size = max(12, min(22, int(box[3] - box[1]) // 2))
        draw.rectangle([box[0], box[1], box[0] + size, box[1] + size], fill="black")
        draw.text(
            (box[0] + size / 2, box[1] + size / 2), str(patch.number), fill="white", anchor="mm", font_size=size * 0.8
        )


def shrink(picture: Image.Image, longest: int = LONGEST) -> Image.Image:
    """Return the image with its long side at `longest` pixels: enlarged by at most four, never beyond."""
    width, height = picture.size
    scale = min(longest / max(width, height), 4.0)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
