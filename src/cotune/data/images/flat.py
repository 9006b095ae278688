"""Images that are mostly of one shade, such as words on white: told apart by what stands out of the background.

A perceptual hash sees the coarsest eighth of an image, in which all pages of text look alike. What is kept here is
the part that differs from the background, cut out and measured on a finer grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

_LONGEST = 256
_BACKGROUND = 24  # grey levels around the most common one that still count as background
_INK = 40  # grey levels from the background that stand out; compression leaves less
_FLAT = 0.6  # share of the background from which on an image is flat
_SIDE = 32
_ALIKE = 0.92  # correlation; resized and recompressed copies reach .93, other words on the same page .87 (99 of 100)
_MOVED = 0.02  # parts of width and height; copies stay within .01

N_CELLS = _SIDE * _SIDE
"""How many cells the finer grid has."""


@dataclass(frozen=True, eq=False)
class Detail:
    """What stands out of a flat image.

    Attributes
    ----------
    box : ndarray
        Its left, upper, right and lower edge, as parts of width and height.
    ink : ndarray
        How much each cell of a grid over that box stands out; of mean 0 and length 1.
    """

    box: np.ndarray
    ink: np.ndarray


def flat_detail(image: Image.Image) -> Detail | None:
    """Return what stands out of `image`; None unless most of it is of one shade."""
    scale = _LONGEST / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    grey = image.convert("L").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    counts = np.asarray(grey.histogram())
    shade = int(counts.reshape(32, 8).sum(axis=1).argmax()) * 8 + 4
    near = counts[max(0, shade - _BACKGROUND) : shade + _BACKGROUND + 1]
    if near.sum() / counts.sum() < _FLAT:
        return None
    # Thin strokes that are a pixel off would otherwise have nothing in common.
    soft = np.asarray(grey.filter(ImageFilter.GaussianBlur(1)), dtype=np.float32)
    distance = np.abs(soft - shade)
    rows, columns = np.flatnonzero((distance > _INK).any(axis=1)), np.flatnonzero((distance > _INK).any(axis=0))
    if not len(rows):
        return None
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    cut = Image.fromarray(distance[top:bottom, left:right])
    ink = np.asarray(cut.resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float32).ravel()
    ink = ink - ink.mean()
    length = float(np.linalg.norm(ink))
    box = np.asarray([left / size[0], top / size[1], right / size[0], bottom / size[1]], dtype=np.float32)
    return Detail(box, ink / length if length else ink)


class Details:
    """The details of many images, compared in pairs."""

    def __init__(self, details: list[Detail | None]) -> None:
        self.known = np.asarray([detail is not None for detail in details], dtype=bool)
        there = [detail for detail in details if detail is not None]
        self._place = np.cumsum(self.known) - 1
        self._box = np.stack([detail.box for detail in there]) if there else np.zeros((0, 4), dtype=np.float32)
        self._ink = np.stack([detail.ink for detail in there]) if there else np.zeros((0, 1), dtype=np.float32)

    def agree(self, left: np.ndarray, right: np.ndarray, *, at_once: int = 2_000) -> np.ndarray:
        """Return for each pair whether it may be the same image; pairs of which one is not flat always may."""
        result = np.ones(len(left), dtype=bool)
        both = np.flatnonzero(self.known[left] & self.known[right])
        one, other = self._place[left[both]], self._place[right[both]]
        result[both] = near = np.abs(self._box[one] - self._box[other]).max(axis=1, initial=0) <= _MOVED
        both, one, other = both[near], one[near], other[near]
        for start in range(0, len(both), at_once):
            part = slice(start, start + at_once)
            ink = self._ink[one[part]] * self._ink[other[part]]
            result[both[part]] = ink.sum(axis=1) >= _ALIKE
        return result
