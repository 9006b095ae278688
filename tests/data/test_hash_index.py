"""The nearest of many hashes is the one that comparing all would find."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.data import hash_index
from cotune.data.hash_index import MOST_DISTANCE, HashIndex, popcount


def brute(hashes: np.ndarray, look: int, most: int) -> tuple[int, int]:
    apart = [bin(int(each) ^ look).count("1") for each in hashes]
    best = int(np.argmin(apart)) if apart else 0
    return (best, apart[best]) if apart and apart[best] <= most else (-1, -1)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, MOST_DISTANCE), st.booleans())
def test_it_finds_what_comparing_all_finds(data: st.DataObject, most: int, buckets: bool) -> None:
    seeds = data.draw(st.lists(st.integers(1, 2**64 - 1), min_size=0 if not buckets else 1, max_size=20))
    flips = [data.draw(st.integers(0, 2**64 - 1)) & data.draw(st.integers(0, 2**64 - 1)) for _ in range(3)]
    hashes = np.asarray([*seeds, *(seed ^ flip for seed in seeds[:3] for flip in flips)], dtype=np.uint64)
    few = hash_index._FEW
    hash_index._FEW = -1 if buckets else few
    try:
        index = HashIndex(hashes, most)
    finally:
        hash_index._FEW = few
    bits = data.draw(st.lists(st.integers(0, 63), max_size=20))
    looks = [(seeds[0] if seeds else 1) ^ sum(1 << bit for bit in set(bits)), data.draw(st.integers(0, 2**64 - 1))]
    places, distances = index.nearest(np.asarray(looks * 2, dtype=np.uint64))
    assert [*zip(places.tolist(), distances.tolist(), strict=True)] == [brute(hashes, look, most) for look in looks * 2]


@pytest.mark.parametrize("most", [0, 4, 6, 11, 16])
def test_all_within_the_distance_are_found_among_many(most: int) -> None:
    random = np.random.default_rng(most)
    hashes = random.integers(1, 2**64, 60_000, dtype=np.uint64)
    index = HashIndex(hashes, most)
    planted = random.integers(0, len(hashes), 40)
    looks = hashes[planted].copy()
    for at in range(len(looks)):
        for bit in random.permutation(64)[:most]:
            looks[at] ^= np.uint64(1 << int(bit))
    places, distances = index.nearest(looks)
    assert (distances <= most).all()
    assert (distances >= 0).all()
    assert (popcount(hashes[places] ^ looks) == distances).all()


def test_nothing_is_near_to_none() -> None:
    places, distances = HashIndex(np.empty(0, np.uint64), 4).nearest(np.asarray([5], dtype=np.uint64))
    assert places.tolist() == distances.tolist() == [-1]
    assert len(HashIndex(np.asarray([5], np.uint64), 4).nearest(np.empty(0, np.uint64))[0]) == 0


def test_half_a_million_are_searched_in_no_time() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(1, 2**64, 500_000, dtype=np.uint64)
    index = HashIndex(hashes, 6)
    started = time.process_time()
    index.nearest(random.integers(1, 2**64, 100, dtype=np.uint64))
    assert time.process_time() - started < 2
