"""The rules by which a report says what to notice first."""

from __future__ import annotations

from typing import Any

import pytest

from cotune.report.notices import Notice, sorted_notices
from cotune.report.run_verdict import run_notices, score_notices
from cotune.run import Run
from cotune.seen_check import SEEN_POSTS
from cotune.settings import FitConfig
from cotune.tasks.multi_label import MultiLabel
from cotune.tasks.regression import Regression
from cotune.tasks.single_label import SingleLabel

TASK = SingleLabel(("no", "yes"))


def row(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def scores(**changed: Any) -> dict[str, Any]:
    """Return scores of a model about which there is nothing to notice."""
    found = {
        "n": 1000,
        "scores": {"auc": row(0.8, 0.77, 0.83), "accuracy": row(0.75, 0.72, 0.78)},
        "classes": ["no", "yes"],
        "confusion": [[370, 130], [120, 380]],
        "per_class": {"no": {"support": 500}, "yes": {"support": 500}},
        "calibration": [{"n": 1000, "confidence": 0.76, "accuracy": 0.75}],
    }
    return {**found, **changed}


def levels(found: list[Notice]) -> list[str]:
    return [notice.level for notice in found]


def test_a_sound_model_gets_one_sentence_with_its_interval() -> None:
    found = score_notices(TASK, scores())
    assert levels(found) == ["good"]
    assert found[0].text == "AUC 0.800 (0.770 to 0.830) on 1,000 posts; guessing has 0.5."


@pytest.mark.parametrize(
    ("auc", "level", "words"),
    [
        (row(0.52, 0.46, 0.58), "problem", "touches 0.5"),
        (row(0.5, 0.5, 0.5), "problem", "touches 0.5"),
        (row(0.3, 0.2, 0.4), "problem", "worse than guessing"),
        (row(0.7), "note", "without an interval"),
    ],
)
def test_an_interval_that_touches_chance(auc: dict[str, float | None], level: str, words: str) -> None:
    found = score_notices(TASK, scores(scores={"auc": auc}))
    assert levels(found) == [level]
    assert words in found[0].text


def test_a_score_that_is_not_defined_is_passed_over() -> None:
    assert score_notices(TASK, scores(scores={"auc": row(None)})) == []


def test_chance_is_what_the_task_says() -> None:
    plain = {"n": 400, "scores": {"spearman": row(0.1, -0.05, 0.2)}}
    (found,) = score_notices(Regression(0.0, 1.0), plain)
    assert found.level == "problem"
    assert "touches 0, which is guessing" in found.text


def test_accuracy_of_the_most_frequent_class() -> None:
    few = {"no": {"support": 900}, "yes": {"support": 100}}
    rows = {"auc": row(0.8, 0.7, 0.9), "accuracy": row(0.9, 0.88, 0.92)}
    found = score_notices(TASK, scores(scores=rows, per_class=few, calibration=[]))
    assert levels(found) == ["warning", "good"]
    assert "is not clearly better than that of always answering no (0.900)" in found[0].text
    rows["accuracy"] = row(0.7, 0.65, 0.75)
    assert "is below" in score_notices(TASK, scores(scores=rows, per_class=few, calibration=[]))[0].text


def test_a_class_that_is_never_predicted() -> None:
    found = score_notices(TASK, scores(confusion=[[500, 0], [500, 0]]))
    assert "Never predicted: yes." in found[0].text
    several = MultiLabel(("a", "b"))
    per = {"a": {"support": 30, "recall": 0.0}, "b": {"support": 90, "recall": 0.4}}
    found = score_notices(several, {"n": 500, "scores": {}, "per_label": per})
    assert "Never predicted rightly: a." in found[0].text


@pytest.mark.parametrize(
    ("confidence", "n", "expected"),
    [(0.9, 1000, "Overconfident: mean confidence 90%, but 75% are right"), (0.6, 1000, "Underconfident"),
     (0.78, 1000, None), (0.82, 30, None)],
)  # fmt: skip
def test_confidence_against_accuracy(confidence: float, n: int, expected: str | None) -> None:
    bins = [{"n": n, "confidence": confidence, "accuracy": 0.75}, {"n": 0, "confidence": 0.0, "accuracy": 0.0}]
    found = [notice.text for notice in score_notices(TASK, scores(calibration=bins))]
    assert any("confident" in text for text in found) == (expected is not None)
    assert expected is None or any(text.startswith(expected) for text in found)


def test_few_posts_and_few_of_a_class() -> None:
    assert any("Only 80 posts" in notice.text for notice in score_notices(TASK, scores(n=80)))
    assert any("Only 1 post:" in notice.text for notice in score_notices(TASK, scores(n=1)))
    few = {"no": {"support": 990}, "yes": {"support": 10}}
    rows = {"auc": row(0.8, 0.7, 0.9)}
    found = score_notices(TASK, scores(scores=rows, per_class=few))
    assert any("Few posts of yes (10)" in notice.text for notice in found)


def test_scored_on_its_own_training_posts_comes_first() -> None:
    found = score_notices(TASK, scores(n=80), ["something else", SEEN_POSTS])
    assert levels(found)[0] == "problem"
    assert found[0].text.startswith("These are the posts that the run was trained on")


def run(config: dict[str, Any] | None = None, **metrics: Any) -> Run:
    model = type("Model", (), {"task": TASK})()
    return Run(model, FitConfig(**(config or {})), metrics)  # type: ignore[arg-type]


def epoch(number: int, loss: float, auc: float, stage: str = "top") -> dict[str, Any]:
    return {"stage": stage, "epoch": number, "train_loss": loss, "validation_auc": auc}


def test_training_loss_falls_while_validation_falls() -> None:
    history = [epoch(1, 0.9, 0.5, "probe"), epoch(1, 0.6, 0.8), epoch(2, 0.5, 0.84), epoch(3, 0.4, 0.82)]
    found = run_notices(run(history=history, validation=scores()))
    assert levels(found) == ["warning", "good"]
    assert "after epoch 2 the training loss falls on (0.500 to 0.400)" in found[0].text
    assert levels(run_notices(run({"stop": "validation"}, history=history, validation=scores()))) == ["good"]
    assert levels(run_notices(run(history=history[:3], validation=scores()))) == ["good"]
    level = [*history[:3], epoch(3, 0.4, 0.838)]
    assert levels(run_notices(run(history=level, validation=scores()))) == ["good"]


def test_nothing_measured_interrupted_overlap_and_unreadable_images() -> None:
    posts = {"read": 100, "unreadable_images": 9, "validation_overlap": 1}
    found = run_notices(run(status="interrupted", posts=posts))
    assert levels(found) == ["problem", "warning", "warning", "warning"]
    words = " ".join(notice.text for notice in found)
    for said in ("1 validation post is among", "Interrupted.", "9% of the posts", "nothing was measured"):
        assert said in words


def test_the_gravest_come_first_and_others_keep_their_order() -> None:
    made = [Notice("good", "a"), Notice("warning", "b"), Notice("problem", "c"), Notice("warning", "d")]
    assert [notice.text for notice in sorted_notices(made)] == ["c", "b", "d", "a"]


def test_posts_of_one_class_have_no_auc_and_no_advice_to_look_at_it() -> None:
    one = scores(
        scores={"auc": row(None), "accuracy": row(1.0, 1.0, 1.0)},
        confusion=[[0, 0], [0, 1000]],
        per_class={"no": {"support": 0}, "yes": {"support": 1000}},
        calibration=[],
    )
    found = score_notices(TASK, one)
    assert found[0].level == "problem"
    assert found[0].text.startswith("All posts have the label yes: there is no AUC")
    assert not [notice for notice in found if "look at AUC" in notice.text]


def test_a_high_score_is_no_good_sign_on_training_posts_or_on_very_few() -> None:
    assert levels(score_notices(TASK, scores(), [SEEN_POSTS])) == ["problem"]
    assert "good" not in levels(score_notices(TASK, scores(n=3, scores={"auc": row(1.0, 1.0, 1.0)})))
