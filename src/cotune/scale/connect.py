"""Connects to a Ray cluster: the one at RAY_ADDRESS, or one that is started on this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cotune.engines.sessions import usable_cores
from cotune.errors import ConfigError, first_line
from cotune.scale.cluster import Cluster, Workers
from cotune.scale.library import ADDRESS, environment_with, import_ray, imported_with

#: Seconds until a cluster has to answer.
_REACHED_WITHIN = 10
_QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_USAGE_STATS_ENABLED": "0"}
#: How a client of gRPC begins (RFC 9113, section 3.4), with empty settings; the server answers with its settings.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@contextmanager
def connected(workers: Workers | None = None) -> Iterator[Cluster]:
    """Connect to the cluster at RAYADDRESS, or start one on this machine, which ends with the block.

    A cluster that this process is connected to already is used, and left as it is.

    Raises
    ------
    ConfigError
        If Ray is not installed, the cluster cannot be reached, or has no room for the workers.
    """
    wanted = workers or Workers()
    ray, address = import_ray(), os.environ.get(ADDRESS, "local")
    if ray.is_initialized():
        yield Cluster(ray, wanted, elsewhere=address != "local")
        return
    with start(address):
        yield Cluster(ray, wanted, elsewhere=address != "local")


@contextmanager
def start(address: str = "local", *, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine, and end that with the block.

    Parameters
    ----------
    address : str
        ``host:port``, ``auto`` for one that runs on this machine, or ``local`` for a new one.
    num_cpus : int, optional
        Cores of a new one; all that this process may use by default.
    """
    ray = import_ray()
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    # Workers on this machine find the modules that this process finds, such as a plugin in the working directory.
    path = {"PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in sys.path)}  # noqa: PTH100
    with environment_with({**_QUIET, **({**imported_with, **path} if address == "local" else {})}):
        try:
            with _same_signals(), _without_stderr():
                if address == "local":
                    ray.init(address="local", num_cpus=num_cpus or usable_cores(), include_dashboard=False, **quiet)
                else:
                    _refuse_unreachable(address)
                    ray.init(address=address, **quiet)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            where = "a Ray cluster on this machine cannot be started" if address == "local" else _unreachable(address)
            raise ConfigError(f"{where}: {first_line(error)}") from error
        try:
            yield
        finally:
            ray.shutdown()


def _unreachable(address: str) -> str:
    return (f"the Ray cluster at {address} ({ADDRESS}) cannot be reached; correct {ADDRESS}, start the cluster, or "
            f"unset {ADDRESS} to use this machine alone")  # fmt: skip


def _refuse_unreachable(address: str) -> None:
    """Refuse an address at which nobody answers as Ray does, for which Ray would wait for minutes."""
    if "://" in address:
        raise ConfigError(f"{ADDRESS}={address} is Ray's client, through which no data streams; start this command on "
                          "a machine of the cluster, with its host:port")  # fmt: skip
    host, sign, port = address.rpartition(":")
    if address == "auto":
        return
    if not sign or not port.isdigit():
        raise ConfigError(f"{ADDRESS}={address} is no address; set it to host:port, to auto, or not at all")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _REACHED_WITHIN) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                connection.sendall(_HELLO)
                if connection.recv(9)[3:4] != _HELLO[-6:-5]:
                    raise OSError("something else than Ray answers there")
    except OSError as error:
        raise ConfigError(f"{_unreachable(address)} ({error.strerror or error})") from error


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Let what native code writes to standard error go nowhere: Ray greets there, whatever its log level is."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _same_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces by one that leaves at once."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
