"""Scores of numbers: against scikit-learn and scipy, with resamples, and on the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from cotune.errors import DataError
from cotune.metrics.regression import REGRESSION_SCORES, Midranks, RegressionSheet


def made(n, seed, decimals=None):
    rng = np.random.default_rng(seed)
    targets = rng.normal(50, 3, n)
    predictions = targets + rng.normal(0, 3, n)
    return (targets, predictions) if decimals is None else (targets.round(decimals), predictions.round(decimals))


cases = st.builds(made, st.integers(1, 40), st.integers(0, 10_000), st.sampled_from([None, 0, -1]))


def expected(true, found):
    constant = len(set(true)) == 1 or len(set(found)) == 1
    return {
        "mae": sk.mean_absolute_error(true, found),
        "rmse": math.sqrt(sk.mean_squared_error(true, found)),
        "r2": sk.r2_score(true, found) if len(set(true)) > 1 else math.nan,
        "spearman": math.nan if constant else stats.spearmanr(true, found).statistic,
        "pearson": math.nan if constant else stats.pearsonr(true, found).statistic,
    }


@given(cases, st.integers(0, 1000))
@settings(deadline=None)
def test_every_score_matches_scikit_learn_and_scipy_on_every_resample(case, seed):
    targets, predictions = case
    n = len(targets)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=3).astype(float)
    counts[0] = 1
    sheet = RegressionSheet.of(targets, predictions[:, None])
    for name, function in REGRESSION_SCORES.items():
        found = function(sheet, counts)
        for b, row in enumerate(counts.astype(int)):
            drawn = np.repeat(np.arange(n), row)
            assert found[b] == pytest.approx(
                expected(targets[drawn], predictions[drawn])[name], abs=1e-9, nan_ok=True
            ), name


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=20))
def test_midranks_are_those_of_the_repeated_values(pairs):
    values, counts = (np.array(part, dtype=float) for part in zip(*pairs, strict=True))
    repeated = np.repeat(values, counts.astype(int))
    ranks = Midranks(values).ranks(counts[None])[0]
    assert np.repeat(ranks, counts.astype(int)) == pytest.approx(stats.rankdata(repeated))


@pytest.mark.parametrize("constant", [0.1, 1e9 + 0.1, -3.0])
def test_a_constant_has_no_correlation_whatever_rounding_leaves(constant):
    counts = np.random.default_rng(0).integers(1, 9, (5, 7)).astype(float)
    sheet = RegressionSheet.of(np.arange(7), np.full(7, constant))
    assert np.isnan(sheet.pearson(counts)).all()
    assert np.isnan(sheet.spearman(counts)).all()
    assert np.isfinite(sheet.r2(counts)).all()
    assert np.isnan(RegressionSheet.of(np.full(7, constant), np.arange(7)).r2(counts)).all()


def test_a_perfect_prediction():
    sheet, once = RegressionSheet.of([1e8, 1e8 + 1, 1e8 + 2], [1e8, 1e8 + 1, 1e8 + 2]), np.ones((1, 3))
    assert {name: function(sheet, once)[0] for name, function in REGRESSION_SCORES.items()} == pytest.approx(
        {"mae": 0, "rmse": 0, "r2": 1, "spearman": 1, "pearson": 1}
    )


@pytest.mark.parametrize(
    ("targets", "predictions", "message"),
    [
        ([], [], "no posts"),
        ([1, 2], [1, 2, 3], r"\(2,\).*\(3,\)"),
        ([1, 2], [[1, 2], [1, 2]], r"\(2, 2\)"),
        ([1, math.inf], [1, 2], "row 1: the target"),
        ([1, 2], [math.nan, 2], "row 0: the prediction"),
    ],
)
def test_bad_values_are_refused(targets, predictions, message):
    with pytest.raises(DataError, match=message):
        RegressionSheet.of(targets, predictions)
