"""Image files of every format that is opened: their headers, and their pixels."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from cotune.data.images.load import image_key, load_image, verify_bytes

WORDS = ("IHDR", "IDAT", "PLTE", "tRNS", "acTL", "fcTL", "iCCP", "zTXt", "JFIF", "Adobe", "Exif", "GIF89a", "NETSCAPE2.0", "RIFF",
         "WEBPVP8 ", "WEBPVP8L", "WEBPVP8X", "ANIM", "II*\0", "MM\0*", "BM", "ftypavif", "ftypheic", "P6\n", "P5 ", "65535",
         "\0\0\u0001\0", "jP  ")  # fmt: skip
_FORMATS = (("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"), ("WEBP", "RGB"),
            ("WEBP", "RGBA"), ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "CMYK"), ("ICO", "RGBA"), ("PPM", "RGB"),
            ("TGA", "RGB"), ("AVIF", "RGB"), ("JPEG2000", "RGB"))  # fmt: skip


def seeds() -> list[bytes]:
    """Return small images of each format, plain and animated."""
    Image.init()
    found = []
    for name, mode in _FORMATS:
        if name in Image.SAVE:
            buffer = io.BytesIO()
            Image.effect_mandelbrot((16, 12), (-2, -1, 1, 1), 9).convert("RGB" if mode == "CMYK" else "L").convert(
                mode
            ).save(buffer, name)
            found.append(buffer.getvalue())
    for name in ("GIF", "WEBP", "PNG", "TIFF"):
        buffer = io.BytesIO()
        frames = [Image.new("RGB", (8, 8), (30 * i, 0, 0)) for i in range(3)]
        frames[0].save(buffer, name, save_all=True, append_images=frames[1:])
        found.append(buffer.getvalue())
    return found


def read(data: bytes, folder: Path) -> None:
    """Look at the image, and decode it."""
    verify_bytes(data, "image", max_pixels=1_000_000)
    image_key(data)
    image = load_image(data, max_pixels=1_000_000)
    if image.mode != "RGB":
        raise AssertionError(f"an image of mode {image.mode}")
