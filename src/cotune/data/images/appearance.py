"""What an image looks like, in a few numbers: a perceptual hash, and a finer look where the hash says little."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cotune.data.images.flat import N_CELLS, Detail, flat_detail

NO_HASH = 0
"""The perceptual hash of an image without any structure; it resembles nothing."""

_FLAT = 2.0  # grey levels of spread in the 32 x 32 reduction under which only noise decides the hash
_HASH = struct.Struct("<Q")
_NUMBER = np.dtype("<f4")


def perceptual_hash(image: Image.Image) -> int:
    """Return the 64-bit pHash of `image`; `NO_HASH` when it is all of one shade."""
    import imagehash

    small = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    if float(np.asarray(small, dtype=np.float32).std()) < _FLAT:
        return NO_HASH
    return int(str(imagehash.phash(small)), 16)


@dataclass(frozen=True)
class Appearance:
    """What an image looks like.

    Attributes
    ----------
    hash : int
        Its perceptual hash, 64 bits.
    detail : Detail or None
        A finer look at an image that is mostly of one shade, whose hash says little.
    """

    hash: int
    detail: Detail | None = None

    @classmethod
    def of(cls, image: Image.Image) -> Appearance:
        """Return the appearance of an image in RGB."""
        found = perceptual_hash(image)
        return cls(found, None if found == NO_HASH else flat_detail(image))

    def to_bytes(self) -> bytes:
        """Return all of it as bytes, to be sent by another process."""
        numbers = b"" if self.detail is None else np.concatenate([self.detail.box, self.detail.ink]).astype(_NUMBER)
        return _HASH.pack(self.hash) + bytes(numbers)

    @classmethod
    def from_bytes(cls, data: bytes) -> Appearance:
        """Return what :meth:`to_bytes` wrote.

        Raises
        ------
        ValueError
            If it is no such thing.
        """
        if len(data) == _HASH.size:
            return cls(_HASH.unpack(data)[0])
        if len(data) != _HASH.size + (4 + N_CELLS) * _NUMBER.itemsize:
            raise ValueError(f"{len(data)} bytes are no appearance")
        numbers = np.frombuffer(data, _NUMBER, offset=_HASH.size).astype(np.float32)
        if not math.isfinite(float(numbers.sum())):
            raise ValueError("an appearance of numbers that are none")
        return cls(_HASH.unpack_from(data)[0], Detail(numbers[:4], numbers[4:]))
