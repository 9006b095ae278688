"""Reports: one page, nothing from outside, everything escaped, every number readable."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.evaluation import evaluate_posts
from cotune.model import JointModel
from cotune.predict import Predictor
from cotune.report.drawing import nice_ticks, spread, whole_ticks
from cotune.report.run_charts import calibration_chart, training_chart
from cotune.report.run_report import MATRIX_CLASSES, evaluation_report, run_report
from cotune.run import Run
from cotune.tasks.single_label import SingleLabel
from pages import check_page
from runs import tiny_fit
from tiny import Zoo, make_posts

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def fitted(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_fit(zoo, tmp_path_factory.mktemp("report"), tune="joint", classes=3, n=36, validation=0.3).run


def test_a_run_shows_scores_curves_matrix_parameters_and_settings(fitted: Run) -> None:
    page = run_report(fitted, name="mine")
    check_page(page)
    scores = fitted.metrics["validation"]["scores"]
    for estimate in scores.values():
        assert f"{estimate['value']:.3f}" in page
        assert f"{estimate['low']:.3f} to {estimate['high']:.3f}" in page
    for row in fitted.metrics["history"]:
        assert f"{row['train_loss']:.4f}" in page
    assert f"{fitted.model.parameter_counts()['total']:,}" in page
    for title in ("Loss: training from", "Validation AUC: validation AUC from", "Calibration: ", "ROC by class: class0 AUC",
                  "Precision and recall by class: class0 average"):  # fmt: skip
        assert page.count(f'aria-label="{title}') == 1, "one chart over both stages, and alt texts that say the finding"
    assert page.count('class="border"') == 2, "the border between probe and joint fine-tuning in each"
    for words in ("class0", "probe-epochs", "data hash", "Rows are true classes", "true \\ predicted"):
        assert words in page
    assert re.search(r'class="changed"><dt>tune</dt><dd>joint</dd>', page)


def test_an_evaluation_counts_what_was_left_out(fitted: Run, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "new", 15, gaps=False, classes=3, seed=4)
    posts.loc[0, "label"] = None
    Path(posts["image"][1]).write_bytes(b"")
    result = evaluate_posts(Predictor(fitted, device="cpu"), [posts], n_bootstrap=30)
    page = evaluation_report(fitted, result, name="mine", posts="new.csv")
    check_page(page)
    for words in ("mine on new.csv", "Left out: no label", "Left out: no prediction", "Scores on 13 posts"):
        assert words in page


def with_classes(run: Run, classes: Sequence[str], metrics: dict[str, Any]) -> Run:
    """Return a run with other classes and metrics."""
    return Run(JointModel(run.model.encoders, run.model.head, SingleLabel(classes)).eval(), run.config, metrics)


def test_labels_and_names_are_escaped(fitted: Run) -> None:
    names = (EVIL, "b & c", '"quoted"')
    metrics = {**fitted.metrics, "posts": {"train": 3, "labels": dict.fromkeys(names, 1)}}
    metrics["validation"] = {
        **metrics["validation"],
        "classes": list(names),
        "per_class": dict(zip(names, metrics["validation"]["per_class"].values(), strict=True)),
    }
    page = run_report(with_classes(fitted, names, metrics), name=EVIL)
    check_page(page)
    assert EVIL not in page
    assert "&lt;script&gt;" in page


def test_a_run_without_held_out_posts_or_interrupted_says_so(fitted: Run) -> None:
    metrics = {key: value for key, value in fitted.metrics.items() if key != "validation"}
    page = run_report(Run(fitted.model, fitted.config, {**metrics, "status": "interrupted"}), name="x")
    check_page(page)
    assert "nothing was measured" in page
    assert "Interrupted." in page
    check_page(run_report(Run(fitted.model, fitted.config), name="bare"))


def test_many_classes_become_a_list_of_confusions(fitted: Run) -> None:
    n = MATRIX_CLASSES + 1
    names = [f"label {i}" for i in range(n)]
    counts = [[9 if i == j else (5 if j == i + 1 else 0) for j in range(n)] for i in range(n)]
    one = {"precision": None, "recall": 0.5, "f1": None, "support": 3}
    scores = {**fitted.metrics["validation"], "classes": names, "confusion": counts}
    scores["per_class"] = dict.fromkeys(names, one)
    page = run_report(with_classes(fitted, names, {"validation": scores}), name="many")
    check_page(page)
    assert "most frequent confusions" in page
    assert 'class="matrix"' not in page


def test_scores_that_do_not_exist_are_dashes(fitted: Run) -> None:
    nothing = {"value": None, "low": None, "high": None}
    scores = {**fitted.metrics["validation"], "scores": {"auc": nothing}, "calibration": []}
    page = run_report(Run(fitted.model, fitted.config, {"validation": scores}), name="x")
    check_page(page)
    assert "- to -" not in page


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (0, 1), (-3.2, 1e4), (0.8149, 0.8151), (1e-9, 1e-8), (7, 7)])
def test_ticks_enclose_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9


def test_lines_of_any_length() -> None:
    stages = [("probe", 1), ("joint", 199)]
    assert training_chart({"loss": [None, float("nan")]}, title="t", stages=stages) == ""
    for values in ([0.5], [1.0, None, 0.5], [float(i) for i in range(200)], [0.3] * 5):
        chart = training_chart({"loss": values}, title="Loss", stages=stages)
        assert "nan" not in chart
        assert chart.count('class="mark') == sum(value is not None for value in values)
    assert whole_ticks(1) == [1]
    assert len(whole_ticks(1000)) <= 7


def test_both_stages_share_an_axis_and_ends_that_meet_are_told_apart() -> None:
    lines = {"training": [0.9, 0.5, 0.5, 0.41], "validation": [0.9, 0.6, None, 0.41]}
    chart = training_chart(lines, title="Loss", stages=[("probe", 2), ("joint", 2)])
    assert chart.count('class="border"') == 1
    assert chart.count("<polyline") == 3, "a gap divides a line"
    ends = [float(y) for y in re.findall(r'class="name start" x="[^"]*" y="([^"]*)"', chart)]
    assert abs(ends[0] - ends[1]) >= 13
    assert "training from 0.900 to 0.410, lowest 0.410 in epoch 4, highest 0.900 in epoch 1" in chart
    assert "epochs: 2 of probe and 2 of joint" in chart


@given(st.lists(st.floats(0, 100), max_size=9))
def test_labels_are_spread_in_their_order_and_apart(places: list[float]) -> None:
    found = spread(places, 12)
    order = sorted(range(len(places)), key=lambda i: places[i])
    assert all(found[b] - found[a] >= 12 - 1e-6 for a, b in zip(order, order[1:], strict=False))
    if len(places) == 1:
        assert found == places


def test_calibration_has_bars_with_counts_inside_its_frame() -> None:
    bins = [
        {"low": 0.93, "high": 1.0, "confidence": 0.98, "accuracy": 0.0, "n": 1},
        {"low": 0.4, "high": 0.47, "confidence": 0.44, "accuracy": 1.0, "n": 1900},
    ]
    chart = calibration_chart(bins)
    assert (chart.count('class="column"'), chart.count('class="column few"'), chart.count('class="column count"')) == (
        1,
        1,
        2,
    )
    assert "0% right of 1" in chart
    assert ">1.9k<" in chart
    assert "underconfident: mean confidence 44%, right 100%" in chart
    for x, width in re.findall(r'<rect class="[^"]*" x="([^"]*)" y="[^"]*" width="([^"]*)"', chart):
        assert float(x) >= 46
        assert float(x) + float(width) <= 360 - 14
    wider = calibration_chart(bins, low=0.2)
    assert re.findall(r' x="([^"]*)"', wider) != re.findall(r' x="([^"]*)"', chart)
