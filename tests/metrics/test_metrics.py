"""Scores, intervals and paired tests: against scikit-learn, by invariance, and on the edges."""

from __future__ import annotations

import inspect
import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from cotune.errors import ConfigError, CotuneError, DataError
from cotune.metrics import (
    SCORE_NAMES,
    bootstrap_interval,
    confusion_matrix,
    delong_covariance,
    delong_test,
    evaluate,
    holm,
    paired_bootstrap_auc,
    roc_auc,
    score,
)


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def made(n, n_classes, seed, *, signal=1.0, decimals=None):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes)) + signal * np.eye(n_classes)[y]
    if decimals is not None:  # coarse logits make ties
        logits = logits.round(decimals)
    return y, softmax(logits)


cases = st.tuples(st.integers(2, 60), st.integers(2, 5), st.integers(0, 10_000), st.sampled_from([None, 0, 1])).map(
    lambda t: made(t[0], t[1], t[2], decimals=t[3])
)


@given(cases)
@settings(deadline=None)
def test_auc_matches_scikit_learn(case):
    y, proba = case
    present = np.unique(y)
    if len(present) < 2:
        assert math.isnan(roc_auc(y, proba))
        return
    columns = [1] if proba.shape[1] == 2 else present
    expected = np.mean([sk.roc_auc_score(y == k, proba[:, k]) for k in columns])
    assert roc_auc(y, proba) == pytest.approx(expected, abs=1e-12)


@given(cases)
@settings(deadline=None)
def test_scores_match_scikit_learn(case):
    y, proba = case
    found = score(y, proba)
    predicted = proba.argmax(axis=1)
    labels = range(proba.shape[1])
    assert tuple(found) == SCORE_NAMES
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, predicted))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(y, predicted, average="macro"))
    assert found["weighted_f1"] == pytest.approx(sk.f1_score(y, predicted, average="weighted"))
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, proba, labels=labels))
    if "labels" in inspect.signature(sk.brier_score_loss).parameters:  # scikit-learn 1.7 or newer
        assert found["brier"] == pytest.approx(
            sk.brier_score_loss(y, proba, labels=list(labels), scale_by_half=False)
            if proba.shape[1] > 2
            else 2 * sk.brier_score_loss(y, proba[:, 1], pos_label=1, labels=[0, 1])
        )
    assert (confusion_matrix(y, proba) == sk.confusion_matrix(y, predicted, labels=labels)).all()


@given(cases, st.integers(0, 1000))
@settings(deadline=None)
def test_order_of_posts_does_not_matter(case, seed):
    y, proba = case
    order = np.random.default_rng(seed).permutation(len(y))
    assert score(y[order], proba[order]) == pytest.approx(score(y, proba), nan_ok=True)


@given(cases)
@settings(deadline=None)
def test_auc_sees_only_the_order_of_scores(case):
    y, proba = case
    ranks = np.unique(proba, return_inverse=True)[1].reshape(proba.shape)
    assert roc_auc(y, ranks**3 - 5) == pytest.approx(roc_auc(y, proba), nan_ok=True)


@given(cases)
@settings(deadline=None)
def test_renaming_classes_changes_nothing(case):
    y, proba = case[0], case[1].round(9)  # so that p and 1 - p have the same ties
    n_classes = proba.shape[1]
    flipped = score(n_classes - 1 - y, proba[:, ::-1])
    plain = score(y, proba)
    del plain["accuracy"], plain["macro_f1"], plain["weighted_f1"], plain["calibration_error"]  # argmax ties
    assert {name: flipped[name] for name in plain} == pytest.approx(plain, nan_ok=True)


@given(cases)
@settings(deadline=None)
def test_doubling_every_post_changes_nothing(case):
    y, proba = case
    assert score(np.tile(y, 2), np.tile(proba, (2, 1))) == pytest.approx(score(y, proba), nan_ok=True)


def test_calibration_error_by_hand():
    """Of 15 equal bins of confidence: the gap between mean confidence and accuracy, weighted by posts."""
    y, proba = made(500, 3, 3)
    confidence, right = proba.max(axis=1), proba.argmax(axis=1) == y
    gaps = []
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            gaps.append(inside.sum() * abs(confidence[inside].mean() - right[inside].mean()))
    assert score(y, proba)["calibration_error"] == pytest.approx(sum(gaps) / 500, abs=1e-12)


def test_perfect_predictions():
    y = np.arange(30) % 3
    found = score(y, np.eye(3)[y])
    assert found["auc"] == found["accuracy"] == found["macro_f1"] == found["weighted_f1"] == 1
    assert found["log_loss"] == found["brier"] == found["calibration_error"] == 0


def test_perfectly_wrong_predictions_stay_finite():
    y = np.arange(30) % 2
    found = score(y, np.eye(2)[1 - y])
    assert found["auc"] == found["accuracy"] == 0
    assert found["brier"] == 2
    assert 36 < found["log_loss"] < 37


def test_constant_predictions_are_chance():
    y = np.arange(30) % 3
    found = score(y, np.full((30, 3), 1 / 3))
    assert found["auc"] == 0.5
    assert found["calibration_error"] == pytest.approx(0, abs=1e-12)


def test_a_class_without_posts_is_left_out_of_the_mean():
    y, proba = made(80, 3, 5)
    y = np.where(y == 2, 1, y)
    expected = np.mean([sk.roc_auc_score(y == k, proba[:, k]) for k in (0, 1)])
    assert roc_auc(y, proba) == pytest.approx(expected)
    found = evaluate(y, proba, ["a", "b", "c"], n_bootstrap=50)
    assert found.details["per_class"]["c"]["support"] == 0
    assert found.details["per_class"]["c"]["recall"] is None


@pytest.mark.parametrize("n_classes", [1, 2, 3])
def test_one_class_has_no_auc_but_other_scores(n_classes):
    proba = np.full((5, n_classes), 1 / n_classes)
    found = evaluate(np.zeros(5, int), proba, list("abc")[:n_classes], n_bootstrap=20)
    assert math.isnan(found.scores["auc"].value)
    assert math.isnan(found.scores["auc"].low)
    assert found.scores["accuracy"].value == 1
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("y", "proba", "words"),
    [
        ([], np.empty((0, 2)), "no posts"),
        ([0, 1], [[0.5, 0.5]], "shape"),
        ([0], [0.5], "shape"),
        ([0, 2], [[0.5, 0.5]] * 2, "row 1: label 2"),
        ([0, -1], [[0.5, 0.5]] * 2, "row 1: label -1"),
        ([0, 0.5], [[0.5, 0.5]] * 2, "class numbers"),
        (["a", "b"], [[0.5, 0.5]] * 2, "class numbers"),
        ([0, 1], [[0.5, 0.5], [np.nan, 0.5]], "row 1"),
        ([0, 1], [[0.5, 0.5], [np.inf, 0.5]], "row 1"),
        ([0, 1], [[0.5, 0.5], [3.0, -2.0]], "softmax"),
        ([0, 1], [[0.5, 0.5], [0.9, 0.9]], "softmax"),
    ],
)
def test_bad_input_is_named(y, proba, words):
    with pytest.raises(DataError, match=words):
        score(y, proba)


def test_half_precision_probabilities_are_accepted():
    y, proba = made(50, 3, 0)
    assert score(y, proba.astype(np.float16))["auc"] == pytest.approx(score(y, proba)["auc"], abs=0.01)


def test_evaluation_agrees_with_score_and_is_repeatable():
    y, proba = made(200, 3, 1)
    found = evaluate(y, proba, ["neg", "neu", "pos"], n_bootstrap=200, seed=4)
    assert {name: e.value for name, e in found.scores.items()} == pytest.approx(score(y, proba))
    assert all(e.low <= e.high for e in found.scores.values())
    for name in ("auc", "accuracy", "macro_f1", "log_loss"):
        assert found.scores[name].low < found.scores[name].value < found.scores[name].high
    assert sum(map(sum, found.details["confusion"])) == found.n == 200
    precision, recall, f1, support = sk.precision_recall_fscore_support(y, proba.argmax(1))
    assert [c["precision"] for c in found.details["per_class"].values()] == pytest.approx(list(precision))
    assert [c["recall"] for c in found.details["per_class"].values()] == pytest.approx(list(recall))
    assert [c["f1"] for c in found.details["per_class"].values()] == pytest.approx(list(f1))
    assert [c["support"] for c in found.details["per_class"].values()] == list(support)
    assert found == evaluate(y, proba, ["neg", "neu", "pos"], n_bootstrap=200, seed=4)
    assert found != evaluate(y, proba, ["neg", "neu", "pos"], n_bootstrap=200, seed=5)
    json.dumps(found.to_dict(), allow_nan=False)


def test_resampled_scores_are_those_of_the_resampled_posts():
    y, proba = made(40, 3, 2, decimals=1)
    for name in SCORE_NAMES:
        fast = bootstrap_interval(y, proba, name, n_bootstrap=60, seed=3)
        slow = bootstrap_interval(y, proba, lambda a, b, k=name: score(a, b)[k], n_bootstrap=60, seed=3)
        assert fast.to_dict() == pytest.approx(slow.to_dict())


def test_interval_covers_about_as_often_as_it_says():
    # The accuracy of a coin that is right 70 times in 100.
    rng = np.random.default_rng(0)
    covered = 0
    for repeat in range(200):
        y = (rng.random(150) < 0.7).astype(int)
        proba = np.tile([0.3, 0.7], (150, 1))
        e = bootstrap_interval(y, proba, "accuracy", n_bootstrap=300, seed=repeat)
        covered += e.low <= 0.7 <= e.high
    assert 0.90 <= covered / 200 <= 0.99


def test_no_bootstrap_leaves_the_interval_open():
    y, proba = made(20, 2, 0)
    found = evaluate(y, proba, ["no", "yes"], n_bootstrap=0)
    assert math.isnan(found.scores["accuracy"].low)
    assert found.to_dict()["scores"]["accuracy"]["low"] is None


def test_wrong_settings_are_named():
    y, proba = made(20, 2, 0)
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        bootstrap_interval(y, proba, "acuracy")
    with pytest.raises(ConfigError, match="confidence"):
        evaluate(y, proba, ["no", "yes"], confidence=95)
    with pytest.raises(ConfigError, match="n_bootstrap"):
        evaluate(y, proba, ["no", "yes"], n_bootstrap=-1)
    with pytest.raises(DataError, match="class names"):
        evaluate(y, proba, ["no"])
    with pytest.raises(DataError, match="class names"):
        evaluate(y, proba, ["no", "no"])


def test_a_thousand_resamples_of_a_real_size_are_quick():
    y, proba = made(3561, 3, 0)
    start = time.perf_counter()
    evaluate(y, proba, ["neg", "neu", "pos"], n_bootstrap=1000)
    assert time.perf_counter() - start < 15  # under 2 s on an idle core


# Paired tests


def rivals(n, seed, *, gain=1.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    shared = rng.normal(size=n)
    a = y * (1.0 + gain) + shared + rng.normal(size=n)
    b = y * 1.0 + shared + rng.normal(size=n)
    return y, np.column_stack([-a, a]), np.column_stack([-b, b])


def test_delong_auc_and_variance_match_their_definition():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 60)
    scores = (y[:, None] + rng.normal(size=(60, 2))).round(1)  # with ties
    aucs, covariance = delong_covariance(y, scores)
    structural = []
    for k in range(2):
        pos, neg = scores[y == 1, k], scores[y == 0, k]
        wins = (pos[:, None] > neg) + 0.5 * (pos[:, None] == neg)
        structural.append((wins.mean(axis=1), wins.mean(axis=0)))
        assert aucs[k] == pytest.approx(sk.roc_auc_score(y, scores[:, k]))
    (v10a, v01a), (v10b, v01b) = structural
    expected = np.cov(v10a, v10b) / len(v10a) + np.cov(v01a, v01b) / len(v01a)
    assert covariance == pytest.approx(expected)


def test_delong_agrees_with_the_paired_bootstrap():
    y, a, b = rivals(400, 0, gain=0.4)
    exact = delong_test(y, a, b)
    drawn = paired_bootstrap_auc(y, a, b, n_bootstrap=2000, seed=1)
    assert drawn.auc_a == pytest.approx(exact.auc_a)
    assert drawn.difference == pytest.approx(exact.difference)
    assert (drawn.high - drawn.low) == pytest.approx(exact.high - exact.low, rel=0.12)
    assert exact.low < exact.difference < exact.high


def test_a_clear_gain_is_found_and_the_sign_is_a_minus_b():
    y, a, b = rivals(400, 2)
    for compare in (delong_test, paired_bootstrap_auc):
        found, swapped = compare(y, a, b), compare(y, b, a)
        assert found.difference > 0.05
        assert found.low > 0
        assert found.p_value < 0.01
        assert swapped.difference == pytest.approx(-found.difference)
        assert swapped.p_value == pytest.approx(found.p_value)


def test_delong_p_values_are_uniform_when_models_are_equally_good():
    p_values = [delong_test(*rivals(120, seed, gain=0.0)).p_value for seed in range(300)]
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.09
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)


def test_a_model_equals_itself():
    y, a, _ = rivals(100, 3)
    for compare in (delong_test, paired_bootstrap_auc):
        found = compare(y, a, a)
        assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_perfect_against_inverted_has_no_variance_and_no_doubt():
    y = np.arange(20) % 2
    assert delong_test(y, np.eye(2)[y], np.eye(2)[1 - y]).p_value == 0


def test_paired_bootstrap_with_three_classes():
    y, good = made(300, 3, 4, signal=2.0)
    poor = made(300, 3, 9, signal=0.0)[1]
    found = paired_bootstrap_auc(y, good, poor, n_bootstrap=300)
    assert found.low > 0.1
    assert found.p_value < 0.02
    json.dumps(found.to_dict(), allow_nan=False)


def test_paired_bootstrap_of_one_class_is_unknown():
    found = paired_bootstrap_auc([0, 0], [[0.5, 0.5]] * 2, [[0.4, 0.6]] * 2, n_bootstrap=10)
    assert math.isnan(found.p_value)
    assert found.to_dict()["difference"] is None


def test_paired_tests_refuse_what_they_cannot_compare():
    y, proba = made(30, 3, 0)
    with pytest.raises(DataError, match="two classes"):
        delong_test(y, proba, proba)
    with pytest.raises(DataError, match="two posts of each class"):
        delong_test([0, 1, 1], [[0.5, 0.5]] * 3, [[0.5, 0.5]] * 3)
    with pytest.raises(DataError, match="different classes"):
        paired_bootstrap_auc(y % 2, proba, proba[:, :2])
    with pytest.raises(CotuneError):
        delong_covariance([0, 1], [0.1, 0.2])
    with pytest.raises(ConfigError):
        paired_bootstrap_auc(y, proba, proba, n_bootstrap=0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).shape == (0,)
    assert holm([0.02, math.nan, 0.5]) == pytest.approx([0.04, math.nan, 0.5], nan_ok=True)
    with pytest.raises(DataError):
        holm([1.2])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_monotone_and_never_below_the_raw_value(p_values):
    adjusted = holm(p_values)
    assert (adjusted >= np.array(p_values)).all()
    assert (adjusted <= 1).all()
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
