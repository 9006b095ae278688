"""Temperature scaling: the temperature that was planted is found."""

from __future__ import annotations

import numpy as np
import pytest

from cotune.metrics import evaluate
from cotune.metrics.temperature import at_temperature, fit_temperature


def outcomes(rng: np.random.Generator, n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return classes drawn from probabilities, and those."""
    outputs = rng.normal(size=(n, classes)) * 2
    proba = at_temperature(np.exp(outputs), 1.0)
    return (proba.cumsum(axis=1) < rng.random(n)[:, None]).sum(axis=1), proba


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("planted", [0.4, 1.0, 3.0])
def test_a_planted_temperature_is_found(classes: int, planted: float) -> None:
    y, proba = outcomes(np.random.default_rng(0), 20_000, classes)
    wrong = at_temperature(proba, 1 / planted)  # as a model says it that is too sure by `planted`
    assert fit_temperature(y, wrong) == pytest.approx(planted, rel=0.05)
    np.testing.assert_allclose(at_temperature(wrong, planted), proba, atol=1e-9)
    before, after = (
        evaluate(y, p, list("abcde")[:classes], n_bootstrap=0).scores
        for p in (wrong, at_temperature(wrong, fit_temperature(y, wrong)))
    )
    assert after["log_loss"].value <= before["log_loss"].value + 1e-9
    assert after["calibration_error"].value < 0.02


def test_a_model_that_is_always_right_stays_within_bounds() -> None:
    y = np.arange(100) % 2
    assert 0.019 < fit_temperature(y, np.stack([1 - y, y], axis=1) * 0.8 + 0.1) < 0.1
    assert 40 < fit_temperature(1 - y, np.stack([1 - y, y], axis=1)) <= 50.01
