"""What runs in the processes of a cluster: an object of the work, a source of items, and a count of attempts.

An item travels as a table of one row, pickled by one process of a job for another one, as Ray does with all it carries.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from cotune._version import __version__
from cotune.errors import ConfigError, CotuneError
from cotune.report.numbers import plural
from cotune.scale.library import get

ITEM = "item"


class Attempts:
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


class Worker:
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
        """Yield the answer to each item."""
        for cell in table[ITEM]:
            key, item = _key(cell), item_of(cell)
            answer = item if isinstance(item, CotuneError) else self._problem or _begin(self._attempts, key)
            try:
                answer = answer or self._work(item)
            except CotuneError as error:
                answer = error
            self._attempts.end.remote(key)
            yield as_table(answer)


def expanding(expand: Callable[[Any], Iterator[Any]], attempts: Any) -> Callable[[Any], Iterator[Any]]:
    """Return what a reading task does: makes several items of each."""

    def expanded(table: Any) -> Iterator[Any]:
        for cell in table[ITEM]:
            key = b"expand" + _key(cell)
            problem = _begin(attempts, key)
            if problem is not None:
                yield as_table(problem)
                continue
            try:
                yield from map(as_table, expand(item_of(cell)))
            except CotuneError as error:
                yield as_table(error)
            attempts.end.remote(key)

    return expanded


def as_table(item: Any) -> Any:
    """Return an item as a table of one row, which is how Ray Data hands it on: from a process of ours to another."""
    import pyarrow as pa

    return pa.table({ITEM: pa.array([pickle.dumps(item, protocol=5)], pa.large_binary())})


def item_of(cell: Any) -> Any:
    """Return the item of such a row."""
    return pickle.loads(cell.as_buffer())  # noqa: S301 - written by a process of this job, see above
