"""Small copies of posts' images that a page holds itself, bounded in number and size."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from cotune.data.images.load import load_image
from cotune.errors import CotuneError

#: Longest side in pixels, drawn at half of it, so that it is sharp on a dense screen.
SIDE = 160
#: Most bytes that the thumbnails of one page may take.
BUDGET = 3 * 2**20
#: JPEG quality, and that of the smallest ones, in which nobody sees more.
_QUALITY, _TINY_QUALITY, _TINY = 60, 40, 64


def thumbnail(source: Any, side: int = SIDE) -> str:
    """Return a small copy of an image as a ``data:`` URI; "" where there is no image, or none that can be read.

    Parameters
    ----------
    source : image of a post, or None
        Whatever :func:`~cotune.data.images.load.load_image` takes, or one made before, as ``{"thumbnail": uri}``.
        URLs are not fetched.
    side : int
        Longest side in pixels; smaller images are not enlarged.
    """
    if isinstance(source, dict):
        return str(source.get("thumbnail", ""))
    if source is None or (isinstance(source, float) and source != source):
        return ""
    try:
        image = load_image(source, min_side=side)
    except (CotuneError, MemoryError):
        return ""
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    return data_url(image, quality=_QUALITY if side > _TINY else _TINY_QUALITY)


def data_url(image: Image.Image, *, kind: str = "JPEG", quality: int = 82) -> str:
    """Return an RGB image, encoded again, as a URL that holds all of it; a PNG loses nothing and has no quality."""
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, **({"quality": quality} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def thumbnails(sources: Sequence[Any], *, side: int = SIDE, budget: int = BUDGET) -> list[str]:
    """Return the thumbnails of some images, the first ones first; "" beyond `budget` bytes, and for unreadable ones.

    Parameters
    ----------
    sources : sequence
        The images, those that matter most first.
    side, budget : int
        Longest side in pixels; most bytes of all together.
    """
    found: list[str] = []
    left = budget
    with ThreadPoolExecutor(2, thread_name_prefix="thumbnails") as pool:
        for start in range(0, len(sources), 64):
            part = sources[start : start + 64]
            small = pool.map(lambda source: thumbnail(source, side), part) if left > 0 else [""] * len(part)
            for uri in small:
                left -= len(uri)
                found.append(uri if left >= 0 else "")
    return found
