from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench_tiny import tiny_plan, tiny_posts
from cotune.benchmark.folds import Folds, cut_posts, posts_of, told_left_out
from cotune.data.published_folds import PublishedFolds, read_published_folds
from cotune.data.splits import Protocol
from cotune.errors import ConfigError, DataError, RunError
from tiny import Zoo


@pytest.fixture
def posts(tmp_path: Path) -> pd.DataFrame:
    return tiny_posts(tmp_path, 36, classes=3)


@pytest.mark.parametrize("protocol", ["paper", "grouped"])
def test_every_post_is_scored_once(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame, protocol: Protocol) -> None:
    folds = cut_posts(posts, tiny_plan(zoo, tmp_path, protocol=protocol))
    scored = np.concatenate([folds.test(fold) for fold in range(3)])
    assert sorted(scored) == list(range(36))
    for fold in range(3):
        assert not set(folds.test(fold)) & set(folds.train(fold))
        assert len(folds.test(fold)) + len(folds.train(fold)) == 36


def test_what_lacks_a_label_is_none_and_no_number(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame) -> None:
    folds = cut_posts(posts, tiny_plan(zoo, tmp_path))
    labels = tuple(None if i % 2 else "a" for i in range(36))
    found = replace(folds, labels=labels, field_labels={"label:text": labels[::-1]}).labelled_posts()
    assert tuple(found["label"]) == labels
    assert tuple(found["label:text"]) == labels[::-1]


def test_near_duplicates_never_straddle_a_fold(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame) -> None:
    posts.loc[1, "text"] = posts.loc[0, "text"] = "the same words here"
    posts.loc[3, "image"] = posts.loc[2, "image"]
    folds = cut_posts(posts, tiny_plan(zoo, tmp_path, protocol="grouped"))
    assert folds.fold[0] == folds.fold[1]
    assert folds.fold[2] == folds.fold[3]


def test_grouping_can_leave_texts_aside(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame) -> None:
    posts["text"] = "a meme with the same words"
    with pytest.raises(DataError, match="group of near-duplicates with the label"):
        cut_posts(posts, tiny_plan(zoo, tmp_path, protocol="grouped"))
    folds = cut_posts(posts, tiny_plan(zoo, tmp_path, protocol="grouped", group_by=("image",)))
    assert len(folds.ids) == 36


def test_posts_that_cannot_be_used_are_left_out_and_counted(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame) -> None:
    posts.loc[0, "label"] = None
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    posts.loc[1, ["text", "image"]] = ["words", str(tmp_path / "broken.jpg")]
    posts.loc[2, ["text", "image"]] = [None, None]
    folds = cut_posts(posts, tiny_plan(zoo, tmp_path))
    assert folds.left_out == {"no label": 1, "unreadable image": 1, "neither text nor image": 1}
    assert len(folds.ids) == 33
    assert told_left_out(folds) == (
        "note: 3 posts are left out (1 with no label, 1 with unreadable image, 1 with neither text nor image)"
    )
    kept = posts_of(posts, folds)
    assert list(kept["id"]) == list(folds.ids)
    with_text = cut_posts(posts, tiny_plan(zoo, tmp_path, fit={"bad_images": "text-only"}))
    assert len(with_text.ids) == 34


def test_too_few_posts_of_a_class(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame) -> None:
    rare = posts.drop(index=[i for i in range(36) if i % 3 == 2 and i > 6])
    with pytest.raises(DataError, match="use at most 2 folds"):
        cut_posts(rare, tiny_plan(zoo, tmp_path))


def test_one_class_and_no_labels(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="needs at least two"):
        cut_posts(posts.assign(label="a"), tiny_plan(zoo, tmp_path))
    with pytest.raises(DataError, match="no labels"):
        cut_posts(posts.assign(label=None), tiny_plan(zoo, tmp_path))


def test_numbers_as_labels_are_sorted_as_numbers(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame) -> None:
    posts["label"] = posts["label"].map({"class0": "10", "class1": "2", "class2": "1"})
    assert cut_posts(posts, tiny_plan(zoo, tmp_path)).classes == ("1", "2", "10")


def test_draws_are_stratified_nested_and_differ(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame) -> None:
    folds = cut_posts(posts, tiny_plan(zoo, tmp_path))
    small, large = folds.train(0, 2, 0), folds.train(0, 4, 0)
    assert list(np.bincount(folds.targets[small])) == [2, 2, 2]
    assert set(small) < set(large) < set(folds.train(0))
    assert set(folds.train(0, 4, 1)) != set(large)
    assert set(folds.train(0, 99, 0)) == set(folds.train(0))
    assert folds.most_shots() == 8


def test_folds_are_written_and_read(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame) -> None:
    folds = cut_posts(posts, tiny_plan(zoo, tmp_path, protocol="grouped"))
    folds.save(tmp_path / "folds.parquet")
    back = Folds.load(tmp_path / "folds.parquet")
    for name in ("ids", "labels", "fold", "groups"):
        assert np.array_equal(getattr(folds, name), getattr(back, name))
    assert (back.classes, back.left_out, back.seed) == (folds.classes, folds.left_out, folds.seed)
    assert not {"text", "image"} & set(pd.read_parquet(tmp_path / "folds.parquet").columns)


def test_damaged_folds(tmp_path: Path) -> None:
    (tmp_path / "folds.parquet").write_bytes(b"nonsense")
    with pytest.raises(RunError, match="cannot be read"):
        Folds.load(tmp_path / "folds.parquet")


@pytest.mark.parametrize("allowed", [False, True])
def test_pictures_that_were_not_fetched_are_no_pictures(
    zoo: Zoo, tmp_path: Path, posts: pd.DataFrame, allowed: bool
) -> None:
    posts.loc[0, ["text", "image"]] = ["words", "memory://nowhere/a.jpg"]
    posts.loc[1, ["text", "image"]] = [None, "memory://nowhere/a.jpg"]
    folds = cut_posts(posts, tiny_plan(zoo, tmp_path), allow_remote=allowed)
    assert folds.left_out == {"no label": 0, "unreadable image": 1, "neither text nor image": 1}
    by_text = cut_posts(posts, tiny_plan(zoo, tmp_path, fit={"bad_images": "text-only"}), allow_remote=allowed)
    assert by_text.left_out == {"no label": 0, "unreadable image": 0, "neither text nor image": 1}


def published(posts: pd.DataFrame, folder: Path, **columns: list[object]) -> PublishedFolds:
    path = folder / "folds.csv"
    pd.DataFrame({"id": posts["id"], **columns}).to_csv(path, index=False)
    return read_published_folds(posts, folder / "posts.csv", str(path))


def test_published_folds_are_taken_as_they_are_and_kept(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame) -> None:
    posts.loc[35, "text"] = posts.loc[0, "text"] = "the same words here"
    posts.loc[34, "label"] = None
    parts = ["train"] * 20 + ["val"] * 4 + [""] * 2 + ["test"] * 10
    own = published(posts, tmp_path, split=parts)
    folds = cut_posts(posts, tiny_plan(zoo, tmp_path, protocol="published", published=own, folds=1))
    assert (len(folds.train(0)), len(folds.watched(0)), len(folds.test(0))) == (20, 4, 9)
    assert folds.duplicated() == 1
    assert folds.test_over_train() == 9 / 20
    assert folds.most_shots() == np.bincount(folds.targets[:20]).max()
    scored = folds.scored()
    assert len(scored.ids) == 9
    assert scored.test(0).tolist() == list(range(9))
    folds.save(tmp_path / "folds.parquet")
    again = Folds.load(tmp_path / "folds.parquet")
    np.testing.assert_array_equal(again.roles, folds.roles)  # type: ignore[arg-type]
    assert again.n_folds == 1
    with pytest.raises(ConfigError, match="there are 1 published folds, not 3"):
        tiny_plan(zoo, tmp_path, protocol="published", published=own)
    with pytest.raises(ConfigError, match="needs published folds"):
        tiny_plan(zoo, tmp_path, protocol="published")


def test_a_published_fold_of_which_nothing_can_be_used(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame) -> None:
    posts.loc[30:, "label"] = None
    own = published(posts, tmp_path, split=["train"] * 30 + ["test"] * 6)
    with pytest.raises(DataError, match="scores none of the posts that can be used"):
        cut_posts(posts, tiny_plan(zoo, tmp_path, protocol="published", published=own, folds=1))
    posts["label"] = ["class0"] * 30 + ["class1", "class2"] * 3
    with pytest.raises(DataError, match="posts of one label to train on"):
        cut_posts(posts, tiny_plan(zoo, tmp_path, protocol="published", published=own, folds=1))
