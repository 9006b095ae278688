"""Images of words on a plain background: the same ones are found, different ones are not taken for the same."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from cotune.benchmark.runner import run_plan
from cotune.data.checks.quality import check_posts
from cotune.data.duplicates import Fingerprint, Groups, fingerprints, large_group_note, near_duplicate_groups
from cotune.data.images.flat import Details, flat_detail
from cotune.data.posts import read_posts
from cotune.training.fit import fit_posts
from runs import Told, tiny_config
from tiny import Zoo, make_posts, scene

WORDS = [
    "happy",
    "sad",
    "monday",
    "coffee",
    "rain",
    "never",
    "give",
    "up",
    "sale",
    "fifty",
    "percent",
    "love",
    "life",
    "dream",
    "sun",
    "train",
    "late",
    "again",
]


def page(
    seed: int, *, size: tuple[int, int] = (600, 400), lines: int = 1, words: int = 3, dark: bool = False
) -> Image.Image:
    """Return words on white, or on black."""
    random = np.random.default_rng(seed)
    text = "\n".join(" ".join(random.choice(WORDS, words, replace=False)) for _ in range(lines))
    image = Image.new("RGB", size, "black" if dark else "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(28)
    box = draw.multiline_textbbox((0, 0), text, font=font)
    draw.multiline_text(
        ((size[0] - box[2]) / 2, (size[1] - box[3]) / 2), text, fill="white" if dark else "black", font=font
    )
    return image


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


@pytest.mark.parametrize("kind", [{}, {"words": 2}, {"lines": 4}, {"size": (1200, 900)}, {"dark": True}])
def test_different_words_are_different_images(kind: dict[str, int]) -> None:
    pages = [page(seed, **kind) for seed in range(40)]
    different = len({image.tobytes() for image in pages})
    posts = read_posts(pd.DataFrame({"image": pd.Series(pages, dtype=object)}))
    groups = near_duplicate_groups(posts, by=["image"])
    assert len(set(groups.tolist())) >= different - 1
    assert large_group_note(groups) is None


def test_the_hash_alone_would_have_joined_them() -> None:
    marks = fingerprints([page(seed, size=(1200, 900), words=2) for seed in range(40)])
    hashes = Groups(40)
    hashes.join_alike([mark.look for mark in marks if mark is not None], 4)
    assert np.bincount(hashes.numbers()).max() > 10


@pytest.mark.parametrize("seed", range(4))
def test_copies_of_the_same_words_are_found(seed: int) -> None:
    image = page(seed, lines=2)
    copies = [image, recompressed(image, 80), recompressed(image, 50), image.resize((300, 200), Image.Resampling.LANCZOS),
              image.resize((900, 600)), image.filter(ImageFilter.GaussianBlur(1)), page(seed + 100, lines=2)]  # fmt: skip
    posts = read_posts(pd.DataFrame({"image": pd.Series(copies, dtype=object)}))
    assert near_duplicate_groups(posts, by=["image"]).tolist() == [0] * 6 + [1]
    report = check_posts(posts)
    assert [group.rows for group in report.of("near image")] == [[1, 2, 3, 4, 5, 6]]


def test_photographs_have_no_detail_and_are_joined_as_before() -> None:
    assert flat_detail(scene(1)) is None
    assert flat_detail(Image.new("RGB", (40, 40), "white")) is None, "nothing stands out"
    assert flat_detail(Image.new("RGB", (1, 1), "white")) is None
    assert flat_detail(page(1)) is not None
    copies = [scene(1), recompressed(scene(1), 70), scene(1, (80, 60)), scene(2)]
    posts = read_posts(pd.DataFrame({"image": pd.Series(copies, dtype=object)}))
    assert near_duplicate_groups(posts).tolist() == [0, 0, 0, 1]


def test_a_pair_of_which_one_is_not_flat_is_left_to_the_hash() -> None:
    details = Details([flat_detail(page(1)), None, flat_detail(page(2)), flat_detail(page(1))])
    left, right = np.asarray([0, 0, 0, 1]), np.asarray([1, 2, 3, 2])
    assert details.agree(left, right).tolist() == [True, False, True, True]
    assert details.agree(left, right, at_once=1).tolist() == [True, False, True, True]
    assert Details([None, None]).agree(np.asarray([0]), np.asarray([1])).tolist() == [True]


def test_many_pages_take_seconds() -> None:
    detail = [flat_detail(page(seed)) for seed in range(25)]
    marks = [Fingerprint(str(i), 5, detail=detail[i % 25]) for i in range(2000)]
    begun = time.perf_counter()
    groups = Groups(len(marks))
    groups.join_looks(marks, 4)
    numbers = groups.numbers()
    assert time.perf_counter() - begun < 30
    assert len(set(numbers.tolist())) == len(set(numbers[:25].tolist()))


# ---- a group that is too large to mean something is told ------------------------------------------------------


def test_a_group_of_more_than_a_tenth() -> None:
    assert large_group_note(np.asarray([0] * 4 + [1, 2])) is None, "too few to tell"
    assert large_group_note(np.arange(100)) is None
    assert large_group_note(np.asarray([], dtype=np.int64)) is None
    assert large_group_note(np.asarray([0] * 10 + list(range(1, 91)))) is None
    note = large_group_note(np.asarray([7] * 12 + list(range(100, 188))))
    assert note is not None
    assert note.startswith("one group of near-duplicates holds 12 of 100 posts (12%)")


def test_check_fit_and_bench_tell(zoo: Zoo, tmp_path: Path) -> None:
    from bench_tiny import tiny_plan

    posts = make_posts(tmp_path / "posts", 36, gaps=False)
    posts.loc[:7, "text"] = "the same words"
    assert any("holds 8 of 36 posts (22%)" in line.text for line in check_posts(posts).advice)
    told = Told()
    config = tiny_config(zoo, tmp_path / "cache", tune="frozen", validation=0.2, folds_group="near-duplicates")
    fit_posts(posts, config, progress=told)
    assert any(line.startswith("note: one group of near-duplicates holds 8 of 36") for line in told.lines)

    from cotune.benchmark.runner import Watcher

    watcher = Watcher()
    watcher.progress = told = Told()
    run_plan(posts, tiny_plan(zoo, tmp_path, protocol="grouped", methods=("svm",)), tmp_path / "bench", watcher=watcher)
    assert any(line.startswith("note: one group of near-duplicates holds 8 of 36") for line in told.lines)
