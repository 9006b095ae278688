"""Free memory given back to the system: batches whose sizes differ leave gaps in the heap that nothing fills again."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
# Seldom enough to cost nothing that can be measured, often enough that little gathers in between.
_EVERY = 16


def releasing_memory(batches: Iterable[T], every: int = _EVERY) -> Iterator[T]:
    """Yield the batches, and let go of free memory once in a while and at the end."""
    for i, batch in enumerate(batches, start=1):
        yield batch
        if i % every == 0:
            release_memory()
    release_memory()


def release_memory() -> None:
    """Return free parts of the heap to the system, where the C library can (glibc).

    It keeps blocks of up to 32 MiB once such a block was freed, and tensors whose size changes from batch to batch
    leave gaps between them that no later tensor fills.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # other systems, other libraries
        return None
