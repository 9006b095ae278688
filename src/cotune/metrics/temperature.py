"""Temperature scaling: one number by which the outputs of a classifier are divided, so that its confidence is right.

C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger: "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cotune.metrics.checks import Floats, checked

_LEAST, _MOST = 0.02, 50.0
_TINY = 1e-30


def fit_temperature(y: npt.ArrayLike, proba: npt.ArrayLike) -> float:
    """Return the temperature of least log loss, between 0.02 and 50.

    Parameters
    ----------
    y : array-like of int, shape (N,)
        True classes as column numbers.
    proba : array-like of float, shape (N, C)
        Probabilities, each row adding up to 1; their logarithms are the outputs up to a constant.
    """
    from scipy.optimize import minimize_scalar

    labels, probabilities = checked(y, proba)
    outputs = np.log(np.maximum(probabilities, _TINY))

    def loss(slope: float) -> float:  # convex in 1 / temperature
        scaled = outputs * slope
        top = scaled.max(axis=1, keepdims=True)
        sums = np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0]
        return float((sums - scaled[np.arange(len(labels)), labels]).mean())

    found = minimize_scalar(
        lambda log_slope: loss(math.exp(log_slope)), bounds=(-math.log(_MOST), -math.log(_LEAST)), method="bounded"
    )
    return math.exp(-float(found.x))


def is_at_limit(temperature: float) -> bool:
    """Tell whether the best temperature lies beyond those that :func:`fit_temperature` tries."""
    return not _LEAST * 1.01 < temperature < _MOST / 1.01


def at_temperature(proba: Floats, temperature: float) -> Floats:
    """Return the probabilities that outputs divided by a further temperature give, shape (N, C)."""
    scaled = np.log(np.maximum(proba, _TINY)) / temperature
    weights: Floats = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: Floats = weights / weights.sum(axis=1, keepdims=True)
    return result
