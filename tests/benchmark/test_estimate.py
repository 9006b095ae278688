"""The estimate that a run gets of which no posts were held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from cotune.benchmark.estimate import estimate_scores
from cotune.errors import DataError
from cotune.report.run_report import run_report
from cotune.training.fit import fit_posts
from pages import check_page
from runs import tiny_config
from tiny import Zoo, make_posts


@pytest.mark.parametrize("tune", ["frozen", "joint"])
def test_every_post_is_scored_once_by_a_head_that_did_not_see_it(zoo: Zoo, tmp_path: Path, tune: str) -> None:
    posts = make_posts(tmp_path / "posts", 30, classes=3)
    run = fit_posts(posts, tiny_config(zoo, tmp_path / "cache", tune=tune)).run
    found = estimate_scores(posts, run)
    assert (found["n"], found["folds"]) == (30, 5)
    assert sum(map(sum, found["confusion"])) == 30
    assert found["note"] is None
    assert 0 <= found["scores"]["auc"]["low"] <= found["scores"]["auc"]["high"] <= 1
    assert estimate_scores(posts, run)["scores"] == found["scores"], "the same seed, the same figures"


def test_labels_without_a_pattern_are_estimated_as_chance(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 60)
    posts["label"] = posts["label"].sample(frac=1, random_state=3).to_numpy()
    run = fit_posts(posts, tiny_config(zoo, tmp_path / "cache", tune="frozen")).run
    auc = estimate_scores(posts, run)["scores"]["auc"]
    assert auc["low"] <= 0.5 <= auc["high"]


def test_rare_labels_get_fewer_folds_or_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 20)
    posts["label"] = ["rare"] * 3 + ["often"] * 17
    run = fit_posts(posts, tiny_config(zoo, tmp_path / "cache", tune="frozen")).run
    assert estimate_scores(posts, run)["folds"] == 3
    posts["text"], posts["image"] = "one and the same text", posts["image"].iloc[0]
    with pytest.raises(DataError):
        estimate_scores(posts, run)


def test_the_report_shows_what_the_figures_are(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 30, classes=3)
    run = fit_posts(posts, tiny_config(zoo, tmp_path / "cache", tune="frozen")).run
    assert "nothing was measured" in run_report(run, name="mine")
    run.metrics["estimate"] = estimate_scores(posts, run)
    page = run_report(run, name="mine")
    check_page(page)
    assert "nothing was measured" not in page
    assert "No posts were held out: these are scores of the head alone" in page
    assert "Scores on 30 posts, the head alone in 5 folds" in page
