"""Faults at a change of a file: the disk is full or read-only, or somebody presses Ctrl-C, at that very moment."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MAKING = ("os.mkdir", "open", "os.rename")
_EVENTS = (*_MAKING, "os.remove", "os.rmdir", "os.truncate")
Fault = Callable[[str], BaseException]


def full(path: str) -> BaseException:
    """No room is left."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def read_only(path: str) -> BaseException:
    """Nothing may be written."""
    return OSError(errno.EROFS, os.strerror(errno.EROFS), path)


def ctrl_c(path: str) -> BaseException:
    """The user stops it."""
    del path
    return KeyboardInterrupt()


class _Watch:
    """What is watched now; an audit hook stays for good, so that there is one alone."""

    folder = ""
    n = 0
    at: int | None = None
    fault: Fault | None = None
    installed = False

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.folder or event not in _EVENTS:
            return
        if event == "open" and not (isinstance(given[2], int) and given[2] & _WRITING):
            return
        path = given[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.fsdecode(path)
        if not name.startswith(self.folder):
            return
        self.n += 1
        if self.at is None or self.fault is None or self.n < self.at:
            return
        if self.fault is ctrl_c:
            if self.n == self.at:
                raise ctrl_c(name)
        elif event in _MAKING[:2]:  # what is there can still be renamed and deleted
            raise self.fault(name)


_watch = _Watch()


@contextmanager
def faulty(folder: Path, fault: Fault | None = None, at: int | None = None) -> Iterator[_Watch]:
    """Count changes of files below `folder`; from number `at` on, let the fault happen, Ctrl-C just once."""
    if not _watch.installed:
        sys.addaudithook(_watch)
        _watch.installed = True
    _watch.folder, _watch.n, _watch.fault, _watch.at = f"{folder}/", 0, fault, at
    try:
        yield _watch
    finally:
        _watch.folder = ""
