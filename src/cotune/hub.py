"""The model hub: names of repositories, whether it can be reached, and what its client raises in one line."""

from __future__ import annotations

import errno
import os
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from urllib.parse import urlsplit

from cotune.errors import ConfigError, HubError, clip, first_line

PREFIX = "hf:"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


def parse_repository(name: str) -> tuple[str, str | None]:
    """Return repository and revision of ``OWNER/NAME[@REVISION]``.

    Raises
    ------
    ConfigError
        If it is no name that the hub would have.
    """
    repository, at, revision = name.partition("@")
    if not _NAME.fullmatch(repository) or "--" in repository or ".." in repository or (at and not revision):
        raise ConfigError(
            f"{clip(name, 100)!r} names no repository of the hub; write OWNER/NAME or OWNER/NAME@REVISION"
        )
    return repository, revision or None


@contextmanager
def cache_alone() -> Iterator[None]:
    """Read what the hub's cache has, and ask no network."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def cache_alone_when_offline() -> Iterator[None]:
    """Spare the user the hub client's half a minute of retries where the hub cannot be reached at all."""
    from huggingface_hub import constants

    with nullcontext() if constants.HF_HUB_OFFLINE or reachable(constants.ENDPOINT) else cache_alone():
        yield


def reachable(endpoint: str) -> bool:
    """Tell whether something listens at an address; true behind a proxy, where only the hub's client can tell."""
    if urllib.request.getproxies():
        return True
    address = urlsplit(endpoint)
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=3).close()
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def hub_errors(what: str, endpoint: str) -> Iterator[None]:
    """Turn what the hub's client raises in the block into one line.

    Parameters
    ----------
    what : str
        What is asked for, such as ``hf:OWNER/NAME``.
    endpoint : str
        The hub that is asked.

    Raises
    ------
    HubError
        With what is wrong, and what to do.
    """
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of httpx or httpx2, by its version

    try:
        yield
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        raise HubError(f"{what}: {_reason(error, endpoint)}") from error


def _reason(error: BaseException, endpoint: str) -> str:
    from huggingface_hub import constants, errors

    while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # one file of several
        error = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        if _set_offline():
            return "it is not in the hub's cache, and HF_HUB_OFFLINE is set; unset it, or use a run folder"
        return f"it is not in the hub's cache, and {endpoint} cannot be reached; connect to it, or use a run folder"
    if isinstance(error, errors.GatedRepoError):
        return f"access to it has to be asked for on its page at {endpoint}; then {_LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such revision; check the branch, tag or commit behind the @"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such repository, or it is private and {_token()}"
    if isinstance(error, errors.EntryNotFoundError):
        return "it is no run of cotune (it has no config.json)"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return f"the hub does not know who asks (401): {_token()}"
    if status == 403:
        return f"the token may not do this (403); {_LOGIN} to one with the right to write there"
    if status is not None:
        return f"the hub answers {status} ({_of_server(error)}); try again later"
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return (
            f"the hub's cache {constants.HF_HUB_CACHE} cannot be written ({(error.strerror or '').lower()}); free some "
            "space, or set HF_HOME to another place"
        )
    if type(error).__module__.startswith("httpx"):
        return f"{endpoint} cannot be reached ({type(error).__name__}); try again later"
    return " ".join(str(error).split())[:300] or type(error).__name__


def _set_offline() -> bool:
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in
               ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))  # fmt: skip


def _token() -> str:
    from huggingface_hub import get_token

    return f"{'the token does not open it' if get_token() else 'no token was found'}; {_LOGIN}"


def _of_server(error: Any) -> str:
    return " ".join(str(getattr(error, "server_message", None) or first_line(error)).split())[:200]
