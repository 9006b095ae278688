from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.data.posts import read_posts
from cotune.data.splits import holdout_split, make_folds
from cotune.errors import ConfigError, DataError

LABELS = np.array((["a"] * 60 + ["b"] * 30 + ["c"] * 10) * 2)


def test_paper_folds_hold_every_post_once_and_every_label_evenly() -> None:
    folds = make_folds(LABELS, n_folds=10, protocol="paper", seed=1)
    assert sorted(np.concatenate(folds).tolist()) == list(range(200))
    assert all(Counter(LABELS[fold].tolist()) == {"a": 12, "b": 6, "c": 2} for fold in folds)
    again = make_folds(LABELS, n_folds=10, protocol="paper", seed=1)
    other = make_folds(LABELS, n_folds=10, protocol="paper", seed=2)
    assert all((one == two).all() for one, two in zip(folds, again, strict=True))
    assert any((one != two).any() for one, two in zip(folds, other, strict=True))


def test_grouped_folds_never_cut_a_group() -> None:
    groups = np.random.default_rng(0).integers(0, 90, 200)
    folds = make_folds(LABELS, n_folds=5, protocol="grouped", seed=1, groups=groups)
    assert sorted(np.concatenate(folds).tolist()) == list(range(200))
    homes = {group: {i for i, fold in enumerate(folds) if (groups[fold] == group).any()} for group in groups}
    assert all(len(home) == 1 for home in homes.values())
    assert all(set(LABELS[fold]) == {"a", "b", "c"} for fold in folds)


def test_grouped_folds_find_the_groups_of_posts_themselves() -> None:
    frame = pd.DataFrame({"text": [f"words {i // 2}" for i in range(40)], "label": ["x", "x", "y", "y"] * 10})
    folds = make_folds(read_posts(frame), n_folds=4, protocol="grouped", seed=0)
    assert all({int(i) ^ 1 for i in fold} == {int(i) for i in fold} for fold in folds)


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (["a"] * 9 + ["b"] * 3, {"n_folds": 5}, "3 posts with the label 'b'.*at most 3 folds"),
        (["a"] * 9 + ["b"], {"n_folds": 5}, "1 post with the label 'b'.*add posts"),
        (["a"] * 9, {}, "all 9 posts have the label 'a'"),
        (["a", None, "b", float("nan")], {}, r"2 posts have no label \(rows 2, 4\)"),
        ([], {}, "no posts"),
        (["a", "b"] * 6, {"protocol": "grouped"}, "needs a group for each post"),
        (["a", "b"] * 6, {"protocol": "grouped", "groups": [0] * 5}, "5 groups for 12 posts"),
        (["a", "b"] * 6, {"protocol": "grouped", "groups": [0] * 12}, "1 group of near-duplicates"),
    ],
)
def test_labels_that_cannot_be_cut(labels: list[object], options: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        make_folds(labels, **{"n_folds": 2, "protocol": "paper", "seed": 0, **options})  # type: ignore[arg-type]


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match="did you mean 'grouped'"):
        make_folds(LABELS, n_folds=2, protocol="groupd", seed=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 2"):
        make_folds(LABELS, n_folds=1, protocol="paper", seed=0)
    for fraction in (0.0, 1.0, -0.1):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            holdout_split(LABELS, fraction=fraction, seed=0)


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.2, 0.4])
def test_a_holdout_has_the_wanted_size_and_labels(fraction: float) -> None:
    train, held = holdout_split(LABELS, fraction=fraction, seed=3)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(200))
    counts = Counter(LABELS[held].tolist())
    for label, count in Counter(LABELS.tolist()).items():
        assert abs(counts[label] - fraction * count) <= 0.5 + 1e-9
    assert (holdout_split(LABELS, fraction=fraction, seed=3)[1] == held).all()
    assert (holdout_split(LABELS, fraction=fraction, seed=4)[1] != held).any()


def test_a_holdout_never_cuts_a_group() -> None:
    groups = np.random.default_rng(0).integers(0, 60, 200)
    train, held = holdout_split(LABELS, fraction=0.2, seed=0, groups=groups)
    assert not set(groups[train]) & set(groups[held])
    assert abs(len(held) - 40) <= 3


def test_a_rare_label_stays_in_training() -> None:
    labels = ["a"] * 20 + ["b"] * 20 + ["c"]
    train, held = holdout_split(labels, fraction=0.2, seed=0)
    assert 40 in train.tolist()
    assert len(held) == 8


def test_a_post_without_a_group_stands_alone() -> None:
    train, held = holdout_split(["a", "b"] * 10, fraction=0.2, seed=0, groups=[None] * 20)
    assert (len(train), len(held)) == (16, 4)


def test_nothing_to_hold_out() -> None:
    with pytest.raises(DataError, match="too few"):
        holdout_split(["a", "b"], fraction=0.2, seed=0)
    with pytest.raises(DataError, match="too few, or their groups too large"):
        holdout_split(["a", "b"] * 10, fraction=0.2, seed=0, groups=[1] * 20)
    with pytest.raises(DataError, match="all 3 posts"):
        holdout_split(["a"] * 3, fraction=0.2, seed=0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), min_size=1, max_size=60),
    st.floats(0.05, 0.6),
)
def test_any_holdout_is_a_clean_cut_or_a_clear_error(rows: list[tuple[str, int]], fraction: float) -> None:
    labels, groups = [row[0] for row in rows], [row[1] for row in rows]
    try:
        train, held = holdout_split(labels, fraction=fraction, seed=0, groups=groups)
    except DataError:
        return
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(len(rows)))
    assert not {groups[i] for i in train} & {groups[i] for i in held}
    for label in set(labels):
        members = [i for i in range(len(rows)) if labels[i] == label]
        if len(members) == 1 and len({groups[i] for i in range(len(rows))}) == len(rows):
            assert members[0] in train.tolist()
