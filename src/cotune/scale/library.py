"""Ray itself: imported once, quietly, for a cluster of our own or one that is there."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cotune.errors import ConfigError, first_line

ADDRESS = "RAY_ADDRESS"
# A cluster of our own listens on loopback alone, and who wants to talk to it needs a token. Ray reads these when it is
# imported, and keeps the token: where somebody else imported it before, Ray's own settings hold.
_OWN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
imported_with: dict[str, str] = {}


def import_ray() -> Any:
    """Return Ray with its data part.

    Raises
    ------
    ConfigError
        With the extra that brings it.
    """
    if "ray" not in sys.modules and os.environ.get(ADDRESS, "local") == "local":
        imported_with.update(_OWN)
    with environment_with(imported_with):
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ConfigError(f"--cluster ray needs Ray ({first_line(error)}); pip install 'cotune[ray]'") from error
    for handler in logging.getLogger("ray.data").handlers:  # whatever goes wrong is said in words of ours
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL + 1)
    return ray


def get(reference: Any) -> Any:
    """Return a value that :meth:`Cluster.put` shared, in a worker."""
    return import_ray().get(reference)


@contextmanager
def environment_with(values: dict[str, str]) -> Iterator[None]:
    """Set variables of the environment as long as the block lasts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
