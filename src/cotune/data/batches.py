"""Which posts go into which batch: buckets of like length, so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def bucketed_batches(
    lengths: Sequence[int] | np.ndarray,
    batch_size: int,
    *,
    seed: int | None,
    epoch: int = 0,
    buckets: int = 50,
) -> Iterator[np.ndarray]:
    """Yield positions in batches of posts of like length.

    Posts are shuffled, sorted by length within runs of `buckets` batches, and the batches shuffled again:
    batches are random but hardly padded. The order depends on seed and epoch alone.

    Parameters
    ----------
    lengths : sequence of int
        Length of each post, such as its number of tokens.
    batch_size : int
        Posts in a batch; the last one may be smaller, none is dropped.
    seed : int or None
        None sorts the whole by length and shuffles nothing, which is right for prediction.
    epoch : int
        Number of the epoch.
    buckets : int
        Batches that are sorted together.

    Yields
    ------
    ndarray of int
        Positions of one batch.
    """
    lengths = np.asarray(lengths)
    if seed is None:
        order = np.argsort(lengths, kind="stable")
        yield from (order[i : i + batch_size] for i in range(0, len(order), batch_size))
        return
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    span = batch_size * buckets
    batches: list[np.ndarray] = []
    for start in range(0, len(order), span):
        run = order[start : start + span]
        run = run[np.argsort(lengths[run], kind="stable")]
        batches += [run[i : i + batch_size] for i in range(0, len(run), batch_size)]
    # A batch of one post gives a noisy step; it joins its neighbour.
    if batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] = np.concatenate([batches[-1], last])
    for i in random.permutation(len(batches)):
        yield batches[i]


def n_batches(n_posts: int, batch_size: int) -> int:
    """Return how many batches :func:`bucketed_batches` yields when it shuffles."""
    full, rest = divmod(n_posts, batch_size)
    return full + (rest > (1 if full else 0))
