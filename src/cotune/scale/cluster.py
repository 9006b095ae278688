"""A Ray cluster, on this machine or at RAY_ADDRESS, and a stream of work through its workers.

Everything that is spread goes through :meth:`Cluster.stream`: blocks of posts, cells of a benchmark.
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import signal
import socket
import threading
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
#: How often one worker may be started again; a machine that is given back and lent again takes a few.
_RESTARTS = 100
# What a cluster of our own is started with: nothing is reported to anybody, nothing listens beyond this machine,
# and who wants to talk to it needs a token.
_OWN = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}


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
            size, retries = self.size, self.workers.max_retries
            if expand is not None:
                # Few, as each is a process and feeds many workers; two, so that one fetches while the other is read.
                readers = min(len(items), 2 + size // 16)
                todo = todo.map_batches(_expanding(expand), batch_format="pyarrow", num_cpus=0, max_retries=retries,
                                        compute=data.TaskPoolStrategy(size=readers))  # fmt: skip
            else:
                size = min(size, len(items))
            done = todo.map_batches(
                _Worker,
                fn_constructor_args=(__version__, work, tuple(arguments)),
                batch_format="pyarrow",
                num_cpus=self.workers.num_cpus,
                num_gpus=self.workers.num_gpus,
                compute=data.ActorPoolStrategy(size=size),
                max_restarts=_RESTARTS,
                max_task_retries=retries,
            )
            for table in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for answer in _items(table):
                    if isinstance(answer, CotuneError):
                        raise answer
                    yield answer

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """Turn what Ray raises into one line."""
        kinds = self._ray.exceptions
        tries = f"{plural(self.workers.max_retries + 1, 'time')}"
        try:
            yield
        except kinds.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise (cause if isinstance(cause, Exception) else error) from error
        except kinds.OutOfMemoryError as error:
            raise CotuneError(f"a worker had not enough memory, {tries} over; smaller batches or blocks, or fewer "
                              "workers on a machine (a larger --num-cpus), need less") from error  # fmt: skip
        except kinds.GetTimeoutError as error:
            raise CotuneError(f"not all {plural(self.size, 'worker')} were ready within {_READY_WITHIN} s; the cluster "
                              "may be busy with other work: wait for it, or ask for fewer") from error  # fmt: skip
        except (kinds.RayActorError, kinds.WorkerCrashedError) as error:
            if "No module named" in str(error):
                raise ConfigError("the workers lack a package; install the same cotune on every machine of the "
                                  f"cluster ({clip(str(error).strip().splitlines()[-1])})") from error  # fmt: skip
            raise CotuneError(f"a worker died {tries} at the same work ({first_line(error)}); it was stopped, or the "
                              "memory of its machine was used up") from error  # fmt: skip
        except kinds.RayError as error:
            raise CotuneError(f"the cluster gave up: {first_line(error)}") from error


def get(reference: Any) -> Any:
    """Return a value that :meth:`Cluster.put` shared, in a worker."""
    return _import_ray().get(reference)


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
    ray, address = _import_ray(), os.environ.get(_ADDRESS, "local")
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
    ray = _import_ray()
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    own = {**_OWN, "RAY_AUTH_TOKEN": secrets.token_hex(32)} if address == "local" else {}
    with _environment(own):
        try:
            with _same_signals():
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
    """Refuse an address at which nobody listens, for which Ray would wait for minutes."""
    if "://" in address:
        raise ConfigError(f"{_ADDRESS}={address} is Ray's client, through which no data streams; start this command on "
                          "a machine of the cluster, with its host:port")  # fmt: skip
    host, sign, port = address.rpartition(":")
    if address == "auto":
        return
    if not sign or not port.isdigit():
        raise ConfigError(f"{_ADDRESS}={address} is no address; set it to host:port, to auto, or not at all")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACHED_WITHIN).close()
    except OSError as error:
        raise ConfigError(f"{_unreachable(address)} ({error.strerror or error})") from error


def _import_ray() -> Any:
    """Return Ray with its data part.

    Raises
    ------
    ConfigError
        With the extra that brings it.
    """
    with _environment(_OWN if os.environ.get(_ADDRESS, "local") == "local" else {}):
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
    """Set variables of the environment that are not set, as long as the block lasts."""
    mine = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


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


class _Worker:
    """What runs in an actor: one object of the work, asked item by item."""

    def __init__(self, version: str, work: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]) -> None:
        self._problem: CotuneError | None = None
        if version != __version__:
            self._problem = ConfigError(f"the workers have cotune {__version__}, this is {version}; install the same "
                                        "on every machine of the cluster")  # fmt: skip
            return
        try:
            self._work = work(*arguments)
        except CotuneError as error:
            self._problem = error

    def __call__(self, table: Any) -> Iterator[Any]:
        for item in _items(table):
            try:
                answer = item if isinstance(item, CotuneError) else self._problem or self._work(item)
            except CotuneError as error:
                answer = error
            yield _table(answer)


def _expanding(expand: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    def expanded(table: Any) -> Iterator[Any]:
        for item in _items(table):
            try:
                yield from map(_table, expand(item))
            except CotuneError as error:
                yield _table(error)

    return expanded


def _table(item: Any) -> Any:
    """Return an item as a table of one row, which is how Ray Data hands it on: from a process of ours to another."""
    import pyarrow as pa

    return pa.table({_ITEM: pa.array([pickle.dumps(item, protocol=5)], pa.large_binary())})


def _items(table: Any) -> Iterator[Any]:
    for cell in table[_ITEM]:
        yield pickle.loads(cell.as_buffer())
