"""64-bit hashes that are searched for the nearest by Hamming distance, millions of them in less than a millisecond."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

MOST_DISTANCE = 16
"""Beyond it most of what is found is chance."""

_PARTS, _BITS = 4, 16
_FEW = 20_000  # hashes that are compared one by one in less time than buckets take
Hashes = np.ndarray[Any, np.dtype[np.uint64]]


class HashIndex:
    """Hashes in buckets by each quarter of their bits (multi-index hashing, Norouzi, Punjani & Fleet 2012).

    Of hashes that differ in at most d bits, one quarter differs in at most d / 4 of them; buckets of all such quarters
    hold every candidate.

    Parameters
    ----------
    hashes : ndarray of uint64
        What is searched, shape (N,).
    max_distance : int
        How many bits may differ, up to :data:`MOST_DISTANCE`.
    """

    def __init__(self, hashes: Hashes, max_distance: int) -> None:
        self.hashes, self.max_distance = np.ascontiguousarray(hashes, dtype=np.uint64), max_distance
        self._buckets: list[tuple[np.ndarray, np.ndarray]] = []
        if len(self.hashes) <= _FEW:
            return
        for part in _quarters(self.hashes):
            order = np.argsort(part, kind="stable").astype(np.int32)
            starts = np.searchsorted(part[order], np.arange(2**_BITS + 1))
            self._buckets.append((order, starts))
        flips = [sum(1 << bit for bit in bits) for n in range(max_distance // _PARTS + 1)
                 for bits in combinations(range(_BITS), n)]  # fmt: skip
        self._flips = np.asarray(flips, dtype=np.int64)

    def nearest(self, looks: Hashes) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest of the hashes to each of `looks`, the first of several.

        Returns
        -------
        place : ndarray of int
            Its position, shape (M,); -1 where none is near enough.
        distance : ndarray of int
            How many bits differ; -1 where none is near enough.
        """
        places, distances = np.full(len(looks), -1), np.full(len(looks), -1)
        values, back = np.unique(np.asarray(looks, dtype=np.uint64), return_inverse=True)
        found = [self._one(value, quarters) for value, quarters in zip(values, self._by_value(values), strict=True)]
        for at, which in enumerate(back.tolist()):
            places[at], distances[at] = found[which]
        return places, distances

    def _by_value(self, values: Hashes) -> np.ndarray:
        return np.stack(_quarters(values), axis=1)

    def _one(self, value: np.uint64, quarters: np.ndarray) -> tuple[int, int]:
        at = None
        if self._buckets:
            at = np.concatenate([
                _gathered(order, starts, quarter ^ self._flips)
                for (order, starts), quarter in zip(self._buckets, quarters, strict=True)
            ])  # fmt: skip
        among = self.hashes if at is None else self.hashes[at]
        if not len(among):
            return -1, -1
        distances = popcount(among ^ value)
        best = int(distances.min())
        if best > self.max_distance:
            return -1, -1
        return int(distances.argmin() if at is None else at[distances == best].min()), best


def _gathered(order: np.ndarray, starts: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """Return all that is in some buckets."""
    first, sizes = starts[buckets], starts[buckets + 1] - starts[buckets]
    ends = np.cumsum(sizes)
    places = np.arange(ends[-1]) + np.repeat(first - (ends - sizes), sizes)
    found: np.ndarray = order[places]
    return found


def _quarters(hashes: Hashes) -> list[np.ndarray]:
    return [part.astype(np.int64) for part in bands(hashes, _PARTS)]


def bands(hashes: Hashes, count: int) -> list[Hashes]:
    """Return `count` parts of the hashes; two that differ in fewer bits than there are parts have one in common.

    Neighbouring bits of a pHash go together, so each part takes bits from all over.
    """
    found = []
    for part in range(count):
        band = np.zeros(len(hashes), dtype=np.uint64)
        for position, bit in enumerate(range(part, 64, count)):
            band |= ((hashes >> np.uint64(bit)) & np.uint64(1)) << np.uint64(position)
        found.append(band)
    return found


def popcount(values: Hashes) -> np.ndarray:
    """Return the number of bits that are set in each."""
    if hasattr(np, "bitwise_count"):
        return np.asarray(np.bitwise_count(values))
    pairs = values - ((values >> np.uint64(1)) & np.uint64(0x5555555555555555))
    low = np.uint64(0x3333333333333333)
    fours = (pairs & low) + ((pairs >> np.uint64(2)) & low)
    eights = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.asarray((eights * np.uint64(0x0101010101010101)) >> np.uint64(56))
