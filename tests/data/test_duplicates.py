from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from cotune.data.duplicates import (
    Groups,
    fingerprints,
    near_duplicate_groups,
    text_key,
)
from cotune.data.images.appearance import NO_HASH, perceptual_hash
from cotune.data.posts import read_posts
from cotune.errors import ConfigError
from tiny import scene


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello  World", "hello world"),
        ("RT @bob: so true", "so true"),
        ("so true https://t.co/abc", "so true http://t.co/xyz"),
        ("ｆｕｌｌ", "full"),
        ("Straße", "STRASSE"),
        ("@a @b hi #tag", "hi #tag @c"),
    ],
)
def test_the_same_words_have_one_key(one: str, other: str) -> None:
    assert text_key(one) == text_key(other) != ""


def test_texts_that_say_nothing_have_no_key() -> None:
    assert [text_key(text) for text in (None, "", "  ", "http://t.co/x", "RT @bob: http://t.co/x")] == [""] * 5
    assert text_key("mail me@x.org") == "mail me@x.org"
    assert text_key("art") == "art"


def test_hashes_follow_the_look() -> None:
    first = perceptual_hash(scene(1))
    again = perceptual_hash(scene(1, (80, 60)).filter(ImageFilter.GaussianBlur(1)))
    assert (first ^ again).bit_count() <= 4
    assert (first ^ perceptual_hash(scene(2))).bit_count() > 10
    assert perceptual_hash(Image.new("RGB", (50, 50), "red")) == NO_HASH
    assert 0 < first < 2**64


def posts(tmp_path: Path) -> pd.DataFrame:
    scene(1).save(tmp_path / "a.png")
    scene(1, (320, 240)).save(tmp_path / "a2.jpg", quality=80)
    scene(2).save(tmp_path / "b.png")
    Image.new("RGB", (50, 50), "white").save(tmp_path / "white.png")
    Image.new("RGB", (60, 50), "black").save(tmp_path / "black.png")
    (tmp_path / "broken.png").write_bytes(b"x")
    rows = [
        ("one", "a.png", None), ("two", "a2.jpg", None), ("three", "b.png", None),
        ("Two http://t.co/1", None, None),
        ("four", "white.png", None), ("five", "black.png", None), ("six", "white.png", None),
        ("", "broken.png", "g"), (None, "missing.png", "g"), ("", None, None), ("  ", "broken.png", None),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["text", "image", "group"], dtype=object)
    return read_posts(frame, base=tmp_path)


def test_groups_join_by_text_look_content_and_given_group(tmp_path: Path) -> None:
    table = posts(tmp_path)
    # 0-1 look alike, 1-3 say the same; flat pictures join only when equal; 7-8 share a given group.
    assert near_duplicate_groups(table).tolist() == [0, 0, 1, 0, 2, 3, 2, 4, 4, 5, 6]
    assert near_duplicate_groups(table, by=["image"]).tolist() == [0, 0, 1, 2, 3, 4, 3, 5, 5, 6, 7]
    assert near_duplicate_groups(table, by=["text"]).tolist() == [0, 1, 2, 1, 3, 4, 5, 6, 6, 7, 8]
    marks = fingerprints(table["image"])
    assert near_duplicate_groups(table, hashes=marks).tolist() == near_duplicate_groups(table).tolist()
    with pytest.raises(ConfigError, match="not by 'sound'"):
        near_duplicate_groups(table, by=["sound"])


def test_pictures_are_read_once_and_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    marks = fingerprints(posts(tmp_path)["image"], progress=lambda done, total: told.append((done, total)))
    assert told == [(i, 7) for i in range(1, 8)]
    assert [mark is None for mark in marks] == [False, False, False, True, False, False, False] + [True] * 4


def test_remote_pictures_join_by_address() -> None:
    table = read_posts(pd.DataFrame({"image": ["https://x.org/a.png", "https://x.org/b.png", "https://x.org/a.png"]}))
    assert near_duplicate_groups(table).tolist() == [0, 1, 0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 2**63 + 5, 2**40 - 1]), min_size=1, max_size=30),
    st.integers(0, 6),
    st.data(),
)
def test_alike_hashes_are_all_found(starts: list[int], distance: int, data: st.DataObject) -> None:
    flips = data.draw(st.lists(st.lists(st.integers(0, 63), max_size=5), min_size=len(starts), max_size=len(starts)))
    looks = [start ^ sum(1 << bit for bit in set(bits)) for start, bits in zip(starts, flips, strict=True)]
    groups = Groups(len(looks))
    groups.join_alike(looks, distance)
    # The plain way: join every pair near enough until nothing changes.
    plain = list(range(len(looks)))
    for i, one in enumerate(looks):
        for j, other in enumerate(looks):
            if NO_HASH not in (one, other) and (one ^ other).bit_count() <= distance:
                plain = [plain[i] if group == plain[j] else group for group in plain]
    assert groups.numbers().tolist() == pd.factorize(np.array(plain))[0].tolist()


def test_a_hundred_thousand_hashes_take_seconds() -> None:
    rng = np.random.default_rng(0)
    looks = rng.integers(1, 2**63, 100_000, dtype=np.uint64)
    looks[50_000:] = looks[:50_000] ^ (np.uint64(1) << rng.integers(0, 64, 50_000).astype(np.uint64))
    groups = Groups(len(looks))
    start = time.perf_counter()
    groups.join_alike(looks.tolist(), 4)
    numbers = groups.numbers()
    assert time.perf_counter() - start < 20
    assert (numbers[50_000:] == numbers[:50_000]).all()
    assert len(set(numbers.tolist())) == 50_000
