"""Images from files, bytes, arrays and URLs: decoded safely, or refused with a reason."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cotune.data.images.cells import EXPECTED, plain_image
from cotune.data.images.inline import is_inline
from cotune.data.images.pixels import array_to_image, to_rgb
from cotune.data.images.sources import (
    MAX_BYTES,
    ImageFault,
    bytes_key,
    describe,
    file_url_path,
    is_url,
    read_bytes,
    read_regular_file,
)
from cotune.data.images.structure import MAX_DRAWN, endless_header, passes
from cotune.errors import clip

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "ImageFault",
    "ImageInfo",
    "ImageSource",
    "ReadImage",
    "bytes_key",
    "decode_bytes",
    "describe",
    "extension_matches",
    "file_url_path",
    "image_key",
    "is_url",
    "load_image",
    "open_bytes",
    "read_bytes",
    "read_image",
    "to_rgb",
    "verify_bytes",
    "verify_image",
]

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]"

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused; decoded they would take over a quarter of a gigabyte."""


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


@dataclass(frozen=True)
class ImageInfo:
    """What :func:`verify_image` found.

    Attributes
    ----------
    width, height : int
        Size in pixels, 0 when the image cannot be opened.
    format : str or None
        Format of the content ("JPEG"), None when it is unknown or is an array.
    extension_ok : bool
        False when the file's name promises another format than its bytes hold.
    faults : list of ImageFault
        Empty for a sound image.
    """

    width: int
    height: int
    format: str | None
    extension_ok: bool
    faults: list[ImageFault] = field(default_factory=list)


def load_image(
    source: ImageSource | BinaryIO,
    *,
    max_pixels: int = MAX_PIXELS,
    allow_remote: bool = False,
    min_side: int | None = None,
) -> Image.Image:
    """Return the image in RGB, upright, over white where it is transparent.

    Animations give their first frame; 16-bit, CMYK, palette and grey images are converted. A damaged file
    is never patched up with invented pixels.

    Parameters
    ----------
    source : path, URL, ``data:`` URI, base64, bytes, binary file, PIL image, numpy array or tensor
        Arrays are height x width (x 1, 3 or 4 channels), integers 0..255 or floats 0..1. Tensors may have their
        channels first.
    max_pixels : int
        Images with more pixels are refused before they are decoded.
    allow_remote : bool
        Fetch URLs (any that fsspec knows); otherwise they are refused.
    min_side : int, optional
        A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as its short side keeps this many pixels.

    Raises
    ------
    ImageFault
        When the image cannot be used; `kind` tells why.
    """
    source = plain_image(source)
    if isinstance(source, np.ndarray):
        return array_to_image(source, max_pixels)
    if isinstance(source, Image.Image):
        return _decode(source, "PIL image", max_pixels, None)
    if not isinstance(source, str | bytes):
        raise ImageFault("unreadable", f"{describe(source)} cannot be read; give {EXPECTED}")
    data = read_bytes(source, allow_remote=allow_remote)
    return decode_bytes(data, describe(source), max_pixels=max_pixels, min_side=min_side)


def decode_bytes(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> Image.Image:
    """Return the image in the encoded `data` as :func:`load_image` does; `name` is for messages."""
    with open_bytes(data, name, max_pixels=max_pixels) as image:
        return _decode(image, name, max_pixels, min_side)


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


def _decode(image: Image.Image, name: str, max_pixels: int, min_side: int | None) -> Image.Image:
    _check_size(image, name, max_pixels)
    try:
        if min_side is not None and image.format in ("JPEG", "MPO"):
            scale = min_side / min(image.size)
            image.draft(None, tuple(max(1, round(side * scale)) for side in image.size))  # type: ignore[arg-type]
        image.load()
        return to_rgb(_upright(image))
    except Image.DecompressionBombError as error:  # an icon may hold an image larger than it says
        raise ImageFault("too large", f"{name}: more than {max_pixels:,} pixels") from error
    except MemoryError as error:
        raise ImageFault("too large", f"{name}: not enough memory to decode it") from error
    except _DECODE_ERRORS as error:
        raise _fault(name, error) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF is free-form; damaged notes about an image do not spoil its pixels
        return image


@dataclass(frozen=True)
class ReadImage:
    """An image that was read once: its content key, and what it is decoded from.

    Attributes
    ----------
    key : str
        Hash of the content: of the encoded bytes for files and bytes, of the pixels otherwise.
    """

    key: str
    _content: bytes | Image.Image
    _name: str

    def decode(self, *, min_side: int | None = None) -> Image.Image:
        """Return the image as :func:`load_image` does.

        Raises
        ------
        ImageFault
            When it cannot be decoded.
        """
        if isinstance(self._content, Image.Image):
            return self._content
        return decode_bytes(self._content, self._name, min_side=min_side)

    def size(self) -> tuple[int, int]:
        """Return width and height in pixels, without decoding.

        Raises
        ------
        ImageFault
            When it cannot be opened.
        """
        if isinstance(self._content, Image.Image):
            return self._content.size
        with open_bytes(self._content, self._name) as image:
            return image.size


def read_image(source: ImageSource, *, allow_remote: bool = False) -> ReadImage:
    """Read an image once, for its content key and for decoding it as often as is needed.

    Raises
    ------
    ImageFault
        When the image cannot be read.
    """
    source = plain_image(source)
    name = describe(source)
    if isinstance(source, np.ndarray | Image.Image):
        image = load_image(source)
        return ReadImage(bytes_key(f"pixels {image.size}".encode() + image.tobytes()), image, name)
    if not isinstance(source, str | bytes):
        raise ImageFault("unreadable", f"{name} cannot be read; give {EXPECTED}")
    data = read_bytes(source, allow_remote=allow_remote)
    return ReadImage(bytes_key(data), data, name)


def image_key(source: ImageSource, *, allow_remote: bool = False) -> str:
    """Return a hash of the content, as :func:`read_image` does.

    Raises
    ------
    ImageFault
        When the image cannot be read.
    """
    return read_image(source, allow_remote=allow_remote).key


#: First bytes of a file that hold its size, unless much else stands before it.
_HEAD = 65_536


def image_pixels(source: ImageSource) -> int | None:
    """Return how many pixels an image has, without decoding it; None where it cannot be read, or has to be fetched.

    Of a file the first bytes are read, which say it in nearly all formats; the rest only where they do not.
    """
    if isinstance(source, str) and not is_url(source) and not is_inline(source):
        with suppress(ImageFault), open_bytes(read_regular_file(source, _HEAD, cut=True), source) as image:
            return image.width * image.height
    try:
        width, height = read_image(source).size()
    except ImageFault:
        return None
    return width * height


def verify_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS, allow_remote: bool = False) -> ImageInfo:
    """Decode the image in full and report what is wrong with it, without raising."""
    source = plain_image(source)
    if isinstance(source, np.ndarray | Image.Image):
        try:
            image = load_image(source, max_pixels=max_pixels)
        except ImageFault as fault:
            return ImageInfo(0, 0, None, True, [fault])
        return ImageInfo(image.width, image.height, getattr(source, "format", None), True)
    try:
        data = read_bytes(source, allow_remote=allow_remote)
    except ImageFault as fault:
        return ImageInfo(0, 0, None, True, [fault])
    return verify_bytes(data, source, max_pixels=max_pixels)[0]


def verify_bytes(data: bytes, source: object, *, max_pixels: int = MAX_PIXELS) -> tuple[ImageInfo, Image.Image | None]:
    """Verify encoded `data` that came from `source`; return also the image, None when it is faulty."""
    name = describe(source)
    try:
        opened = open_bytes(data, name, max_pixels=max_pixels)
    except ImageFault as fault:
        return ImageInfo(0, 0, None, True, [fault]), None
    width, height, kind = opened.width, opened.height, opened.format
    right = extension_matches(source, kind)
    try:
        return ImageInfo(width, height, kind, right), _decode(opened, name, max_pixels, None)
    except ImageFault as fault:
        return ImageInfo(width, height, kind, right, [fault]), None


def extension_matches(source: object, kind: str | None) -> bool:
    """Tell whether the name of `source` agrees with format `kind`; names without a known ending always do."""
    if kind is None or not isinstance(source, str | os.PathLike) or is_inline(source):
        return True
    name = os.fspath(source)
    try:
        suffix = Path(urlsplit(name).path if is_url(name) else name).suffix.lower()
    except ValueError:  # a URL that cannot be taken apart
        return True
    promised = Image.registered_extensions().get(suffix)
    same = [{"JPEG", "MPO"}, {"BMP", "DIB"}, {"PNG", "APNG"}]
    return promised is None or promised == kind or any({promised, kind} <= pair for pair in same)
