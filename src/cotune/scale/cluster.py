"""A Ray cluster that is connected, and a stream of work through its workers.

All work goes through :meth:`Cluster.stream`: blocks of posts, cells of a benchmark, trials of a search.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cotune._version import __version__
from cotune.errors import ConfigError, CotuneError, clip, first_line
from cotune.report.numbers import plural
from cotune.scale.work import ITEM, Attempts, Worker, as_table, expanding, item_of

#: Seconds until all workers have to be ready.
_READY_WITHIN = 600


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
            todo = data.from_arrow([as_table(item) for item in items])
            # Ray Data tries again without end; how often is counted here.
            attempts = self._ray.remote(num_cpus=0)(Attempts).remote(self.workers.max_retries + 1, self.size)
            size = self.size
            if expand is not None:
                # Few, as each is a process and feeds many workers; two, so that one fetches while the other is read.
                readers = min(len(items), 2 + size // 16)
                todo = todo.map_batches(expanding(expand, attempts), batch_format="pyarrow", num_cpus=0,
                                        compute=data.TaskPoolStrategy(size=readers))  # fmt: skip
            else:
                size = min(size, len(items))
            done = todo.map_batches(
                Worker,
                fn_constructor_args=(__version__, attempts, work, tuple(arguments)),
                batch_format="pyarrow",
                num_cpus=self.workers.num_cpus,
                num_gpus=self.workers.num_gpus,
                compute=data.ActorPoolStrategy(size=size),
            )
            for table in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for answer in map(item_of, table[ITEM]):
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
