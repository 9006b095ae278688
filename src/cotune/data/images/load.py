"""Images from files, bytes, arrays and URLs: decoded safely, or refused with a reason."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from cotune.data.images.appearance import Appearance
from cotune.data.images.cells import EXPECTED, plain_image
from cotune.data.images.decode import MAX_PIXELS, Decoded, Wanted, draw, open_bytes
from cotune.data.images.decoder_pool import decode
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
        return draw(source, "PIL image", max_pixels)
    if not isinstance(source, str | bytes):
        raise ImageFault("unreadable", f"{describe(source)} cannot be read; give {EXPECTED}")
    data = read_bytes(source, allow_remote=allow_remote)
    return decode_bytes(data, describe(source), max_pixels=max_pixels, min_side=min_side)


def decode_bytes(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> Image.Image:
    """Return the image in the encoded `data` as :func:`load_image` does; `name` is for messages."""
    found = _opened(decode(data, name, Wanted(max_pixels, min_side)))
    assert found.image is not None
    return found.image


def _opened(found: Decoded) -> Decoded:
    if found.fault is not None:
        raise found.fault
    return found


def header_size(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return width and height of the image in the encoded `data`, which is not decoded.

    Raises
    ------
    ImageFault
        When it cannot be opened.
    """
    found = _opened(decode(data, name, Wanted(max_pixels, what="size")))
    return found.width, found.height


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

    def appearance(self, *, min_side: int | None = None) -> Appearance:
        """Return what the image looks like.

        Raises
        ------
        ImageFault
            When it cannot be decoded.
        """
        if isinstance(self._content, Image.Image):
            return Appearance.of(self._content)
        found = _opened(decode(self._content, self._name, Wanted(min_side=min_side, what="appearance")))
        assert found.appearance is not None
        return found.appearance

    def size(self) -> tuple[int, int]:
        """Return width and height in pixels, without decoding.

        Raises
        ------
        ImageFault
            When it cannot be opened.
        """
        if isinstance(self._content, Image.Image):
            return self._content.size
        return header_size(self._content, self._name)


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
        with suppress(ImageFault):
            width, height = header_size(read_regular_file(source, _HEAD, cut=True), source)
            return width * height
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


def verify_bytes(data: bytes, source: object, *, max_pixels: int = MAX_PIXELS) -> tuple[ImageInfo, Appearance | None]:
    """Verify encoded `data` that came from `source`; return also what the image looks like, None when it is faulty."""
    found = decode(data, describe(source), Wanted(max_pixels, what="appearance"))
    faults = [] if found.fault is None else [found.fault]
    right = extension_matches(source, found.format)
    return ImageInfo(found.width, found.height, found.format, right, faults), found.appearance


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
