"""Cells that hold an image themselves: `data:` URIs and base64."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from cotune.data.images.load import describe, load_image

WORDS = ("data:", "image/png", ";base64,", ",", "%00", "%ZZ", "/9j/", "iVBORw0KGgo", "R0lGODlh", "UklGR", "Qk", "AAAA", "==",
         "\n", "-", "_", "\u0661")  # fmt: skip


def seeds() -> list[bytes]:
    """Return images in each of the forms."""
    found = []
    for name in ("PNG", "JPEG", "GIF", "BMP"):
        buffer = io.BytesIO()
        Image.new("RGB", (2, 2)).save(buffer, name)
        text = base64.b64encode(buffer.getvalue())
        found += [text, b"data:image/" + name.lower().encode() + b";base64," + text]
    return [*found, b"data:image/svg+xml,%3Csvg%3E", b"data:,"]


def read(data: bytes, folder: Path) -> None:
    """Read the cell as an image, as text and as bytes."""
    text = data.decode("utf-8", "replace")
    if text.startswith(("http", "file:", "/", ".")) or "://" in text:
        return  # what is elsewhere on this machine or the network is not for a fuzzer
    describe(text)
    load_image(text, max_pixels=10_000)
    load_image(data, max_pixels=10_000)
