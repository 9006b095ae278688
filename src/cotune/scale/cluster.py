"""A Ray cluster, on this machine or at RAY_ADDRESS, and a stream of work through its workers.

Everything that is spread goes through :meth:`Cluster.stream`: blocks of posts, cells of a benchmark.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import secrets
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cotune._version import __version__
from cotune.engines.sessions import usable_cores
from cotune.errors import ConfigError, CotuneError, clip, first_line
from cotune.report.numbers import plural

_ADDRESS = "RAY_ADDRESS"
_ITEM = "item"
#: Seconds until a cluster has to answer, and until all workers have to be ready.
_REACHED_WITHIN, _READY_WITHIN = 10, 600
_QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_USAGE_STATS_ENABLED": "0"}
# A cluster of our own listens on loopback alone, and who wants to talk to it needs a token. Ray reads these when it is
# imported, and keeps the token: where somebody else imported it before, Ray's own settings hold.
_OWN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
_imported_with: dict[str, str] = {}
#: How a client of gRPC begins (RFC 9113, section 3.4), with empty settings; the server answers with its settings.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@dataclass(frozen=True)
class Workers:
    """The workers that are asked for.

    Attributes
    ----------
    num_cpus, num_gpus : float
        What each takes.
    concurrency : int or None
        How many; as many as there is room for by default.
    max_retries : int
        How often a piece of work is tried again when its worker dies.
    """

    num_cpus: float = 1
    num_gpus: float = 0
    concurrency: int | None = None
    max_retries: int = 3

    def __post_init__(self) -> None:
        if not (self.num_cpus >= 0 and self.num_gpus >= 0 and self.num_cpus + self.num_gpus > 0):
            raise ConfigError("a worker needs a CPU or a GPU, or a part of one: --num-cpus 1")
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError(f"--concurrency is at least 1, not {self.concurrency}")

    @property
    def needs(self) -> dict[str, float]:
        """What each takes, as Ray calls it."""
        return {name: amount for name, amount in (("CPU", self.num_cpus), ("GPU", self.num_gpus)) if amount}

    def describe(self) -> str:
        """Return what a worker takes, in words."""
        return " and ".join(f"{amount:g} {name}{'' if amount == 1 else 's'}" for name, amount in self.needs.items())

    @property
    def threads(self) -> int:
        """How many threads a worker may use."""
        return max(1, int(self.num_cpus))


class Cluster:
    """A cluster that is connected.

    Parameters
    ----------
    ray : module
        Ray itself.
    workers : Workers
        What is asked for.
    elsewhere : bool
        Whether it was there before, so that it may have other machines.

    Attributes
    ----------
    size : int
        How many workers there are going to be.

    Raises
    ------
    ConfigError
        If there is no room for them, for which Ray would wait forever.
    """

    def __init__(self, ray: Any, workers: Workers, *, elsewhere: bool = False) -> None:
        self._ray, self.workers, self.elsewhere = ray, workers, elsewhere
        self.size = self._room()

    def _room(self) -> int:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        wanted = self.workers
        room = sum(min(int(node.get(name, 0) / n + 1e-9) for name, n in wanted.needs.items()) for node in nodes)
        if room >= (wanted.concurrency or 1):
            return wanted.concurrency or room
        there = {name: max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU")}
        machines = f"{plural(len(nodes), 'machine')}, the largest with {there['CPU']:g} CPUs and {there['GPU']:g} GPUs"
        asked = f"no worker with {wanted.describe()}" if not room else f"only {plural(room, 'worker')} "
        asked += f"with {wanted.describe()} each, not {wanted.concurrency}" if room else ""
        raise ConfigError(f"the cluster ({machines}) has room for {asked}; lower --num-cpus, --num-gpus or the number "
                          "of workers")  # fmt: skip

    def put(self, value: Any) -> Any:
        """Share a value with all workers; they :func:`get` it."""
        return self._ray.put(value)

    def stream(
        self,
        items: Sequence[Any],
        work: Callable[..., Callable[[Any], Any]],
        arguments: Sequence[Any] = (),
        *,
        expand: Callable[[Any], Iterator[Any]] | None = None,
    ) -> Generator[Any]:
        """Yield what workers answer to items, as they finish.

        Each worker calls ``work(*arguments)`` once, and what that returned with one item after another. An item whose
        worker dies is given to another one, at most `max_retries` times, so that it may be worked on twice but is
        answered once. Few items are under way at a time, whatever their number.

        Parameters
        ----------
        items : sequence
            What there is to do.
        work : callable
            A class, or a function that returns one.
        arguments : sequence
            What it is called with.
        expand : callable, optional
            Makes several items of each, one by one, in tasks of their own, no faster than they are worked on.

        Raises
        ------
        CotuneError
            If a worker raised it, or died more often than it may.
        """
        if not items:
            return
        data = self._ray.data
        settings = data.DataContext.get_current().copy()
        settings.target_max_block_size = 1  # bytes, so that each item is a block, hence a task, of its own
        settings.enable_progress_bars = settings.print_on_execution_start = False
        settings.wait_for_min_actors_s = _READY_WITHIN
        with data.DataContext.current(settings), self._plain_errors():
            todo = data.from_arrow([_table(item) for item in items])
            # Ray Data tries again without end; how often is counted here.
            attempts = self._ray.remote(num_cpus=0)(_Attempts).remote(self.workers.max_retries + 1, self.size)
            size = self.size
            if expand is not None:
                # Few, as each is a process and feeds many workers; two, so that one fetches while the other is read.
                readers = min(len(items), 2 + size // 16)
                todo = todo.map_batches(_expanding(expand, attempts), batch_format="pyarrow", num_cpus=0,
                                        compute=data.TaskPoolStrategy(size=readers))  # fmt: skip
            else:
                size = min(size, len(items))
            done = todo.map_batches(
                _Worker,
                fn_constructor_args=(__version__, attempts, work, tuple(arguments)),
                batch_format="pyarrow",
                num_cpus=self.workers.num_cpus,
                num_gpus=self.workers.num_gpus,
                compute=data.ActorPoolStrategy(size=size),
            )
            for table in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for answer in map(_item, table[_ITEM]):
                    if isinstance(answer, CotuneError):
                        raise answer
                    yield answer

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """Turn what Ray raises into one line."""
        kinds = self._ray.exceptions
        try:
            yield
        except kinds.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise (cause if isinstance(cause, Exception) else error) from error
        except kinds.GetTimeoutError as error:
            raise CotuneError(f"not all {plural(self.size, 'worker')} were ready within {_READY_WITHIN} s; the cluster "
                              "may be busy with other work: wait for it, or ask for fewer") from error  # fmt: skip
        except kinds.RayError as error:
            if "No module named" in str(error):
                raise ConfigError("the workers lack a package; install the same cotune on every machine of the "
                                  f"cluster ({clip(str(error).strip().splitlines()[-1])})") from error  # fmt: skip
            raise CotuneError(f"the cluster gave up: {clip(first_line(error))}") from error


def get(reference: Any) -> Any:
    """Return a value that :meth:`Cluster.put` shared, in a worker."""
    return import_ray().get(reference)


@contextmanager
def connected(workers: Workers | None = None) -> Iterator[Cluster]:
    """Connect to the cluster at RAY_ADDRESS, or start one on this machine, which ends with the block.

    A cluster that this process is connected to already is used, and left as it is.

    Raises
    ------
    ConfigError
        If Ray is not installed, the cluster cannot be reached, or has no room for the workers.
    """
    wanted = workers or Workers()
    ray, address = import_ray(), os.environ.get(_ADDRESS, "local")
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
    with _environment({**_QUIET, **({**_imported_with, **path} if address == "local" else {})}):
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
    return (f"the Ray cluster at {address} ({_ADDRESS}) cannot be reached; correct {_ADDRESS}, start the cluster, or "
            f"unset {_ADDRESS} to use this machine alone")  # fmt: skip


def _refuse_unreachable(address: str) -> None:
    """Refuse an address at which nobody answers as Ray does, for which Ray would wait for minutes."""
    if "://" in address:
        raise ConfigError(f"{_ADDRESS}={address} is Ray's client, through which no data streams; start this command on "
                          "a machine of the cluster, with its host:port")  # fmt: skip
    host, sign, port = address.rpartition(":")
    if address == "auto":
        return
    if not sign or not port.isdigit():
        raise ConfigError(f"{_ADDRESS}={address} is no address; set it to host:port, to auto, or not at all")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _REACHED_WITHIN) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                connection.sendall(_HELLO)
                if connection.recv(9)[3:4] != _HELLO[-6:-5]:
                    raise OSError("something else than Ray answers there")
    except OSError as error:
        raise ConfigError(f"{_unreachable(address)} ({error.strerror or error})") from error


def import_ray() -> Any:
    """Return Ray with its data part.

    Raises
    ------
    ConfigError
        With the extra that brings it.
    """
    if "ray" not in sys.modules and os.environ.get(_ADDRESS, "local") == "local":
        _imported_with.update(_OWN)
    with _environment(_imported_with):
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ConfigError(f"--cluster ray needs Ray ({first_line(error)}); pip install 'cotune[ray]'") from error
    for handler in logging.getLogger("ray.data").handlers:  # whatever goes wrong is said in words of ours
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL + 1)
    return ray


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
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


class _Attempts:
    """Counts how often each piece of work was begun, in an actor that outlives workers.

    Parameters
    ----------
    most : int
        How often it may be.
    size : int
        How many workers there are.
    """

    def __init__(self, most: int, size: int) -> None:
        self._most, self._size = most, size
        self._begun: Counter[bytes] = Counter()

    def begin(self, key: bytes) -> CotuneError | None:
        """Count an attempt; return what is wrong if there were too many."""
        starting = key == _START
        if self._begun[key] >= self._most * (self._size if starting else 1):
            when = "before they were ready" if starting else "at the same work"
            return CotuneError(f"workers died {plural(self._begun[key], 'time')} {when}; they were stopped, or the "
                               "memory was used up: smaller batches or blocks, or fewer workers on a machine, need "
                               "less")  # fmt: skip
        self._begun[key] += 1
        return None

    def end(self, *keys: bytes) -> None:
        """Forget what is done."""
        for key in keys:
            self._begun.pop(key, None)


_START = b"start"


def _begin(attempts: Any, key: bytes) -> CotuneError | None:
    problem: CotuneError | None = get(attempts.begin.remote(key))
    return problem


def _key(cell: Any) -> bytes:
    return hashlib.blake2b(cell.as_buffer(), digest_size=16).digest()


class _Worker:
    """What runs in an actor: one object of the work, asked item by item."""

    def __init__(
        self, version: str, attempts: Any, work: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]
    ) -> None:
        self._attempts = attempts
        self._problem = _begin(attempts, _START)
        if version != __version__:
            self._problem = ConfigError(f"the workers have cotune {__version__}, this is {version}; install the same "
                                        "on every machine of the cluster")  # fmt: skip
        if self._problem is not None:
            return
        try:
            self._work = work(*arguments)
        except CotuneError as error:
            self._problem = error
        attempts.end.remote(_START)

    def __call__(self, table: Any) -> Iterator[Any]:
        for cell in table[_ITEM]:
            key, item = _key(cell), _item(cell)
            answer = item if isinstance(item, CotuneError) else self._problem or _begin(self._attempts, key)
            try:
                answer = answer or self._work(item)
            except CotuneError as error:
                answer = error
            self._attempts.end.remote(key)
            yield _table(answer)


def _expanding(expand: Callable[[Any], Iterator[Any]], attempts: Any) -> Callable[[Any], Iterator[Any]]:
    def expanded(table: Any) -> Iterator[Any]:
        for cell in table[_ITEM]:
            key = b"expand" + _key(cell)
            problem = _begin(attempts, key)
            if problem is not None:
                yield _table(problem)
                continue
            try:
                yield from map(_table, expand(_item(cell)))
            except CotuneError as error:
                yield _table(error)
            attempts.end.remote(key)

    return expanded


def _table(item: Any) -> Any:
    """Return an item as a table of one row, which is how Ray Data hands it on: from a process of ours to another."""
    import pyarrow as pa

    return pa.table({_ITEM: pa.array([pickle.dumps(item, protocol=5)], pa.large_binary())})


def _item(cell: Any) -> Any:
    return pickle.loads(cell.as_buffer())
