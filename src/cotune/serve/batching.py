"""Requests that arrive together are scored together: a queue and one worker thread for each model."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from cotune.serve.limits import busy

Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass
class _Job(Generic[Given, Found]):
    items: Sequence[Given]
    answer: asyncio.Future[list[Found]]


class Batcher(Generic[Given, Found]):
    """Collects what is asked for at about the same time and works on it in one thread.

    How long it waits for more follows from the load: up to `wait` seconds, but only until there is as much as in the
    batch before. A client that asks for one post after the other does not wait at all.

    Parameters
    ----------
    work : callable
        Takes a list of items and returns a result for each. It runs in a thread of its own.
    most : int
        Items in a batch; the items of one request are never parted. With 1 each request is worked on by itself.
    wait : float
        The longest wait for more, in seconds.
    capacity : int
        Items that may wait; a request beyond is refused.
    """

    def __init__(
        self, work: Callable[[list[Given]], list[Found]], *, most: int = 1, wait: float = 0.0, capacity: int = 8
    ) -> None:
        self.work, self.most, self.wait, self.capacity = work, most, wait, capacity
        self.waiting = 0
        self._jobs: deque[_Job[Given, Found]] = deque()
        self._last = 1
        self._wanted = 1
        self._seconds_each = 0.05
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start working; to be called in the event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop once the batch at work is done; nothing may be waiting any more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await asyncio.to_thread(self._pool.shutdown)

    @property
    def alive(self) -> bool:
        """Whether items are worked on."""
        return self._task is not None and not self._task.done()

    def refuse_if_full(self, n: int = 1) -> None:
        """Refuse `n` items more if they do not fit into the queue.

        Raises
        ------
        RefusedError
            With status 429 and the time after which to try again.
        """
        if self.waiting + n > self.capacity:
            raise busy(math.ceil(self.waiting * self._seconds_each))

    async def submit(self, items: Sequence[Given]) -> list[Found]:
        """Return the results for some items.

        Raises
        ------
        RefusedError
            If the queue is full.
        """
        self.refuse_if_full(len(items))
        job = _Job[Given, Found](items, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self.waiting += len(items)
        self._arrived.set()
        if self.waiting >= self._wanted:
            self._enough.set()
        return await job.answer

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            await self._more()
            jobs = self._take()
            items = [item for job in jobs for item in job.items]
            started = time.perf_counter()
            try:
                found = await asyncio.get_running_loop().run_in_executor(self._pool, self.work, items)
            except Exception as error:  # it goes to whoever asked; the next batch is another one
                for job in (job for job in jobs if not job.answer.done()):
                    job.answer.set_exception(error)
                continue
            self._seconds_each += 0.2 * ((time.perf_counter() - started) / len(items) - self._seconds_each)
            for job in jobs:
                mine, found = found[: len(job.items)], found[len(job.items) :]
                if not job.answer.done():
                    job.answer.set_result(mine)

    async def _more(self) -> None:
        """Wait a little for as many items as there were in the last batch."""
        self._wanted = min(self._last, self.most)
        if self.waiting < self._wanted and self.wait > 0:
            self._enough.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), self.wait)

    def _take(self) -> list[_Job[Given, Found]]:
        jobs = [self._jobs.popleft()]
        n = len(jobs[0].items)
        while self._jobs and n + len(self._jobs[0].items) <= self.most:
            jobs.append(self._jobs.popleft())
            n += len(jobs[-1].items)
        self._last = n
        self.waiting -= n
        if not self._jobs:
            self._arrived.clear()
        return jobs
