"""Multi-label scores: against scikit-learn, with resamples, and on the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from cotune.errors import DataError
from cotune.metrics import evaluate_sheet
from cotune.metrics.multi_label import MULTI_LABEL_SCORES, MultiLabelSheet, best_f1_threshold, per_label


def made(n, k, seed, decimals=None):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (n, k)).astype(float)
    proba = 1 / (1 + np.exp(-rng.normal(size=(n, k)) - targets))
    return targets, proba if decimals is None else proba.round(decimals)


cases = st.builds(made, st.integers(1, 40), st.integers(1, 5), st.integers(0, 10_000), st.sampled_from([None, 0, 1]))


def expected(targets, proba, thresholds):
    predicted = proba >= thresholds
    both = [k for k in range(targets.shape[1]) if 0 < targets[:, k].sum() < len(targets)]
    some = [k for k in range(targets.shape[1]) if targets[:, k].any()]
    used = [k for k in range(targets.shape[1]) if targets[:, k].any() or predicted[:, k].any()]
    flat, everything = targets.ravel(), proba.ravel()

    def mean(values):
        return np.mean(values) if values else math.nan

    return {
        "auc": mean([sk.roc_auc_score(targets[:, k], proba[:, k]) for k in both]),
        "micro_auc": sk.roc_auc_score(flat, everything) if 0 < flat.sum() < len(flat) else math.nan,
        "mean_average_precision": mean([sk.average_precision_score(targets[:, k], proba[:, k]) for k in some]),
        "micro_f1": sk.f1_score(flat, predicted.ravel()) if used else math.nan,
        "macro_f1": mean([sk.f1_score(targets[:, k], predicted[:, k]) for k in used]),
        "subset_accuracy": np.mean((predicted == targets).all(axis=1)),
        "log_loss": sk.log_loss(flat, everything, labels=[0, 1]),
    }


def scores(sheet, counts):
    return {name: function(sheet, counts) for name, function in MULTI_LABEL_SCORES.items()}


@given(cases, st.integers(0, 1000))
@settings(deadline=None)
def test_every_score_matches_scikit_learn_on_every_resample(case, seed):
    targets, proba = case
    rng = np.random.default_rng(seed)
    thresholds = rng.uniform(0.2, 0.8, targets.shape[1])
    counts = rng.multinomial(len(targets), np.full(len(targets), 1 / len(targets)), size=3).astype(float)
    counts[0] = 1
    found = scores(MultiLabelSheet.of(targets, proba, thresholds), counts)
    for b, row in enumerate(counts.astype(int)):
        drawn = np.repeat(np.arange(len(targets)), row)
        for name, value in expected(targets[drawn], proba[drawn], thresholds).items():
            assert found[name][b] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_micro_auc_is_the_same_in_blocks(monkeypatch):
    targets, proba = made(30, 4, 0)
    counts = np.random.default_rng(0).integers(0, 3, (7, 30)).astype(float)
    sheet = MultiLabelSheet.of(targets, proba)
    whole = sheet.micro_auc(counts)
    monkeypatch.setattr("cotune.metrics.multi_label.BLOCK", 1)
    assert np.array_equal(sheet.micro_auc(counts), whole)


def test_the_table_of_labels_matches_scikit_learn():
    targets, proba = made(60, 3, 1, decimals=1)
    thresholds = [0.3, 0.5, 0.7]
    table = per_label(MultiLabelSheet.of(targets, proba, thresholds), ["a", "b", "c"])
    assert list(table) == ["a", "b", "c"]
    for k, row in enumerate(table.values()):
        true, predicted = targets[:, k], proba[:, k] >= thresholds[k]
        assert row == {
            "precision": pytest.approx(sk.precision_score(true, predicted)),
            "recall": pytest.approx(sk.recall_score(true, predicted)),
            "f1": pytest.approx(sk.f1_score(true, predicted)),
            "auc": pytest.approx(sk.roc_auc_score(true, proba[:, k])),
            "average_precision": pytest.approx(sk.average_precision_score(true, proba[:, k])),
            "support": true.sum(),
            "threshold": thresholds[k],
        }


def test_what_is_undefined_is_none_in_the_table_and_nan_in_the_scores():
    targets, proba = np.zeros((4, 2)), np.full((4, 2), 0.1)
    sheet = MultiLabelSheet.of(targets, proba)
    row = per_label(sheet, ["a", "b"])["a"]
    assert row == {
        **dict.fromkeys(["precision", "recall", "f1", "auc", "average_precision"]),
        "support": 0,
        "threshold": 0.5,
    }
    found = {name: value[0] for name, value in scores(sheet, np.ones((1, 4))).items()}
    assert all(math.isnan(found[name]) for name in ("auc", "micro_auc", "mean_average_precision", "micro_f1"))
    assert found["subset_accuracy"] == 1
    assert found["log_loss"] == pytest.approx(-math.log(0.9))


def test_intervals_surround_the_scores():
    targets, proba = made(80, 3, 2)
    found = evaluate_sheet(MultiLabelSheet.of(targets, proba), MULTI_LABEL_SCORES, {}, n=80, n_bootstrap=200)
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in found.scores.values())


@pytest.mark.parametrize(
    ("targets", "proba", "thresholds", "message"),
    [
        (np.zeros((0, 2)), np.zeros((0, 2)), None, "no posts"),
        (np.zeros(3), np.zeros(3), None, "shape"),
        (np.zeros((3, 2)), np.zeros((3, 3)), None, r"\(3, 2\).*\(3, 3\)"),
        ([[0, 2]], [[0.5, 0.5]], None, "row 0: a target is neither 0 nor 1"),
        ([[0, 1], [0, 1]], [[0.5, 0.5], [0.5, math.nan]], None, "row 1: a probability"),
        ([[0, 1]], [[0.5, 1.5]], None, "sigmoid"),
        ([[0, 1]], [[0.5, 0.5]], [0.5], "2 labels need as many thresholds"),
    ],
)
def test_bad_tables_are_refused(targets, proba, thresholds, message):
    with pytest.raises(DataError, match=message):
        MultiLabelSheet.of(targets, proba, thresholds)


@given(st.integers(1, 40), st.integers(0, 1000), st.sampled_from([None, 1]))
@settings(deadline=None)
def test_no_cut_between_probabilities_has_a_better_f1_than_the_chosen_one(n, seed, decimals):
    targets, proba = made(n, 1, seed, decimals)
    positive, proba = targets[:, 0] == 1, proba[:, 0]

    def f1(cut):
        return sk.f1_score(positive, proba >= cut, zero_division=0)

    chosen = best_f1_threshold(positive, proba)
    values = np.unique(proba)
    best = max(f1(cut) for cut in [0.5, *(values[:-1] + values[1:]) / 2])
    assert f1(chosen) == pytest.approx(best)
    if f1(0.5) == pytest.approx(best):
        assert chosen == 0.5


def test_a_threshold_between_neighbouring_floats_keeps_them_apart():
    low = np.float64(0.1)
    high = np.nextafter(low, 1)
    proba = np.array([low, low, high, high])
    cut = best_f1_threshold(np.array([False, False, True, True]), proba)
    assert (proba >= cut).tolist() == [False, False, True, True]
