"""Encoded bytes turned into pixels, in the process that asks: opened with limits, decoded, or refused with a reason."""

from __future__ import annotations

import io
import re
import struct
import threading
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageOps, UnidentifiedImageError

from cotune.data.images.appearance import Appearance
from cotune.data.images.pixels import to_rgb
from cotune.data.images.sources import ImageFault
from cotune.data.images.structure import MAX_DRAWN, endless_header, passes
from cotune.errors import clip

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused; decoded they would take over a quarter of a gigabyte."""

LARGE = 16_000_000
"""Images with more pixels are decoded one at a time: each may take a gigabyte on the way."""
_one_large = threading.Lock()

# Pillow also opens formats that start other programs (EPS), that have no signature so that anything may pass for them
# (TGA), or that no post holds; none of those is tried.
_FORMATS = (
    "JPEG",
    "MPO",
    "PNG",
    "GIF",
    "WEBP",
    "BMP",
    "DIB",
    "TIFF",
    "AVIF",
    "HEIF",
    "ICO",
    "JPEG2000",
    "PPM",
)
_TRUNCATED = re.compile(r"truncat|unexpected end|premature|broken png|end of (file|data|stream)|incomplete", re.I)
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, OverflowError,
                  AttributeError, NotImplementedError, ZeroDivisionError, AssertionError, RuntimeError,
                  struct.error, zlib.error, Warning)  # fmt: skip


What = Literal["pixels", "appearance", "size"]


@dataclass(frozen=True)
class Wanted:
    """What is wanted of an image.

    Attributes
    ----------
    max_pixels : int
        Images with more pixels are refused before they are decoded.
    min_side : int or None
        A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as its short side keeps this many pixels.
    what : {"pixels", "appearance", "size"}
        Its pixels, or what it looks like, for which it is decoded as well; or its size alone.
    """

    max_pixels: int = MAX_PIXELS
    min_side: int | None = None
    what: What = "pixels"


@dataclass(frozen=True)
class Decoded:
    """What encoded bytes turned out to hold.

    Attributes
    ----------
    width, height : int
        Size in pixels, 0 when they cannot be opened.
    format : str or None
        Format of the content ("JPEG"), None when it is unknown.
    image : Image or None
        The pixels, in RGB, if they are wanted.
    appearance : Appearance or None
        What it looks like, if that is wanted.
    fault : ImageFault or None
        Why there are none.
    """

    width: int = 0
    height: int = 0
    format: str | None = None
    image: Image.Image | None = None
    appearance: Appearance | None = None
    fault: ImageFault | None = None


def decode_here(
    data: bytes, name: str, wanted: Wanted, *, may_draw: Callable[[Image.Image], bool] | None = None
) -> Decoded:
    """Decode the encoded `data`.

    Parameters
    ----------
    data : bytes
        The content of an image file.
    name : str
        What to call it in messages.
    wanted : Wanted
        What is wanted of it.
    may_draw : callable, optional
        Takes the image once it is opened and tells whether to decode it.
    """
    try:
        opened = open_bytes(data, name, max_pixels=wanted.max_pixels)
    except ImageFault as fault:
        return Decoded(fault=fault)
    with opened:
        about = (*opened.size, opened.format)
        if wanted.what == "size":
            return Decoded(*about)
        try:
            _draft(opened, name, wanted.min_side)
            if may_draw is not None and not may_draw(opened):
                return Decoded(*about)
            with _one_large if is_large(opened) else nullcontext():
                image = draw(opened, name, wanted.max_pixels)
                if wanted.what == "appearance":
                    return Decoded(*about, appearance=Appearance.of(image))
                return Decoded(*about, image=image)
        except ImageFault as fault:
            return Decoded(*about, fault=fault)


def is_large(image: Image.Image) -> bool:
    """Tell whether decoding an opened image takes much memory."""
    return image.width * image.height > LARGE


def open_bytes(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open encoded bytes without decoding them yet; only common image formats are tried."""
    if (why := endless_header(data)) is not None:
        raise ImageFault("unreadable", f"{name}: {why}")
    Image.init()
    known = [name for name in _FORMATS if name in Image.OPEN]
    try:
        image = Image.open(io.BytesIO(data), formats=known)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageFault("too large", f"{name}: more than {max_pixels:,} pixels") from error
    except UnidentifiedImageError as error:
        kind, reason = _explain_unknown(data)
        raise ImageFault(kind, f"{name}: {reason}") from error
    except MemoryError as error:
        raise ImageFault("too large", f"{name}: not enough memory to decode it") from error
    except _DECODE_ERRORS as error:
        kind, reason = _explain_unknown(data)
        if kind == "truncated":
            raise ImageFault(kind, f"{name}: {reason}") from error
        raise _fault(name, error) from error
    _check_size(image, name, max_pixels)
    if (times := passes(data)) * image.width * image.height > MAX_DRAWN:
        raise ImageFault("too large", f"{name}: {image.width} x {image.height} pixels, drawn {times:,} times over")
    return image


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise ImageFault("too large", f"{name}: {image.width} x {image.height} pixels, the limit is {max_pixels:,}")
    if image.width < 1 or image.height < 1:
        raise ImageFault("empty", f"{name}: {image.width} x {image.height} pixels")


def _explain_unknown(data: bytes) -> tuple[str, str]:
    """Say what bytes that no decoder knows most likely are."""
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html")):
        return "unreadable", "holds a web page, not an image (a failed download?)"
    if head.startswith(b"version https://git-lfs"):
        return "unreadable", "is a Git LFS pointer; fetch the real file with 'git lfs pull'"
    if head.startswith((b"<svg", b"<?xml")):
        return "unreadable", "is SVG or XML; convert it to PNG"
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "unreadable", "is HEIC; install pillow-heif and register it, or convert it to JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data):
        return "truncated", "is cut short (WEBP)"
    if not any(data):
        return "unreadable", "holds only zero bytes"
    return "unreadable", "is no image in a format that can be read (JPEG, PNG, GIF, WEBP, BMP, TIFF, AVIF)"


def _fault(name: str, error: BaseException) -> ImageFault:
    words = clip(str(error).split("\n")[0]) or type(error).__name__
    kind = "truncated" if isinstance(error, EOFError) or _TRUNCATED.search(words) else "unreadable"
    return ImageFault(kind, f"{name}: {words}")


def draw(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Return an opened image in RGB, upright, over white where it is transparent.

    Raises
    ------
    ImageFault
        When it is damaged or too large.
    """
    _check_size(image, name, max_pixels)
    try:
        image.load()
        return to_rgb(_upright(image))
    except Image.DecompressionBombError as error:  # an icon may hold an image larger than it says
        raise ImageFault("too large", f"{name}: more than {max_pixels:,} pixels") from error
    except MemoryError as error:
        raise ImageFault("too large", f"{name}: not enough memory to decode it") from error
    except _DECODE_ERRORS as error:
        raise _fault(name, error) from error


def _draft(image: Image.Image, name: str, min_side: int | None) -> None:
    """Let a JPEG be decoded at a part of its size, as long as its short side keeps `min_side` pixels."""
    if min_side is not None and image.format in ("JPEG", "MPO"):
        scale = min_side / min(image.size)
        try:
            image.draft(None, tuple(max(1, round(side * scale)) for side in image.size))  # type: ignore[arg-type]
        except _DECODE_ERRORS as error:
            raise _fault(name, error) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF is free-form; damaged notes about an image do not spoil its pixels
        return image
