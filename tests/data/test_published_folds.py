"""Folds as somebody published them, by column and by file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cotune.data.posts import read_posts
from cotune.data.published_folds import TEST, TRAIN, UNUSED, WATCH, PublishedFolds, read_published_folds
from cotune.errors import DataError


def table(folder: Path, n: int = 6, **columns: list[object]) -> Path:
    path = folder / "posts.csv"
    rows = {"id": [f"p{i}" for i in range(n)], "text": [f"words {i}" for i in range(n)], "label": ["a", "b"] * (n // 2)}
    pd.DataFrame({**rows, **columns}).to_csv(path, index=False)
    return path


def read(path: Path, source: str, **where: object) -> PublishedFolds:
    return read_published_folds(read_posts(path, where=where), path, source)


def test_a_column_of_folds_scores_every_post_once(tmp_path: Path) -> None:
    found = read(table(tmp_path, fold=[10, 2, 10, 1, 2, 1]), "fold")
    assert found.names == ("1", "2", "10"), "in the order of numbers"
    assert (found.roles == TEST).argmax(axis=1).tolist() == [2, 1, 2, 0, 1, 0]
    assert ((found.roles == TEST).sum(axis=1) == 1).all()
    assert ((found.roles == TRAIN).sum(axis=1) == 2).all()


def test_a_split_is_one_fold_and_several_are_several(tmp_path: Path) -> None:
    one = ["train", "train", "val", "test", "", "Training"]
    two = ["test_seen", "train", "train", "dev_seen", "train", "test"]
    path = table(tmp_path, split_1=one, split_2=two)
    found = read(path, "split_1")
    assert found.names == ("split_1",)
    assert found.roles[:, 0].tolist() == [TRAIN, TRAIN, WATCH, TEST, UNUSED, TRAIN]
    both = read(path, "split_1, split_2")
    assert both.roles[:, 1].tolist() == [TEST, TRAIN, TRAIN, WATCH, TRAIN, TEST]
    assert both.digest != found.digest


def test_rows_are_told_apart_when_some_are_picked(tmp_path: Path) -> None:
    path = table(tmp_path, fold=[1, 2, 3, 1, 2, 3], place=["x", "y", "x", "x", "y", "x"])
    assert read(path, "fold", place="x").names == ("1", "3")


def test_a_file_by_id_in_any_order(tmp_path: Path) -> None:
    path = table(tmp_path)
    order = [5, 3, 1, 0, 2, 4]
    folds = pd.DataFrame({"id": [f"p{i}" for i in order] + ["p99"], "fold": [i % 3 for i in order] + [0]})
    folds.to_csv(tmp_path / "folds.csv", index=False)
    found = read(path, str(tmp_path / "folds.csv"))
    assert (found.roles == TEST).argmax(axis=1).tolist() == [0, 1, 2, 0, 1, 2]
    assert found.notes == (f"1 of the ids in {tmp_path / 'folds.csv'} are not among the posts",)


@pytest.mark.parametrize(
    ("columns", "source", "words"),
    [
        ({"fold": [1, None, 2, 1, None, 2]}, "fold", "gives no fold for 2 of the posts (rows 2, 5)"),
        ({"fold": [1] * 6}, "fold", "folds need two values"),
        ({"fold": [1, 2, 1, 2, 1, 2]}, "folds", "no column 'folds' (did you mean 'fold'?)"),
        ({"split": ["train"] * 6}, "split", "scores none of the posts"),
        ({"split": ["test"] * 6}, "split", "trains on none of the posts"),
        ({"a": ["test"] + ["train"] * 5, "b": ["test"] + ["train"] * 5}, "a,b", "more than once (row 1)"),
        ({"a": ["x"] * 3 + ["y"] * 3, "b": ["train"] * 5 + ["test"]}, "a,b", "more than once (row 6)"),
    ],
)
def test_columns_that_are_no_folds(tmp_path: Path, columns: dict[str, list[object]], source: str, words: str) -> None:
    with pytest.raises(DataError, match=words.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")):
        read(table(tmp_path, **columns), source)


def test_too_many_folds_are_likely_another_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="150 different values, which are likely no folds"):
        read(table(tmp_path, 150, author=list(range(150))), "author")


def test_files_that_are_no_folds(tmp_path: Path) -> None:
    path, file = table(tmp_path), tmp_path / "folds.csv"
    ids = [f"p{i}" for i in range(6)]
    for frame, words in (
        (pd.DataFrame({"id": ids, "part": [1, 2] * 3}), "needs a column 'id' and one called 'fold' or 'split'"),
        (pd.DataFrame({"id": [*ids, "p3"], "fold": [1, 2] * 3 + [1]}), "names the post 'p3' twice, in row 7"),
        (pd.DataFrame({"id": ids[2:], "fold": [1, 2] * 2}), "misses 2 of the 6 posts .rows 1, 2, such as 'p0'"),
    ):
        frame.to_csv(file, index=False)
        with pytest.raises(DataError, match=words):
            read(path, str(file))
    with pytest.raises(DataError, match="cannot be read twice"):
        read_published_folds(read_posts(path), "-", "fold")


def test_the_hash_tells_folds_apart() -> None:
    roles = np.asarray([[1, 3], [3, 1]], dtype=np.int8)
    same = PublishedFolds(("a", "b"), roles.copy(order="F"), "here").digest
    assert PublishedFolds(("a", "b"), roles, "there").digest == same
    assert PublishedFolds(("a", "b"), roles[::-1], "here").digest != same
