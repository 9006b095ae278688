"""Images that lie in a cell itself: ``data:`` URIs and base64, as untrusted as any other."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

_DATA = re.compile(r"data:", re.IGNORECASE)
# How the base64 of JPEG, PNG, GIF, WEBP and TIFF begins: no path of that length looks like it by chance.
_SIGNATURES = ("/9j/", "iVBORw0KGgo", "R0lGODlh", "R0lGODdh", "UklGR", "SUkqA", "TU0AK")
# BMP, AVIF and HEIC begin with what a path may begin with too; they count once they decode to such an image.
_WEAK = ("Qk", "AAAA")
_SHORTEST = 40
_LONGEST_PATH = 4_096
_ALPHABET = re.compile(r"[A-Za-z0-9+/_\s-]+={0,2}\s*")


def is_data_uri(value: str) -> bool:
    """Tell whether `value` begins with ``data:``."""
    return _DATA.match(value) is not None


def is_inline(value: object) -> bool:
    """Tell whether a cell holds an image itself, as a ``data:`` URI or as base64, rather than a path to one."""
    if not isinstance(value, str) or not value:
        return False
    if is_data_uri(value):
        return True
    if len(value) < _SHORTEST:
        return False
    if value.startswith(_SIGNATURES):
        return len(value) > _LONGEST_PATH or _ALPHABET.fullmatch(value) is not None
    return value.startswith(_WEAK) and _ALPHABET.fullmatch(value) is not None and _holds_weak(value)


def _holds_weak(value: str) -> bool:
    try:
        head = _decode(value[:64])
    except ValueError:
        return False
    return (head[:2] == b"BM" and head[6:10] == b"\0\0\0\0") or head[4:8] == b"ftyp"


def inline_text(data: bytes) -> str | None:
    """Return the ``data:`` URI or base64 that `data` holds as ASCII, None for anything else."""
    head = data[:16]
    if not (head[:5].lower() == b"data:" or head.startswith(tuple(mark.encode() for mark in _SIGNATURES))):
        return None
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return None
    return text if is_inline(text) else None


def describe_inline(value: str) -> str:
    """Return a short name of an inline image for messages."""
    if not is_data_uri(value):
        return f"base64 of {len(value):,} characters"
    media = value[5 : value.find(",", 0, 200)] if "," in value[:200] else value[5:45]
    return f"data URI {media.split(';')[0][:40]!r} of {len(value):,} characters"


def inline_size(value: str) -> int:
    """Return about how many bytes an inline image has, before it is decoded."""
    return len(value) * 3 // 4


def decode_inline(value: str) -> bytes:
    """Return the bytes of an inline image.

    Raises
    ------
    ValueError
        When it is malformed; the message says how.
    """
    if not is_data_uri(value):
        return _decode(value)
    header, comma, payload = value[5:].partition(",")
    if not comma:
        raise ValueError("has no comma between its header and its data")
    if header.lower().rstrip().endswith(";base64"):
        return _decode(payload)
    return unquote_to_bytes(payload)


def _decode(text: str) -> bytes:
    plain = "".join(text.split())
    if "%" in plain:
        plain = unquote_to_bytes(plain).decode("ascii", "replace")
    plain = plain.translate(_URL_SAFE).rstrip("=")
    try:
        # Many programs leave the padding away.
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        bad = re.search(r"[^A-Za-z0-9+/]", plain)
        why = f"has {bad.group()!r} at character {bad.start() + 1}" if bad else "is cut off"
        raise ValueError(f"is not valid base64: it {why}") from error


_URL_SAFE = str.maketrans("-_", "+/")
