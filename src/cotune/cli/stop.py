"""What a command raises when Ctrl-C has stopped it and something is left to say."""

from __future__ import annotations


class StoppedError(Exception):
    """Stopped by the user; the text says what was kept and how to go on. The exit code is 130."""
