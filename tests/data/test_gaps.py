"""What makes scores too good to be true is told: modalities missing in one class, validation posts trained on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cotune.data.checks.gaps import class_gaps
from cotune.data.checks.quality import check_posts
from cotune.report.run_report import run_report
from cotune.training.fit import fit_posts
from runs import Told, tiny_config
from tiny import Zoo, make_posts


def test_a_modality_that_is_missing_in_one_class() -> None:
    labels = ["x", "y", "z", None] * 10
    (line,) = class_gaps({"text": [True] * 40, "image": [label != "y" for label in labels]}, labels)
    assert line.startswith("the image is missing in 100% of the posts labelled 'y' and in 0% of the others")


@pytest.mark.parametrize(
    ("labels", "has"),
    [
        (["x", "y"] * 4, [True, False] * 4),  # too few posts to tell
        (["x", "y"] * 20, [True, True, False, False] * 10),  # missing in both alike
        (["x", "y"] * 20, [False] * 40),
        (["x"] * 40, [False] * 40),
        ([None] * 40, [False] * 40),
        ([], []),
    ],
)
def test_gaps_that_tell_nothing(labels: list[str | None], has: list[bool]) -> None:
    assert class_gaps({"image": has}, labels) == []


def one_sided(folder: Path) -> pd.DataFrame:
    posts = make_posts(folder, 24, gaps=False)
    posts.loc[posts["label"] == "class0", "image"] = None
    return posts


def test_check_and_fit_tell(zoo: Zoo, tmp_path: Path) -> None:
    posts = one_sided(tmp_path / "posts")
    assert any(
        "the image is missing in 100% of the posts labelled 'class0'" in line.text for line in check_posts(posts).advice
    )
    told = Told()
    fit_posts(posts, tiny_config(zoo, tmp_path / "cache", tune="frozen"), progress=told)
    assert any(line.startswith("note: the image is missing in 100%") for line in told.lines)


def test_images_that_are_named_and_missing_count_too(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 24, gaps=False)
    posts.loc[posts["label"] == "class0", "image"] = str(tmp_path / "gone.png")
    assert len(check_posts(posts).gaps) == 1
    told = Told()
    fit_posts(posts, tiny_config(zoo, tmp_path / "cache", tune="frozen", bad_images="text-only"), progress=told)
    assert any(line.startswith("note: the image is missing in 100%") for line in told.lines)


def test_a_model_of_texts_alone_does_not_care(zoo: Zoo, tmp_path: Path) -> None:
    told = Told()
    config = tiny_config(zoo, tmp_path / "cache", tune="frozen", fusion="text", modality_dropout=0)
    fit_posts(one_sided(tmp_path / "posts"), config, progress=told)
    assert not any("is missing in" in line for line in told.lines)


@pytest.mark.parametrize(("again", "count"), [(slice(None), 24), (slice(0, 5), 5), (slice(0, 0), 0)])
def test_validation_posts_that_were_trained_on(zoo: Zoo, tmp_path: Path, again: slice, count: int) -> None:
    posts = make_posts(tmp_path / "posts", 24, gaps=False)
    held = pd.concat(
        [posts.iloc[again], make_posts(tmp_path / "held", 6, gaps=False, seed=7)] if count < 24 else [posts]
    )
    told = Told()
    config = tiny_config(zoo, tmp_path / "cache", tune="frozen")
    run = fit_posts(posts, config, validation_posts=held.reset_index(drop=True), progress=told).run
    assert run.metrics["posts"]["validation_overlap"] == count
    assert ("Validation posts that are training posts too" in run_report(run, name="x")) == bool(count)
    assert any(
        line.startswith(f"note: {count} of {len(held)} validation posts are training posts too") for line in told.lines
    ) == bool(count)


def test_without_a_validation_table_nothing_is_counted(zoo: Zoo, tmp_path: Path) -> None:
    run = fit_posts(make_posts(tmp_path / "posts", 12), tiny_config(zoo, tmp_path / "cache", tune="frozen")).run
    assert "validation_overlap" not in run.metrics["posts"]
