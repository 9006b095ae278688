"""Thresholds for a policy, and posts sent to routes, for a scorer that answers what its posts say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cotune.data.posts import data_hash, read_posts
from cotune.decide.choose import choose_thresholds, risk_coverage, score_labelled, unreachable
from cotune.decide.expected import expected
from cotune.decide.policy import Policy, make_policy
from cotune.decide.route import decide_posts
from cotune.errors import CotuneError
from cotune.fields import DEFAULT_FIELDS
from cotune.progress import Progress
from cotune.report.decide_report import decide_report
from cotune.scoring import Scorer, Scores
from cotune.tasks import Task
from cotune.tasks.multi_label import MultiLabel
from cotune.tasks.regression import Regression
from cotune.tasks.single_label import SingleLabel
from pages import check_page

TWO = SingleLabel(["fine", "<b>bad"])
POLICY = make_policy({"class": "<b>bad", "act": {"precision": 0.85}, "allow": {"recall": 0.9}})


class Fixed(Scorer[Any]):
    """Answers the number that a post's text is."""

    def __init__(self, task: Task, data_hash: str | None = None) -> None:
        super().__init__(task, DEFAULT_FIELDS, ("text",), data_hash)

    engine_version = "none"
    weights_hash = "none"

    def table_columns(self) -> dict[str, Any]:
        return {}

    def read(self, posts: pd.DataFrame) -> Any:
        return posts

    def score(self, read: Any) -> Scores:
        p = read["text"].astype(float).to_numpy()
        found = p[:, None] if self.task.n_predictions == 1 else np.stack([1 - p, p], axis=1)
        nothing = Scores.none(self.task, self.field_names, ["" if x == x else "nothing" for x in p])
        return replace(nothing, predictions=found)


def posts(n: int, seed: int, labels: tuple[str, str] = ("fine", "<b>bad")) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    p = rng.beta(0.4, 0.4, n)
    label = [labels[int(rng.random() < x)] for x in p]
    return read_posts(pd.DataFrame({"id": [f"p{i}" for i in range(n)], "text": p.astype(str), "label": label}))


def chosen_on(frame: pd.DataFrame, task: Task = TWO, policy: Policy = POLICY) -> Any:
    return choose_thresholds(policy, score_labelled(Fixed(task), [frame], policy.class_), Fixed(task))


def test_routes_of_new_posts_hold_what_is_expected() -> None:
    chosen = chosen_on(posts(1500, 0))
    new = posts(4000, 1)
    new.loc[7, "text"] = "nan"
    parts: list[pd.DataFrame] = []
    found = decide_posts(
        Fixed(TWO), [new.iloc[:1000], new.iloc[1000:]], chosen, lambda _, __, d, ___: parts.append(d), Progress()
    )
    decisions = pd.concat(parts, ignore_index=True)
    assert found.routes == {"act": 0, "review": 0, "allow": 0, **decisions["route"].value_counts().to_dict()}
    assert (found.posts, found.without_prediction) == (4000, 1)
    assert decisions["route"][7] == "review"
    bad = (new["label"] == "<b>bad").to_numpy()
    assert bad[decisions["route"] == "act"].mean() >= 0.85
    assert bad[decisions["route"] == "allow"].sum() <= 0.1 * bad.sum()
    about = expected(chosen, found)
    wrong = (~bad[decisions["route"] == "act"]).sum()
    assert about["act"]["errors"]["low"] < wrong < about["act"]["errors"]["high"]
    page = decide_report(chosen, found, run="<i>run", posts="a&b")
    check_page(page)
    assert "<b>bad" not in page
    assert "<i>run" not in page


def test_several_labels_are_decided_on_one_by_one() -> None:
    task = MultiLabel.learn(["bad|fine", "bad", "fine", "bad", "fine|bad"])
    frame = posts(800, 2, ("fine", "fine|bad"))
    at = task.outputs.index("bad")
    policy = make_policy({"class": "bad", "act": {"precision": 0.8}})

    class Second(Fixed):
        def score(self, read: Any) -> Scores:
            scores = super().score(read)
            return replace(scores, predictions=scores.predictions[:, [1, 0]]) if at == 0 else scores

    labelled = score_labelled(Second(task), [frame], "bad")
    assert labelled.positive.tolist() == frame["label"].eq("fine|bad").tolist()
    assert labelled.scores.tolist() == pytest.approx(frame["text"].astype(float).tolist())
    chosen = choose_thresholds(policy, labelled, Second(task))
    assert chosen.thresholds["act"] is not None
    assert chosen.thresholds["allow"] is None
    assert unreachable(chosen) == []


def test_a_number_has_no_class() -> None:
    task = Regression.learn(["1.5", "2.5", "3.0"])
    with pytest.raises(CotuneError, match="a policy is about a class"):
        score_labelled(Fixed(task), [posts(10, 0)], "bad")


def test_training_posts_and_posts_without_labels_are_refused() -> None:
    frame = posts(50, 0)
    with pytest.raises(CotuneError, match="the run was trained on"):
        score_labelled(Fixed(TWO, data_hash(frame)), [frame], "fine")
    with pytest.raises(CotuneError, match="no post can be scored"):
        score_labelled(Fixed(TWO), [frame.assign(label=None)], "fine")
    some = frame.assign(label=pd.Series([None, "odd", *frame["label"][2:]], dtype=object))
    found = score_labelled(Fixed(TWO), [some], "fine")
    assert len(found.scores) == 48
    assert found.left_out["no label"] == found.left_out["unknown label"] == 1


def test_a_model_that_does_not_know_its_training_posts_says_so() -> None:
    said: list[str] = []

    class Told(Progress):
        def say(self, message: str) -> None:
            said.append(message)

    score_labelled(Fixed(TWO), [posts(50, 0)], "fine", Told())
    assert "keeps no hashes of its training posts" in said[-1]


def test_a_class_that_is_not_known_is_refused() -> None:
    with pytest.raises(CotuneError, match="'fin' is not known to the run .did you mean 'fine'"):
        chosen_on(posts(20, 0), policy=make_policy({"class": "fin", "act": {"precision": 0.8}}))


def test_what_cannot_be_reached_says_why() -> None:
    strict = make_policy({"class": "<b>bad", "act": {"precision": 0.99}, "allow": {"recall": 0.99}})
    few = unreachable(chosen_on(posts(100, 0), policy=strict))
    assert "takes more than 321 labelled posts, and there are 100" in few[0]
    assert "at least 299 labelled posts of the class" in few[1]
    assert few[2] == "every post goes to review"
    assert "with 95% confidence" in few[0]
    sure = strict.model_copy(update={"confidence": 0.999})
    assert "with 99.9% confidence" in unreachable(chosen_on(posts(100, 0), policy=sure))[0]
    many = unreachable(chosen_on(posts(1000, 0), policy=make_policy({"class": "<b>bad", "act": {"precision": 0.995}})))
    assert "too often wrong" in many[0]


def test_risk_and_coverage() -> None:
    positive, scores = np.array([True, True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    curve = risk_coverage(positive, scores, points=5)
    assert [row["coverage"] for row in curve] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert [row["act_risk"] for row in curve] == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])
    assert [row["allow_risk"] for row in curve] == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 1])
    assert all(row["act_risk_low"] <= row["act_risk"] <= row["act_risk_high"] for row in curve)
    nobody = risk_coverage(np.zeros(4, dtype=bool), np.arange(4.0), points=2)
    assert [row["allow_risk"] for row in nobody] == [None, None]
