"""The sentence that a benchmark opens with, and its notices: one test for each rule."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cotune.benchmark import compare
from cotune.benchmark.compare import Summary
from cotune.benchmark.results import RowKey
from cotune.metrics import Estimate
from cotune.report import benchmark_figures as figures
from cotune.report.benchmark_verdict import answer, benchmark_notices, by_score, outcome, phrase
from cotune.report.pages import standalone


def row(method: str, auc: float, test: compare.Test | None = None, *, done: int = 10, text: str = "hf:a/t", width: float = 0.02,
        image: str = "timm:i") -> Summary:  # fmt: skip
    scores = {"auc": Estimate(auc, auc - width / 2, auc + width / 2)} if done == 10 else {}
    return Summary(RowKey(method, text, image), done, 10, auc, 0.01, np.full(10, auc), scores, 1e6, 1e5, 9.0, test)


def versus(gap: float, p: float, posts: float | None = None) -> compare.Test:
    """Return a test with a corrected p over folds, and over posts."""
    posts = p if posts is None else posts
    return compare.Test(gap, gap - 0.01, gap + 0.01, posts, gap, p, "paired bootstrap", p_holm=posts, fold_p_holm=p)


def results(*, n: int = 3000, failures: int = 0, **task: Any) -> Any:
    what = {"main_title": "AUC", "main_score": "auc", **task}
    folds = SimpleNamespace(task=SimpleNamespace(**what), ids=range(n))
    return SimpleNamespace(folds=folds, failures={f"cell {i}": "broken" for i in range(failures)})


JOINT = row("joint", 0.847)


def test_better_worse_and_level_rows_are_named_in_one_sentence() -> None:
    rows = [row("text", 0.812, versus(0.035, 0.042)), JOINT, row("concat", 0.85, versus(-0.003, 0.326))]
    assert answer(results(), rows) == (
        "Joint fine-tuning is better than the text encoder alone by 0.035 AUC (p = .042), and does not differ clearly from "
        "plain concatenation (p = .326)."
    )
    worse = [JOINT, row("svm", 0.9, versus(-0.053, 0.0004))]
    assert answer(results(), worse) == (
        "Joint fine-tuning is worse than an SVM on frozen embeddings by 0.053 AUC (p < .001)."
    )
    level = [JOINT, *(row(name, 0.84, versus(0.004, 0.5)) for name in ("text", "image", "svm", "probe", "clip"))]
    assert "and 2 more" in answer(results(), level)


def test_of_many_better_rows_the_nearest_and_the_farthest_are_named() -> None:
    gaps = {"text": 0.035, "image": 0.106, "svm": 0.054, "probe": 0.025}
    rows = [JOINT, *(row(name, 0.847 - gap, versus(gap, gap / 10)) for name, gap in gaps.items())]
    assert answer(results(), rows) == (
        "Joint fine-tuning is better than all 4 other methods, by 0.025 (the fusion head on frozen encoders) to 0.106 "
        "(the image encoder alone) AUC, each with p of at most .011."
    )
    rows.append(row("concat", 0.847, versus(0, 0.9)))
    assert "better than 4 of 5 other methods" in answer(results(), rows)


def test_a_claim_needs_the_stricter_test_and_says_where_the_tests_disagree() -> None:
    test = versus(0.009, 0.063, posts=0.008)
    assert outcome(test) == "level"
    assert outcome(replace(test, fold_p_holm=math.nan)) == "better"
    assert outcome(replace(test, fold_p_holm=math.nan, p_holm=math.nan)) == "level"
    rows = [JOINT, row("ensemble", 0.838, test)]
    assert answer(results(), rows).startswith(
        "Joint fine-tuning does not differ clearly from the mean of a text and an"
    )
    (second, disagree) = benchmark_notices(results(), rows)
    assert "Joint fine-tuning leads" in second.text
    assert "on these posts; over folds" in disagree.text
    assert "p = .008" in disagree.text


def test_without_the_reference_or_any_score_the_sentence_says_so() -> None:
    assert answer(results(), [row("text", 0.8), row("svm", 0.7)]) == (
        "Joint fine-tuning was not measured; the highest mean AUC, 0.8000, is that of the text encoder alone."
    )
    assert "Nothing was compared on all posts yet" in answer(results(), [row("joint", 0.8, done=3)])
    assert answer(results(), []) == answer(results(), [row("joint", math.nan, done=0)])
    assert benchmark_notices(results(), []) == []


def test_a_grid_names_its_best_pair_and_how_many_are_near() -> None:
    pairs = [row("joint", auc, text=f"hf:a/{name}") for name, auc in (("x", 0.85), ("y", 0.845), ("z", 0.8))]
    assert answer(results(), pairs, ["joint"]) == (
        "Of 3 pairs of encoders, x + i has the highest AUC (0.8500), but 1 of the others lies within its 95 % interval, "
        "so that their order is uncertain."
    )
    assert "no other reaches" in answer(results(), [pairs[0], pairs[2]], ["joint"])
    assert phrase(pairs[0], pairs) == "joint fine-tuning (x + i)"
    assert benchmark_notices(results(), pairs, ["joint"]) == []


@pytest.mark.parametrize(
    ("rows", "more", "level", "words"),
    [
        ([JOINT], {"failures": 1}, "problem", "1 cell failed: the figures below lack it."),
        ([JOINT], {"failures": 2}, "problem", "2 cells failed: the figures below lack them."),
        ([JOINT, row("text", 0.8, done=4)], {}, "warning", "1 of 2 rows lack folds (down to 4 of 10)"),
        ([row("joint", 0.52, width=0.06)], {}, "warning", "may be chance"),
        ([row("joint", 0.8, width=0.14)], {"n": 90}, "warning", "Few posts: 90 leave an interval of 0.14"),
        ([JOINT, row("concat", 0.85, versus(-0.003, 0.3))], {}, "note", "not that of joint fine-tuning (0.8470) but of "
         "plain concatenation (0.8500); the two do not differ clearly (p = .300)"),
        ([JOINT, row("concat", 0.9, versus(-0.053, 0.001))], {}, "warning", "the difference is clear (p = .001)"),
    ],
)  # fmt: skip
def test_each_notice(rows: list[Summary], more: dict[str, Any], level: str, words: str) -> None:
    (notice,) = benchmark_notices(results(**more), rows)
    assert notice.level == level
    assert words in notice.text


def test_no_notice_where_there_is_nothing_to_notice_and_the_gravest_first() -> None:
    assert benchmark_notices(results(), [JOINT, row("text", 0.8, versus(0.047, 0.001))]) == []
    rows = [row("joint", 0.53, width=0.2), row("text", 0.6, versus(-0.07, 0.5))]
    assert [n.level for n in benchmark_notices(results(failures=3), rows)] == ["problem", "warning", "warning", "note"]


def test_rows_are_sorted_by_their_score_and_those_without_come_last() -> None:
    rows = [row("svm", math.nan), row("text", 0.7), row("joint", 0.9)]
    assert [s.key.method for s in by_score(rows)] == ["joint", "text", "svm"]


def test_the_forest_has_a_zero_line_and_hollow_marks_where_it_is_crossed() -> None:
    rows = [JOINT, row("text", 0.81, versus(0.035, 0.04)), row("concat", 0.85, versus(-0.003, 0.3))]
    drawn = figures.forest(rows, "AUC")
    assert drawn.count('class="zero"') == 1
    assert (drawn.count('class="gap"'), drawn.count('class="gap level"')) == (1, 1)
    assert "Both, concatenated −0.003 [−0.013, +0.007]; Text encoder alone +0.035" in drawn, "the alt text says it all"
    assert figures.forest([JOINT], "AUC") == ""


def test_a_chart_can_be_a_file_of_its_own() -> None:
    from xml.etree import ElementTree

    drawn = figures.forest([JOINT, row("concat", 0.85, versus(-0.003, 0.3))], "AUC")
    image = standalone(drawn)
    root = ElementTree.fromstring(image)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    used = {name for part in root.iter() for name in (part.get("class") or "").split()}
    for name in used - {"halo", "level", "mid", "start", "end", "name", "tick"}:
        assert f"svg .{name}" in image, name
    for variable in ("--ink", "--card", "--soft", "--grid", "--c7"):
        assert image.count(f"{variable}:") == 2, "in light and dark"
