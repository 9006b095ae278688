"""One picture as the bytes that an image encoder reads."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from PIL import Image

from cotune.data.images import load_image
from cotune.encoders.image import ImageEncoder


def decode(image: object, encoder: ImageEncoder, allow_remote: bool) -> np.ndarray:
    """Return a picture as the bytes that `encoder` reads, shape (3, height, width)."""
    # The crop that follows may cut an eighth away on each side; twice its size keeps every detail.
    side = 2 * max(encoder.preprocessor.size)
    return encoder.preprocessor(not_too_long(load_image(cast(Any, image), allow_remote=allow_remote, min_side=side)))


def not_too_long(picture: Image.Image, most: int = 50) -> Image.Image:
    """Cut the ends off a picture whose long side is over `most` times its short one.

    Resizing such a picture by its short side would make it so large that it fills the memory.
    """
    width, height = picture.size
    limit = most * min(width, height)
    if max(width, height) <= limit:
        return picture
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return picture.crop((left, top, min(width, left + limit), min(height, top + limit)))
