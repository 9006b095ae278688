"""Memory between batches: large blocks are used again, and what lies free is given back once in a while.

Left alone, the C library asks the system for each tensor of more than 32 MB and gives it back at once, and the system
fills every page with zeros: a fifth of the time of a convolution on large images. Batches whose sizes differ, on the
other hand, leave gaps in the heap that nothing fills again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
# Seldom enough to cost nothing that can be measured, often enough that little gathers in between.
_EVERY = 16


def releasing_memory(batches: Iterable[T], every: int = _EVERY) -> Iterator[T]:
    """Yield the batches; large blocks are used again, and free memory is let go of once in a while and at the end."""
    with _keeping_blocks():
        for i, batch in enumerate(batches, start=1):
            yield batch
            if i % every == 0:
                release_memory()
    release_memory()


# Of mallopt(3) in glibc; the last is the largest that it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_DEFAULT_TRIM, _DEFAULT_MMAPS, _LARGEST, _LARGEST_MMAP = 128 * 1024, 65536, 2**31 - 1, 32 * 2**20
_keeping = 0


@contextmanager
def _keeping_blocks() -> Iterator[None]:
    """Let the C library keep what is freed, where it can (glibc), until the outermost of such blocks is over."""
    global _keeping
    _keeping += 1
    if _keeping == 1:
        _set(_MMAP_MAX, 0)
        _set(_TRIM_THRESHOLD, _LARGEST)
    try:
        yield
    finally:
        _keeping -= 1
        if not _keeping:
            _set(_MMAP_MAX, _DEFAULT_MMAPS)
            _set(_TRIM_THRESHOLD, _DEFAULT_TRIM)
            _set(_MMAP_THRESHOLD, _LARGEST_MMAP)  # where it would have come to by itself


def _set(option: int, value: int) -> None:
    function = _of_libc("mallopt")
    if function is not None:
        function(option, value)


def release_memory() -> None:
    """Return free parts of the heap to the system, where the C library can (glibc)."""
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_libc(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, TypeError, AttributeError):  # other systems, other libraries
        return None
