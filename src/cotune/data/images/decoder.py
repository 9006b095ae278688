"""The program that decodes images for another one: it may crash, hang or run out of memory without harm to that one.

Started by :mod:`cotune.data.images.decoder_pool`. Requests come on standard input and answers go to standard output,
both of plain numbers and text; encoded bytes and pixels lie in a file that both have open and that is in memory alone.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from contextlib import suppress

from PIL import Image

from cotune.data.images import decode

#: Bytes of the image, most pixels, shortest side or 0, what is wanted, Pillow's own limit or 0.
REQUEST = struct.Struct("<QQIBQ")
#: Kind of answer, width and height of the image, bytes of the format and of the text that follow.
ANSWER = struct.Struct("<BIIHH")
#: Width and height of the pixels that are in the file, 3 bytes each; in the place of a text.
SIZE = struct.Struct("<II")

READY, PIXELS, HEADER, FAULT, LARGE = range(5)  # kinds of answers
OPEN, DRAW, DRAW_LARGE = range(3)  # what may be wanted

_TEXT = 2_000
_MEMORY = 512 * 2**20  # that decoding takes beside pixels
_BYTES_A_PIXEL = 40


def read_whole(file: int, n: int) -> bytearray:
    """Return the first `n` bytes of a file.

    Raises
    ------
    EOFError
        When it is shorter.
    """
    found = bytearray(n)
    view, at = memoryview(found), 0
    while at < n:
        got = os.preadv(file, [view[at:]], at)
        if not got:
            raise EOFError
        at += got
    return found


def write_whole(file: int, data: bytes) -> None:
    """Write `data` to the beginning of a file."""
    view, at = memoryview(data), 0
    while at < len(data):
        at += os.pwrite(file, view[at:], at)


class Limits:
    """Bounds on the memory and the time that one image takes, where the system has them.

    Parameters
    ----------
    seconds : int
        Most seconds of a core, and a fourth of the most seconds altogether.
    """

    def __init__(self, seconds: int) -> None:
        import resource

        self._resource, self.seconds = resource, seconds
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def begin(self, n_bytes: int) -> None:
        """Bound what opening `n_bytes` may take, beside what is in use."""
        used = self._resource.getrusage(self._resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime) + self.seconds + 1
        self._set(self._resource.RLIMIT_CPU, most)
        signal.alarm(4 * self.seconds)  # it ends even if nobody waits for it any more
        self._set(self._resource.RLIMIT_AS, _memory() + _MEMORY + 2 * n_bytes)

    def pixels(self, n_pixels: int, n_bytes: int) -> None:
        """Bound what decoding may take."""
        self._set(self._resource.RLIMIT_AS, _memory() + _MEMORY + 2 * n_bytes + _BYTES_A_PIXEL * n_pixels)

    def end(self) -> None:
        """Wait for the next image without a limit on time."""
        signal.alarm(0)

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
    n_bytes, max_pixels, min_side, wanted, pillow = REQUEST.unpack(request)
    Image.MAX_IMAGE_PIXELS = pillow or None
    limits.begin(n_bytes)
    data = bytes(read_whole(file, n_bytes))
    large: list[bool] = []

    def may_draw(image: Image.Image) -> bool:
        large.append(wanted == DRAW and decode.is_large(image))
        limits.pixels(image.width * image.height, n_bytes)
        return not large[0]

    found = decode.decode_here(
        data, "", decode.Wanted(max_pixels, min_side or None, pixels=wanted != OPEN), may_draw=may_draw
    )
    kind, text = HEADER, b""
    if found.fault is not None:
        kind, text = FAULT, f"{found.fault.kind}\n{found.fault}".encode("utf-8", "replace")[:_TEXT]
    elif found.image is not None:
        kind, text = PIXELS, SIZE.pack(*found.image.size)
        write_whole(file, found.image.tobytes())
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
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    limits = Limits(seconds)
    os.write(answers, ANSWER.pack(READY, 0, 0, 0, 0))
    for standard in (0, 1, 2):  # decoders print what they think of an image
        os.dup2(nothing, standard)
    while request := os.read(requests, REQUEST.size):  # a pipe gives what is as short as that in one piece
        os.write(answers, answer(file, request, limits))
        limits.end()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    os._exit(0)  # there is nothing to tidy up, and nobody waits for it
