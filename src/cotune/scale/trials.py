"""The trials of a search, made by the workers of a cluster that see its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from cotune.benchmark.runner import prepare_process
from cotune.files import real_path
from cotune.scale.cluster import Cluster
from cotune.scale.library import get
from cotune.tuning.search import Work
from cotune.tuning.trials import Search, run_worker


class TrialWorker:
    """Makes one trial at each call.

    Parameters
    ----------
    search : reference
        To the :class:`Search`.
    modules : list of str
        Modules that trials need.
    threads : int
        How many threads it may use.
    """

    def __init__(self, search: Any, modules: list[str], threads: int) -> None:
        prepare_process(modules, threads)
        self.search = get(search)
        self.bench = self.search.workbench()

    def __call__(self, number: int) -> int:
        """Make a trial, if there is one left to make; return how many were made."""
        return run_worker(self.search, most=1, bench=self.bench)


def spread_trials(cluster: Cluster, plugins: Sequence[str] = ()) -> Work:
    """Return how :func:`~cotune.tuning.tune` makes trials on a cluster, whose machines have to see the folder."""

    def run(search: Search, left: int, tell: Callable[[], None]) -> int:
        shared = cluster.put(replace(search, out=real_path(search.out)))
        arguments, made = (shared, list(plugins), cluster.workers.threads), 0
        with closing(cluster.stream(range(left), TrialWorker, arguments)) as found:
            for n in found:
                made += n
                tell()
        return made

    return run
