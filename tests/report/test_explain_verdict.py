"""What the page of an explained table opens with: one test for each rule."""

from __future__ import annotations

from typing import Any

import pytest

from cotune.report.explain_verdict import explain_notices


def summary(**more: Any) -> dict[str, Any]:
    """Return the summary of a table in which text and image both count, changed by `more`."""
    share = more.pop("share", 0.6)
    return {
        "fields": ["text", "image"], "posts": 1000, "scored": 1000, "errors": 0, "with_both": 1000, "notes": [],
        "removed": {"text": "learned", "image": "learned"}, "emap": None,
        "text_share": {"mean": share}, "image_share": {"mean": 1 - share},
        "of_posts_with_both": {"pull_apart": 0.3, "flips_without_text": 0.4, "flips_without_image": 0.1},
        **more,
    }  # fmt: skip


def emap(same: float, accuracy: float | None, additive: float | None) -> dict[str, Any]:
    return {"posts": 500, "labelled": 400, "same_label": same, "accuracy": accuracy, "additive_accuracy": additive}


@pytest.mark.parametrize(
    ("more", "level", "words"),
    [
        ({}, "note", "Both fields count (mean shares: the text 60%, the image 40%), and the two disagree in 30% of the"),
        ({"share": 0.85}, "note", "The text drives nearly everything: its mean share is 85%; without the image the "
         "label flips in 10% of the posts."),
        ({"share": 0.1}, "note", "The image drives nearly everything: its mean share is 90%; without the text the label"),
    ],
)  # fmt: skip
def test_which_field_drives_the_predictions_is_said_first(more: dict[str, Any], level: str, words: str) -> None:
    (notice,) = explain_notices(summary(**more))
    assert notice.level == level
    assert words in notice.text


@pytest.mark.parametrize(
    ("more", "level", "words"),
    [
        ({"notes": ["these are its training posts"]}, "warning", "These are its training posts."),
        ({"removed": {"text": "zeros", "image": "learned"}}, "warning", "trained without posts that lack the text"),
        ({"errors": 50}, "warning", "50 of 1,000 posts (5%) have no prediction"),
        ({"scored": 99, "posts": 99}, "warning", "Only 99 posts"),
        ({"scored": 1, "posts": 1}, "warning", "Only 1 post:"),
        ({"emap": emap(0.99, 0.7, 0.695)}, "note", "adds nothing measurable: adding up a part of each gives the same "
         "label in 99.0% of 500 posts"),
        ({"emap": emap(0.99, None, None)}, "note", "adds nothing measurable"),
        ({"emap": emap(0.9, 0.7, 0.65)}, "note", "on 400 posts falls from 70.0% to 65.0%"),
    ],
)  # fmt: skip
def test_each_notice(more: dict[str, Any], level: str, words: str) -> None:
    usual = explain_notices(summary())
    (notice,) = [notice for notice in explain_notices(summary(**more)) if notice not in usual]
    assert notice.level == level
    assert words in notice.text


def test_what_is_in_order_is_not_mentioned() -> None:
    usual = explain_notices(summary())
    for more in ({"errors": 49}, {"scored": 100, "posts": 100}, {"emap": emap(0.97, 0.7, 0.695)}):
        assert explain_notices(summary(**more)) == usual


def test_a_table_without_predictions_is_a_problem_and_the_gravest_comes_first() -> None:
    nothing = summary(errors=10, posts=10, scored=0, with_both=0)
    assert [notice.level for notice in explain_notices(nothing)] == ["problem"]
    several = explain_notices(summary(errors=500, notes=["seen"], share=0.9))
    assert [notice.level for notice in several] == ["warning", "warning", "note"]


def test_three_fields_have_no_pair() -> None:
    three = summary(
        fields=["text", "image", "table"], table_share={"mean": 0.05}, of_posts_with_both={"pull_apart": 0.5}
    )
    (notice,) = explain_notices(three)
    assert "More than one field counts (mean shares: the text 60%, the image 40%, the table 5%)" in notice.text
    assert "fields disagree in 50%" in notice.text
