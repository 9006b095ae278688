from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from cotune.metrics import two_samples
from cotune.metrics.two_samples import classifier_test, counts_test, numbers_test, shares_test

_ALPHA, _HALVES = 0.05, 120


def halves(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two random halves of one skewed, correlated sample, some of whose posts are there twice."""
    rng = np.random.default_rng(seed)
    whole = np.exp(rng.normal(size=(60, 8))) @ rng.normal(size=(8, 12))
    whole[:12] = whole[12:24]
    return np.split(whole[rng.permutation(60)], [25])


def test_random_halves_raise_a_false_alarm_at_most_as_often_as_alpha_says() -> None:
    found = [
        (classifier_test(*halves(seed), n_permutations=99, seed=seed)[0].p_value,
         shares_test(*(half > 1 for half in halves(seed)), n_permutations=99, seed=seed).p_value)
        for seed in range(_HALVES)
    ]  # fmt: skip
    rates = (np.array(found) <= _ALPHA).mean(axis=0)
    assert (rates <= _ALPHA + 3 * np.sqrt(_ALPHA * (1 - _ALPHA) / _HALVES)).all(), rates
    assert 0.3 < np.array(found).mean() < 0.7


def test_a_shift_is_told_and_so_are_the_posts_that_make_it() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(150, 20)), rng.normal(size=(120, 20))
    new[:40] += 1.0
    told, unlike = classifier_test(old, new, n_permutations=199)
    assert told.p_value == 1 / 200
    assert told.effect > 0.65
    assert (np.argsort(-unlike)[:30] < 40).mean() > 0.9


def test_predictions_out_of_fold_are_those_of_classifiers_fitted_without_the_fold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    old, new = rng.normal(size=(40, 5)), rng.normal(size=(30, 5)) + 0.4
    told, _ = classifier_test(old, new, n_permutations=1, seed=3)
    both = np.concatenate([old, new])
    both = (both - both.mean(axis=0)) / both.std(axis=0)
    draws = np.random.default_rng(3)
    folds = np.concatenate([draws.permutation(np.arange(size) % two_samples._FOLDS) for size in (40, 30)])
    sides, scores = np.repeat([-1.0, 1.0], [40, 30]), np.zeros(70)
    for fold in range(two_samples._FOLDS):
        rest = folds != fold
        model = Ridge(alpha=two_samples._ridge(both @ both.T / 5) * 5).fit(both[rest], sides[rest])
        scores[~rest] = model.predict(both[~rest])
    # The hat matrix centres on all posts, a fit on those of its folds: the same up to the strength of the penalty.
    assert told.effect == pytest.approx(roc_auc_score(sides, scores), abs=0.005)


def test_too_few_posts_tell_nothing() -> None:
    few, many = np.zeros((19, 3)), np.ones((50, 3))
    assert np.isnan(classifier_test(few, many)[0].p_value)
    assert np.isnan(shares_test(few, many).p_value)
    assert np.isnan(numbers_test(few[:, 0], many[:, 0]).p_value)
    assert np.isnan(counts_test((0, 0), (3, 10)).p_value)


def test_shares_and_counts_that_shift() -> None:
    rng = np.random.default_rng(0)
    old, new = (np.eye(3)[rng.choice(3, 200, p=p)] == 1 for p in ([0.5, 0.3, 0.2], [0.2, 0.6, 0.2]))
    told = shares_test(old, new, n_permutations=199)
    assert told.p_value == 1 / 200
    assert told.effect == pytest.approx(np.abs(old.mean(axis=0) - new.mean(axis=0)).max())
    assert shares_test(old[:, :1] | True, new[:, :1] | True).p_value == 1
    assert counts_test((2, 400), (40, 400)).p_value < 1e-6
    assert counts_test((2, 400), (3, 400)).p_value > 0.5
    assert numbers_test(np.arange(100.0), np.arange(100.0) + 60).p_value < 1e-6
