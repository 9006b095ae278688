from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.data.batches import bucketed_batches, n_batches

LENGTHS = st.lists(st.integers(0, 60), max_size=200)


@given(LENGTHS, st.integers(1, 40), st.one_of(st.none(), st.integers(0, 99)), st.integers(0, 5), st.integers(1, 9))
def test_each_post_exactly_once(lengths: list[int], size: int, seed: int | None, epoch: int, buckets: int) -> None:
    batches = list(bucketed_batches(lengths, size, seed=seed, epoch=epoch, buckets=buckets))
    seen = np.concatenate(batches) if batches else np.zeros(0)
    assert sorted(seen.tolist()) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size + 1 for batch in batches)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 99), st.integers(1, 9))
def test_n_batches_agrees_with_what_is_yielded(lengths: list[int], size: int, seed: int, buckets: int) -> None:
    batches = list(bucketed_batches(lengths, size, seed=seed, buckets=buckets))
    assert len(batches) == n_batches(len(lengths), size)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 99), st.integers(0, 3))
def test_same_seed_and_epoch_give_the_same_order(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    one = [batch.tolist() for batch in bucketed_batches(lengths, size, seed=seed, epoch=epoch)]
    two = [batch.tolist() for batch in bucketed_batches(np.asarray(lengths), size, seed=seed, epoch=epoch)]
    assert one == two


@pytest.mark.parametrize("other", [{"seed": 2, "epoch": 0}, {"seed": 1, "epoch": 1}])
def test_another_seed_or_epoch_gives_another_order(other: dict[str, int]) -> None:
    lengths = list(range(100))
    one = [batch.tolist() for batch in bucketed_batches(lengths, 8, seed=1)]
    two = [batch.tolist() for batch in bucketed_batches(lengths, 8, **other)]
    assert one != two


def test_batches_are_hardly_padded() -> None:
    lengths = np.random.default_rng(0).integers(5, 128, 3000)
    random = np.random.default_rng(1).permutation(3000).reshape(-1, 30)

    def padded(batches: list[np.ndarray]) -> float:
        return sum(lengths[b].max() * len(b) for b in batches) / lengths.sum()

    bucketed = list(bucketed_batches(lengths, 30, seed=0))
    assert padded(bucketed) < 1.05
    assert padded(list(random)) > 1.5


def test_batches_come_in_random_order_of_length() -> None:
    lengths = np.arange(2000)
    means = [lengths[b].mean() for b in bucketed_batches(lengths, 20, seed=0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_a_post_left_over_joins_its_neighbour() -> None:
    sizes = sorted(len(b) for b in bucketed_batches([1] * 33, 8, seed=0))
    assert sizes == [8, 8, 8, 9]
    assert [len(b) for b in bucketed_batches([1], 8, seed=0)] == [1]


def test_without_a_seed_nothing_is_shuffled() -> None:
    batches = list(bucketed_batches([5, 1, 3, 1, 9], 2, seed=None))
    assert [batch.tolist() for batch in batches] == [[1, 3], [2, 0], [4]]


def test_no_posts_no_batches() -> None:
    assert list(bucketed_batches([], 4, seed=0)) == list(bucketed_batches([], 4, seed=None)) == []
    assert n_batches(0, 4) == 0
