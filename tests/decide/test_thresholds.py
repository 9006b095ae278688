"""Thresholds: the bounds hold over many draws, and are not so wide that nothing is ever acted on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from cotune.decide.policy import route_of
from cotune.decide.thresholds import act_threshold, allow_threshold, fewest_posts, interval, lower_bound

DRAWS = 300


def draw(rng: np.random.Generator, n: int, apart: float, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return classes and scores, whose distance between the classes is `apart`."""
    positive = rng.random(n) < share
    return positive, rng.normal(size=n) + apart * positive


@pytest.mark.parametrize(("n", "apart", "share", "target"), [(400, 2.5, 0.3, 0.9), (1500, 2.0, 0.5, 0.9), (600, 1, 0.8, 0.85)])  # fmt: skip
def test_over_many_draws_the_bounds_hold(n: int, apart: float, share: float, target: float) -> None:
    rng = np.random.default_rng(1)
    positive, scores = draw(rng, 400_000, apart, share)
    order = np.argsort(-scores)
    precision = positive[order].cumsum() / np.arange(1, len(order) + 1)
    ranked, mine = -scores[order], np.sort(scores[positive])
    too_low, too_many, acted, allowed = 0, 0, 0, 0
    for _ in range(DRAWS):
        drawn = draw(rng, n, apart, share)
        act, allow = act_threshold(*drawn, target, 0.9), allow_threshold(*drawn, target, 0.9)
        if act is not None:
            acted += 1
            too_low += precision[max(0, np.searchsorted(ranked, -act.value) - 1)] < target
        if allow is not None:
            allowed += 1
            too_many += np.searchsorted(mine, allow.value) / len(mine) > 1 - target
    most = binom.ppf(0.9999, DRAWS, 0.1)  # of an event with the probability 0.1
    assert too_low <= most
    assert too_many <= most
    assert too_many > 0.03 * DRAWS  # the tolerance limit is tight
    assert allowed == DRAWS
    assert acted > 0.5 * DRAWS


def test_a_naive_threshold_would_not_have_held() -> None:
    # The lowest threshold whose precision on the labelled posts is high enough: what the correction is for.
    rng = np.random.default_rng(2)
    positive, scores = draw(rng, 400_000, 2.0, 0.3)
    order = np.argsort(-scores)
    precision = positive[order].cumsum() / np.arange(1, len(order) + 1)
    bad = 0
    for _ in range(100):
        mine, at = draw(rng, 400, 2.0, 0.3)
        best = np.argsort(-at)
        ok = np.flatnonzero(mine[best].cumsum() / np.arange(1, 401) >= 0.9)
        bad += precision[max(0, np.searchsorted(-scores[order], -at[best][ok[-1]]) - 1)] < 0.9
    assert bad > 40


def test_what_is_found_is_what_the_rule_says() -> None:
    rng = np.random.default_rng(3)
    positive, scores = draw(rng, 800, 3.0, 0.4)
    act, allow = act_threshold(positive, scores, 0.9, 0.95), allow_threshold(positive, scores, 0.9, 0.95)
    assert act is not None
    assert allow is not None
    assert (act.of, act.found) == ((scores > act.value).sum(), positive[scores > act.value].sum())
    assert act.bound == pytest.approx(lower_bound(act.found, act.of, act.level))
    assert act.bound >= 0.9
    assert allow.found == positive[scores >= allow.value].sum()
    assert allow.of == positive.sum()
    assert allow.bound >= 0.9
    # One more post of the class below, and the bound would not hold.
    assert lower_bound(allow.found - 1, allow.of, 0.95) < 0.9


def test_too_few_posts_reach_nothing() -> None:
    need = fewest_posts(0.95, 0.05)
    assert need == 59  # .95 ** 59 < .05 < .95 ** 58
    ones, scores = np.ones(need, dtype=bool), np.linspace(0, 1, need)
    assert allow_threshold(ones, scores, 0.95, 0.95) is not None
    assert allow_threshold(ones[1:], scores[1:], 0.95, 0.95) is None
    assert act_threshold(ones, scores, 0.95, 0.95) is None
    assert allow_threshold(~ones, scores, 0.95, 0.95) is None


def test_equal_scores_are_never_taken_apart() -> None:
    positive, scores = np.arange(400) % 2 == 0, np.full(400, 0.7)
    assert act_threshold(positive, scores, 0.3, 0.95) is None
    allow = allow_threshold(positive, scores, 0.5, 0.95)
    assert allow is not None
    assert route_of(0.7, {"act": None, "allow": allow.value}) == "review"


def test_a_model_that_is_quite_sure_of_many_posts_can_be_acted_on() -> None:
    # Probabilities are rounded to 1 where a model is sure: no threshold lies within those posts, but one below them.
    positive, scores = np.arange(600) < 500, np.concatenate([np.ones(450), np.linspace(0.9, 0.1, 150)])
    act = act_threshold(positive, scores, 0.95, 0.95)
    assert act is not None
    assert act.of >= 450
    assert route_of(1.0, {"act": act.value, "allow": None}) == "act"


@pytest.mark.parametrize("steps", [3, 10])
def test_over_many_draws_the_precision_is_kept_where_scores_are_equal(steps: int) -> None:
    rng, too_low, acted = np.random.default_rng(5), 0, 0

    def few(n: int) -> tuple[np.ndarray, np.ndarray]:
        positive, scores = draw(rng, n, 1.5, 0.5)
        return positive, np.round(scores * steps) / steps

    positive, scores = few(400_000)
    for _ in range(DRAWS):
        act = act_threshold(*few(300), 0.85, 0.9)
        if act is not None:
            acted += 1
            too_low += positive[scores > act.value].mean() < 0.85
    assert too_low <= binom.ppf(0.9999, DRAWS, 0.1)
    assert acted > 0.5 * DRAWS


def test_allowing_never_reaches_into_acting() -> None:
    rng = np.random.default_rng(4)
    positive, scores = draw(rng, 2000, 4.0, 0.5)
    act = act_threshold(positive, scores, 0.7, 0.95)
    free = allow_threshold(positive, scores, 0.8, 0.95)
    assert act is not None
    assert free is not None
    assert free.value > act.value
    allow = allow_threshold(positive, scores, 0.8, 0.95, most=act.value)
    assert allow is not None
    assert allow.value == act.value
    assert allow.found == positive[scores >= act.value].sum()


@settings(max_examples=60, deadline=None)
@given(of=st.integers(1, 400), part=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_clopper_and_pearson(of: int, part: float, confidence: float) -> None:
    found = round(part * of)
    low = lower_bound(found, of, confidence)
    # At the bound, seeing as many or more is as likely as the error that is allowed.
    assert found == 0 or binom.sf(found - 1, of, low) == pytest.approx(1 - confidence, abs=1e-6)
    both = interval(found, of, confidence)
    assert 0 <= both["low"] <= both["value"] <= both["high"] <= 1
