"""How a command is stopped: by Ctrl-C, or by SIGTERM as a batch system or container sends it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class StoppedError(Exception):
    """Stopped by the user; the text says what was kept and how to go on. The exit code is 130, or 143 by SIGTERM."""


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, on its way up as Ctrl-C would be.

    A class of its own, since ``python -m cotune`` ends as by SIGINT, whatever exit code is asked for, once a plain
    KeyboardInterrupt has passed through ``exec``, which dataclasses call while they are imported.
    """


@dataclass
class Stop:
    """Which signal stopped a command."""

    terminated: bool = False

    @property
    def code(self) -> int:
        """The exit code that shells give to a process ended by that signal."""
        return 128 + (signal.SIGTERM if self.terminated else signal.SIGINT)


@contextmanager
def terminable() -> Iterator[Stop]:
    """Let SIGTERM stop what runs in the block as Ctrl-C does; afterwards it does what it did before.

    A second SIGTERM changes nothing, as what is to be kept is being written by then.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # handlers can be set by the main thread alone
        yield stop
        return

    def interrupt(*_: Any) -> None:
        if not stop.terminated:
            stop.terminated = True
            raise TerminatedError

    def ask_again(ignored: sys.UnraisableHookArgs) -> None:
        """Send a signal once more that Python swallowed, as it came within a destructor."""
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            hook(ignored)
            return
        number = signal.SIGTERM if stop.terminated else signal.SIGINT
        stop.terminated = False
        timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    hook, sys.unraisablehook = sys.unraisablehook, ask_again
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield stop
    finally:
        sys.unraisablehook = hook
        # None: set by another language, which nothing can be put back to.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
