"""Where an image comes from: a path, a URL or bytes, read with limits, or refused with a reason."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote, urlsplit

from cotune.data.images.inline import decode_inline, describe_inline, inline_size, inline_text, is_inline
from cotune.errors import CotuneError, clip

MAX_BYTES = 256 * 2**20
"""Image files with more bytes are refused before they are read."""

_FETCHED_AT_ONCE = 16

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.:-]+://")
# What fsspec reads from this machine, or takes apart and opens again by rules of its own: none of it is a network.
_NOT_REMOTE = {
    "asynclocal", "async_wrapper", "asyncwrapper", "blockcache", "cached", "dask", "data", "dir", "dvc", "file",
    "filecache", "generic", "git", "jlab", "jupyter", "libarchive", "local", "pyscript", "reference", "root",
    "simplecache", "tar", "zip",
}  # fmt: skip

_PLAIN = {
    "missing": "is missing",
    "not a file": "is not a file",
    "empty": "is empty",
    "unreadable": "cannot be read; send JPEG, PNG, GIF, WEBP, BMP, TIFF or AVIF",
    "truncated": "is cut short",
    "too large": "is too large",
    "remote": "cannot be fetched",
}
FAULT_KINDS = frozenset(_PLAIN)


class ImageFault(CotuneError):  # noqa: N818 - a fault of the data, not of the program
    """An image that cannot be used.

    Parameters
    ----------
    kind : str
        One of "missing", "not a file", "empty", "unreadable", "truncated", "too large", "remote".
    message : str
        Names the image and the reason.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def plain(self) -> str:
        """The reason in words that quote neither the image nor its name."""
        return f"the image {_PLAIN.get(self.kind, _PLAIN['unreadable'])}"

    def __reduce__(self) -> tuple[type[ImageFault], tuple[str, str]]:
        """Let the fault travel from a worker process."""
        return type(self), (self.kind, str(self))


def is_url(value: object) -> bool:
    """Tell whether `value` is a string that begins with a scheme, as in ``https://`` or ``s3://``."""
    return isinstance(value, str) and _URL.match(value) is not None and not is_inline(value)


def reading_threads(cores: int, allow_remote: bool) -> int:
    """Return how many threads read images: one a core, or more where most of them wait for a network."""
    return max(cores, _FETCHED_AT_ONCE) if allow_remote else cores


def has_urls(images: Iterable[Any]) -> bool:
    """Tell whether any of some posts' images would have to be fetched."""
    return any(is_url(image) for image in images)


def file_url_path(url: str) -> str:
    """Return the path that a ``file://`` URL means; without a leading slash it is a relative path."""
    try:
        parts = urlsplit(url.replace("#", "%23").replace("?", "%3F"))
    except ValueError:  # brackets where a host would be; no file is called so
        return url
    host = "" if parts.netloc in ("", "localhost") else unquote(parts.netloc)
    path = host + unquote(parts.path)
    return path[1:] if re.match(r"^/[A-Za-z]:[/\\]", path) else path  # file:///C:/image.png


def describe(source: object) -> str:
    """Return a short name of `source` for messages, of 200 characters at most."""
    if isinstance(source, str | os.PathLike):
        text = os.fsdecode(os.fspath(source))
        return describe_inline(text) if is_inline(text) else clip(text)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"image of {len(source):,} bytes"
    if hasattr(source, "shape"):
        return f"array of shape {source.shape}"
    return "PIL image" if hasattr(source, "getbands") else f"image of type {type(source).__name__}"


def read_bytes(source: str | os.PathLike[str] | bytes, *, allow_remote: bool = False) -> bytes:
    """Return the encoded bytes of an image given by path, URL, ``data:`` URI, base64 or bytes.

    Raises
    ------
    ImageFault
        When it is missing, a folder, empty, malformed, larger than `MAX_BYTES`, or remote without permission.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        text = inline_text(data)
        if text is not None:
            data = _read_inline(text)
    elif is_inline(os.fspath(source)):
        data = _read_inline(str(source))
    elif is_url(source) and not str(source).startswith("file://"):
        data = _fetch(str(source), allow_remote)
    else:
        name = os.fspath(source)
        data = _read_file(file_url_path(name) if name.startswith("file://") else name)
    if not data:
        raise ImageFault("empty", f"{describe(source)}: holds 0 bytes")
    if len(data) > MAX_BYTES:
        raise ImageFault("too large", f"{describe(source)}: more than {MAX_BYTES // 2**20} MB")
    return data


def _read_inline(text: str) -> bytes:
    if inline_size(text) > MAX_BYTES:
        raise ImageFault("too large", f"{describe(text)}: more than {MAX_BYTES // 2**20} MB")
    try:
        return decode_inline(text)
    except ValueError as error:
        raise ImageFault("unreadable", f"{describe(text)}: {error}") from error


def _read_file(name: str) -> bytes:
    return read_regular_file(name, MAX_BYTES)


def read_regular_file(name: str, most: int, *, cut: bool = False) -> bytes:
    """Return the content of a file; nothing else is opened, as devices and pipes may block or act on being opened.

    Parameters
    ----------
    name : str
        Its path.
    most : int
        Bytes to read at most.
    cut : bool
        Whether the first bytes of a larger file will do.

    Raises
    ------
    ImageFault
        When there is no such file, it is of another kind, or larger than `most`.
    """
    try:
        _refuse_special(name, os.stat(name).st_mode)  # noqa: PTH116 - a path that is read as it is
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(name, flags), "rb") as file:  # noqa: PTH123
            found = os.fstat(file.fileno())  # it may have become another one since
            _refuse_special(name, found.st_mode)
            if found.st_size > most and not cut:
                raise ImageFault("too large", f"{describe(name)}: {found.st_size // 2**20:,} MB, the limit is "
                                 f"{most // 2**20} MB")  # fmt: skip
            return file.read(most if cut else most + 1)  # it may grow
    except FileNotFoundError as error:
        raise ImageFault("missing", f"{describe(name)}: no such file") from error
    except PermissionError as error:
        raise ImageFault("unreadable", f"{describe(name)}: reading is not permitted") from error
    except (OSError, ValueError) as error:  # names too long or with a NUL byte cannot exist
        # The system's own words would repeat the whole name.
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            why = "too long for a path, and neither a data URI nor base64 of an image"
        raise ImageFault("missing", f"{describe(name)}: {why}") from error


def _refuse_special(name: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "device or pipe"
        raise ImageFault("not a file", f"{describe(name)}: is a {kind}, not an image file")


def _fetch(url: str, allow_remote: bool) -> bytes:
    if not allow_remote:
        hint = "allow fetching it with --allow-remote (in Python: allow_remote=True)"
        raise ImageFault("remote", f"{describe(url)}: is a URL; {hint}")
    scheme = url.partition("://")[0].lower()
    if "::" in url or scheme in _NOT_REMOTE:
        raise ImageFault("remote", f"{describe(url)}: leads through this machine, not to another; give a plain path or "
                         "a plain URL")  # fmt: skip
    import fsspec

    try:
        with fsspec.open(url, "rb") as handle:
            return bytes(handle.read(MAX_BYTES + 1))
    except FileNotFoundError as error:
        raise ImageFault("remote", f"{describe(url)}: not found there, or its host cannot be reached") from error
    except ImportError as error:
        raise ImageFault("remote", f"{describe(url)}: {clip(str(error))}") from error
    except Exception as error:  # every file system behind fsspec has its own errors
        raise ImageFault(
            "remote", f"{describe(url)}: cannot be fetched: {clip(str(error)) or type(error).__name__}"
        ) from error


def bytes_key(data: bytes) -> str:
    """Return the content hash of encoded bytes, as :func:`image_key` does."""
    return blake2b(data, digest_size=20).hexdigest()
