"""The cells of a benchmark, computed by the workers of a cluster and kept by the process that began it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

from cotune.benchmark.bench import Bench
from cotune.benchmark.plan import Cell
from cotune.benchmark.records import Record
from cotune.benchmark.runner import Failure, Watcher, Work, compute, fresh_bench, keep, modules_of, prepare_process
from cotune.files import real_path
from cotune.scale.cluster import Cluster
from cotune.scale.library import get


class CellWorker:
    """Computes cells, called with one after another.

    Parameters
    ----------
    bench : reference
        To the :class:`Bench`.
    lock : str
        Name of a lock file for what the workers of a machine compute once.
    modules : list of str
        Modules that the cells need.
    threads : int
        How many threads it may use.
    """

    def __init__(self, bench: Any, lock: str, modules: list[str], threads: int) -> None:
        prepare_process(modules, threads)
        self.bench = fresh_bench(get(bench), str(Path(tempfile.gettempdir()) / lock))

    def __call__(self, cell: Cell) -> Record | Failure:
        """Compute a cell."""
        return compute(self.bench, cell)


def spread_cells(cluster: Cluster, plugins: Sequence[str] = ()) -> Work:
    """Return how :func:`~cotune.benchmark.runner.run_plan` computes cells on a cluster.

    Workers send back what they found, so that none but this process writes into the results folder.
    """

    def run(bench: Bench, out: Path, cells: list[Cell], watcher: Watcher) -> Iterator[Record | Failure]:
        lock = f"cotune-{sha256(str(real_path(out)).encode()).hexdigest()[:16]}.lock"
        shared = cluster.put(fresh_bench(bench, lock))
        arguments = (shared, lock, modules_of(cells, plugins), cluster.workers.threads)
        waiting = iter(cells)
        for _ in range(cluster.size):  # they are handed out in this order
            _start_next(waiting, watcher)
        with closing(cluster.stream(cells, CellWorker, arguments)) as found:
            for result in found:
                yield keep(out, result)
                _start_next(waiting, watcher)

    return run


def _start_next(waiting: Iterator[Cell], watcher: Watcher) -> None:
    cell = next(waiting, None)
    if cell is not None:
        watcher.start(cell)
