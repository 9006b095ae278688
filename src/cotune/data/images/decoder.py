"""The program that decodes images for another one: it may crash, hang or run out of memory without harm to that one.

Started by :mod:`cotune.data.images.decoder_pool`. Requests come on standard input and answers go to standard output,
both of plain numbers and text; encoded bytes and pixels lie in a file that both have open and that is in memory alone.
"""

from __future__ import annotations

import importlib
import os
import signal
import struct
import sys
import time
from contextlib import suppress

from PIL import Image

from cotune.data.images import decode

#: Bytes of the image, most pixels, shortest side or 0, what is wanted, whether it may be large, Pillow's limit or 0.
REQUEST = struct.Struct("<QQIB?Q")
#: Kind of answer, width and height of the image, bytes of the format and of the text that follow.
ANSWER = struct.Struct("<BIIHH")
#: Width and height of the pixels that are in the file, 3 bytes each; in the place of a text.
SIZE = struct.Struct("<II")

READY, PIXELS, APPEARANCE, HEADER, FAULT, LARGE = range(6)  # kinds of answers
WANTED: tuple[decode.What, ...] = ("pixels", "appearance", "size")
"""What may be wanted, by its number in a request."""

_TEXT = 2_000
_MEMORY = 512 * 2**20  # that decoding takes beside pixels
_BYTES_A_PIXEL = 40
_STRIP = 1 << 15  # pixels
_RENEWED = 2.0  # seconds after which the limits move on with what is in use


def read_whole(file: int, n: int, at: int = 0) -> bytes:
    """Return `n` bytes of a file, from the place `at` on.

    Raises
    ------
    EOFError
        When it is shorter.
    """
    found = os.pread(file, n, at)
    while len(found) < n:  # the system gives two gigabytes at a time
        got = os.pread(file, n - len(found), at + len(found))
        if not got:
            raise EOFError
        found += got
    return found


def write_whole(file: int, data: bytes, at: int = 0) -> None:
    """Write `data` to a file, from the place `at` on."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written


def write_pixels(file: int, image: Image.Image) -> None:
    """Write the pixels of an image in RGB, 3 bytes each, row by row."""
    width, height = image.size
    rows, at = max(1, _STRIP // width), 0
    for top in range(0, height, rows):  # strips stay in the processor's cache; all at once takes three times as long
        strip = image.crop((0, top, width, min(height, top + rows))).tobytes()
        write_whole(file, strip, at)
        at += len(strip)


def read_pixels(file: int, width: int, height: int) -> Image.Image:
    """Return the image whose pixels :func:`write_pixels` wrote.

    Raises
    ------
    EOFError
        When they are too few.
    """
    image = Image.new("RGB", (width, height), None)
    rows, at = max(1, _STRIP // width), 0
    for top in range(0, height, rows):
        here = min(rows, height - top)
        strip = read_whole(file, 3 * width * here, at)
        image.paste(Image.frombytes("RGB", (width, here), strip), (0, top))
        at += len(strip)
    return image


class Limits:
    """Bounds on the memory and the time that one image takes, where the system has them.

    Parameters
    ----------
    seconds : int
        Most seconds of a core.
    """

    def __init__(self, seconds: int) -> None:
        import resource

        self._resource, self.seconds = resource, seconds
        self._renewed, self._base, self._most = -_RENEWED, 0, 0
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def begin(self, n_bytes: int) -> None:
        """Bound what opening `n_bytes` may take, beside what is in use."""
        now = time.monotonic()
        if now - self._renewed >= _RENEWED:  # these calls take as long as a small image
            self._renewed, self._base = now, _memory()
            self._set(self._resource.RLIMIT_CPU, int(time.process_time() + self.seconds + _RENEWED))
        self._bound_memory(2 * n_bytes)

    def pixels(self, n_pixels: int, n_bytes: int) -> None:
        """Bound what decoding so many pixels may take."""
        self._bound_memory(2 * n_bytes + _BYTES_A_PIXEL * n_pixels)

    def _bound_memory(self, more: int) -> None:
        most = self._base + _MEMORY + (more if more > _MEMORY // 2 else 0)
        if most != self._most:
            self._most = most
            self._set(self._resource.RLIMIT_AS, most)

    def _set(self, which: int, most: int) -> None:
        hard = self._resource.getrlimit(which)[1]
        if hard != self._resource.RLIM_INFINITY:
            most = min(most, hard)
        with suppress(ValueError, OSError):  # macOS has no such limit on memory
            self._resource.setrlimit(which, (most, hard))


def _memory() -> int:
    """Return the size of this process in bytes; very much where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 1 << 62


def answer(file: int, request: bytes, limits: Limits) -> bytes:
    """Do what a request asks and return the answer; pixels are written to the file."""
    n_bytes, max_pixels, min_side, what, may_be_large, pillow = REQUEST.unpack(request)
    Image.MAX_IMAGE_PIXELS = pillow or None
    limits.begin(n_bytes)
    data = read_whole(file, n_bytes)
    large: list[bool] = []

    def may_draw(image: Image.Image) -> bool:
        large.append(not may_be_large and decode.is_large(image))
        limits.pixels(image.width * image.height, n_bytes)
        return not large[0]

    wanted = decode.Wanted(max_pixels, min_side or None, WANTED[what])
    found = decode.decode_here(data, "", wanted, may_draw=may_draw)
    kind, text = HEADER, b""
    if found.fault is not None:
        kind, text = FAULT, f"{found.fault.kind}\n{found.fault}".encode("utf-8", "replace")[:_TEXT]
    elif found.image is not None:
        kind, text = PIXELS, SIZE.pack(*found.image.size)
        write_pixels(file, found.image)
    elif found.appearance is not None:
        kind, text = APPEARANCE, found.appearance.to_bytes()
    elif any(large):
        kind = LARGE
    format_ = (found.format or "").encode()[:100]
    return ANSWER.pack(kind, found.width, found.height, len(format_), len(text)) + format_ + text


def main(file: int, seconds: int, further: list[str]) -> None:
    """Answer requests until there are no more.

    Parameters
    ----------
    file : int
        Descriptor of the file that holds the bytes and the pixels.
    seconds : int
        Most seconds of a core for one image.
    further : list of str
        Modules that teach Pillow more formats.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks ends it
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    if "pillow_heif" in further:
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    limits = Limits(seconds)
    os.write(answers, ANSWER.pack(READY, 0, 0, 0, 0))
    for standard in (0, 1, 2):  # decoders print what they think of an image
        os.dup2(nothing, standard)
    while request := os.read(requests, REQUEST.size):  # a pipe gives what is as short as that in one piece
        os.write(answers, answer(file, request, limits))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    os._exit(0)  # there is nothing to tidy up, and nobody waits for it
