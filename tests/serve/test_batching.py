"""Requests that arrive together are worked on together, in order, and within limits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cotune.serve.batching import Batcher
from cotune.serve.limits import Limits, Memory, RefusedError


class Work:
    """Squares numbers and keeps what came together; it goes on when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, items: list[int]) -> list[int]:
        self.go.wait(10)
        self.batches.append(items)
        if 13 in items:
            raise ValueError("13")
        return [item * item for item in items]


def run(steps: Callable[[Batcher[int, int], Work], Any], **settings: Any) -> Work:
    """Run some steps with a batcher."""

    async def all_of_it() -> Work:
        work = Work()
        batcher: Batcher[int, int] = Batcher(work, **settings)
        batcher.start()
        try:
            await steps(batcher, work)
        finally:
            work.go.set()
            await batcher.stop()
        return work

    return asyncio.run(asyncio.wait_for(all_of_it(), 30))


async def behind(batcher: Batcher[int, int], work: Work, *jobs: list[int]) -> list[Any]:
    """Submit jobs while an earlier one is at work."""
    work.go.clear()
    first = asyncio.create_task(batcher.submit([0]))
    await asyncio.sleep(0.02)
    rest = [asyncio.create_task(batcher.submit(job)) for job in jobs]
    await asyncio.sleep(0.02)
    work.go.set()
    return (await asyncio.gather(first, *rest, return_exceptions=True))[1:]


def test_what_waits_goes_together_and_each_gets_its_own() -> None:
    async def steps(batcher: Batcher[int, int], work: Work) -> None:
        assert await behind(batcher, work, [1, 2], [3], [4, 5, 6]) == [[1, 4], [9], [16, 25, 36]]

    assert run(steps, most=4, capacity=100).batches == [[0], [1, 2, 3], [4, 5, 6]]
    assert run(steps, most=100, capacity=100).batches == [[0], [1, 2, 3, 4, 5, 6]]
    assert run(steps, most=1, capacity=100).batches == [[0], [1, 2], [3], [4, 5, 6]]


def test_what_does_not_fit_is_refused_with_a_time() -> None:
    async def steps(batcher: Batcher[int, int], work: Work) -> None:
        found = await behind(batcher, work, [1, 2], [3, 4], [5])
        assert found[0] == [1, 4]
        assert found[2] == [25]
        refused = found[1]
        assert isinstance(refused, RefusedError)
        assert (refused.status, int(refused.headers["Retry-After"]) >= 1) == (429, True)
        assert await batcher.submit([7]) == [49]

    run(steps, most=10, capacity=3)


def test_an_error_goes_to_whom_it_concerns() -> None:
    async def steps(batcher: Batcher[int, int], work: Work) -> None:
        found = await behind(batcher, work, [13], [2])
        assert isinstance(found[0], ValueError)
        assert found[1] == [4]
        assert batcher.alive

    run(steps, most=1, capacity=10)


def test_one_client_does_not_wait_and_several_meet() -> None:
    async def alone(batcher: Batcher[int, int], work: Work) -> None:
        started = time.perf_counter()
        for item in range(5):
            await batcher.submit([item])
        assert time.perf_counter() - started < 1

    run(alone, most=8, wait=2.0, capacity=10)

    async def several(batcher: Batcher[int, int], work: Work) -> None:
        await behind(batcher, work, [1], [2], [3])
        later = [asyncio.create_task(batcher.submit([4]))]
        await asyncio.sleep(0.05)
        later += [asyncio.create_task(batcher.submit([item])) for item in (5, 6)]
        await asyncio.gather(*later)

    assert run(several, most=8, wait=2.0, capacity=10).batches == [[0], [1, 2, 3], [4, 5, 6]]


def test_bodies_in_memory_are_counted() -> None:
    memory = Memory(10)
    with memory.request() as one, memory.request() as two:
        one.add(6)
        with pytest.raises(RefusedError, match="busy"):
            two.add(5)
        two.add(4)
    assert memory.held == 0
    assert Memory.of(Limits(body_bytes=5)).most >= 5
