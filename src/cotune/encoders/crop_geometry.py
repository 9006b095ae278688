"""Where in an image the encoder's pixels come from: crop and resize measured, so that they can be undone.

Every preprocessor is asked the same way: it is shown an image of the same size whose red is the column and
whose green is the row. What comes out says for each of the encoder's pixels which place it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cotune.encoders.preprocess import Preprocessor


@dataclass(frozen=True)
class CropGeometry:
    """What part of an image an encoder sees, in parts of the image's width and height.

    Attributes
    ----------
    left, top, right, bottom : float
        The edges of the encoder's square in the image: 0 is the left or upper edge, 1 the right or lower
        one. They lie outside of 0 to 1 where the preprocessor has added a border.
    """

    left: float
    top: float
    right: float
    bottom: float

    def box(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Return where a box of the encoder's square (in parts of it) lies in the image: left, top, right, bottom."""
        across, down = self.right - self.left, self.bottom - self.top
        return (
            self.left + x * across,
            self.top + y * down,
            self.left + (x + width) * across,
            self.top + (y + height) * down,
        )

    def spread(self, grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return `grid`, values over the encoder's square, over an image of `size` (width, height).

        Values between the cells' centres are interpolated; NaN where the encoder sees nothing.
        """
        from scipy.ndimage import map_coordinates

        width, height = size
        rows, columns = grid.shape
        x = ((np.arange(width) + 0.5) / width - self.left) / (self.right - self.left)
        y = ((np.arange(height) + 0.5) / height - self.top) / (self.bottom - self.top)
        at = np.meshgrid(y * rows - 0.5, x * columns - 0.5, indexing="ij")
        result: np.ndarray = map_coordinates(grid.astype(np.float64), at, order=1, mode="nearest")
        result[(y < 0) | (y > 1), :] = np.nan
        result[:, (x < 0) | (x > 1)] = np.nan
        return result


def measure_crop(preprocessor: Preprocessor, size: tuple[int, int]) -> CropGeometry:
    """Return what part of an image of `size` (width, height) the preprocessor passes on."""
    width, height = size
    ramps = np.zeros((height, width, 3), dtype=np.uint8)
    ramps[..., 0] = np.rint(np.linspace(0, 255, width))[None, :]
    ramps[..., 1] = np.rint(np.linspace(0, 255, height))[:, None]
    ramps[..., 2] = 255
    seen = preprocessor(Image.fromarray(ramps)).astype(np.float64)
    inside = seen[2] > 250  # blue is full in the image and anything else in an added border
    left, right = _edges(seen[0], inside, axis=1, pixels=width)
    top, bottom = _edges(seen[1], inside, axis=0, pixels=height)
    return CropGeometry(left, top, right, bottom)


def _edges(values: np.ndarray, inside: np.ndarray, *, axis: int, pixels: int) -> tuple[float, float]:
    """Fit a straight line to one ramp and return the places of the square's two edges."""
    n = values.shape[axis]
    counts = inside.sum(axis=1 - axis)
    means = np.where(inside, values, 0).sum(axis=1 - axis) / np.maximum(counts, 1)
    # Filters bend a ramp where it ends, and an 8-bit ramp is flat where it is clipped.
    good = np.flatnonzero((counts > 0) & (means > 4) & (means < 251))
    if len(good) < 2 or means[good].max() - means[good].min() < 1 or pixels < 2:
        return 0.0, 1.0
    slope, start = np.polyfit(good + 0.5, means[good] / 255, 1)
    # The ramp runs from centre to centre of the outermost pixels.
    first, last = ((start + slope * edge) * (pixels - 1) / pixels + 0.5 / pixels for edge in (0, n))
    return (float(first), float(last)) if abs(last - first) > 1e-6 else (0.0, 1.0)
