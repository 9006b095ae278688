"""The demo posts: complete, small, licensed, and cut without leaks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cotune.data.duplicates import near_duplicate_groups
from cotune.demo import demo_posts_path, read_demo_posts
from cotune.demo import posts as demo_module
from cotune.errors import DataError


@pytest.fixture(scope="module")
def posts():
    return read_demo_posts()


@pytest.fixture(scope="module")
def raw():
    return pd.read_csv(demo_posts_path(), keep_default_na=False)


def test_every_post_is_complete(posts):
    assert {"id", "text", "image", "label", "group", "split"} <= set(posts.columns)
    assert posts["id"].is_unique
    assert posts["text"].str.strip().ne("").all()
    assert len(posts) == 1000


def test_labels_are_balanced_in_both_parts(posts):
    counts = posts.groupby(["split", "label"]).size()
    assert counts["train", "positive"] == counts["train", "negative"] == 375
    assert counts["test", "positive"] == counts["test", "negative"] == 125


def test_the_test_part_holds_other_tweets_and_other_emoji(posts):
    train, test = posts[posts["split"] == "train"], posts[posts["split"] == "test"]
    for column in ("id", "text", "image", "group"):
        assert not set(train[column]) & set(test[column]), column


def test_no_near_duplicates_straddle_the_parts(posts):
    numbers = near_duplicate_groups(posts)
    assert posts.assign(number=numbers).groupby("number")["split"].nunique().max() == 1


def test_pictures_are_all_there_small_and_used(posts):
    named = {str(path) for path in posts["image"]}
    present = {str(path) for path in (demo_posts_path().parent / "images").iterdir()}
    assert named == present
    for path in named:
        with Image.open(path) as picture:
            assert picture.size == (192, 192)
            assert picture.convert("RGB").getextrema() != ((255, 255),) * 3


def test_all_files_stay_below_a_megabyte_with_both_licences():
    folder = demo_posts_path().parent
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 1_000_000
    licences = (folder / "LICENSES.md").read_text(encoding="utf-8")
    assert licences.count("Permission is hereby granted, free of charge") == 2
    assert "C.J. Hutto" in licences
    assert "Microsoft Corporation" in licences
    assert "LobeHub" in licences


def test_the_label_is_the_sign_of_both_sentiments_and_neither_gives_it_away(raw):
    total = raw["text_rating"] + 5 * raw["image_sentiment"]
    assert ((total > 0) == (raw["label"] == "positive")).all()
    assert total.abs().min() >= 0.49  # the table's numbers are rounded
    positive = raw["label"] == "positive"
    for column in ("text_rating", "image_sentiment"):
        agrees = np.sign(raw[column]) * np.where(positive, 1, -1)
        assert 0.5 < (agrees > 0).mean() < 0.8, column


def test_no_html_entities_are_left(raw):
    assert not raw["text"].str.contains(r"&(?:amp|lt|gt|quot|#\d+);").any()


def test_a_missing_table_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(demo_module, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match="demo posts are missing"):
        demo_posts_path()
