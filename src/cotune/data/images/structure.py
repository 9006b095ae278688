"""Files whose structure alone would keep a decoder busy for minutes: told by their bytes, before one is asked."""

from __future__ import annotations

import re

_GIF_BLOCKS = 10_000
_PNG_CHUNKS = 100_000  # of 8 KB or more in common files: most of a gigabyte
_JPEG_SEGMENTS = 10_000  # ICC profiles and previews take up to 255 each
#: Pixels times passes over them that may be drawn; a progressive JPEG has about ten passes, whatever its size.
MAX_DRAWN = 1_500_000_000

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


def endless_header(data: bytes) -> str | None:
    """Return why opening `data` would take too long, None if it would not.

    Pillow reads the pieces of a file one by one in Python, some in a time that grows with the square of their number.
    """
    if data[:4] == b"GIF8" and not _gif_begins_soon(data):
        return f"more than {_GIF_BLOCKS:,} blocks before its first frame"
    if data[:8] == b"\x89PNG\r\n\x1a\n" and not _png_ends_soon(data):
        return f"more than {_PNG_CHUNKS:,} chunks"
    return None


def _gif_begins_soon(data: bytes) -> bool:
    at = 13 + (3 << (1 + (data[10] & 7)) if len(data) > 10 and data[10] & 128 else 0)
    blocks = 0
    while at + 2 < len(data) and data[at] == ord("!"):
        at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
            blocks += 1
            if blocks > _GIF_BLOCKS:
                return False
        at += 1
    return True


def _png_ends_soon(data: bytes) -> bool:
    at, end = 8, len(data)
    for _ in range(_PNG_CHUNKS):
        if at + 8 > end or data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def passes(data: bytes) -> int:
    """Return how many passes over its pixels `data` takes; of a JPEG with too many pieces to tell, very many."""
    if data[:2] != b"\xff\xd8":
        return 1
    at = scans = 0
    for _ in range(_JPEG_SEGMENTS):
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            return max(1, scans)
        marker, at = data[found.end() - 1], found.end()
        if marker == _END_OF_IMAGE:
            return max(1, scans)
        if marker in (0xD8, 0x01):  # these stand alone
            continue
        scans += marker == _START_OF_SCAN
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return MAX_DRAWN
