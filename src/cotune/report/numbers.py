"""Numbers as people read them; a dash stands for none."""

from __future__ import annotations

import math
from collections.abc import Mapping

SCORE_TITLES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "log_loss": "log loss",
    "brier": "Brier score",
    "calibration_error": "calibration error",
    "micro_auc": "micro AUC",
    "mean_average_precision": "mean average precision",
    "micro_f1": "micro F1",
    "subset_accuracy": "subset accuracy",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R\u00b2",
    "spearman": "Spearman",
    "pearson": "Pearson",
}
"""What tables call the scores."""


def count(value: int | None) -> str:
    """Return a whole number with separators, or a dash for none."""
    return "-" if value is None else f"{value:,}"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with fixed decimals, or a dash for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(row: Mapping[str, float | None], digits: int = 4) -> str:
    """Return both ends of the interval of a score, ``low`` and ``high``; a dash where there is none."""
    low, high = row["low"], row["high"]
    return "-" if low is None or high is None else f"{number(low, digits)} to {number(high, digits)}"


def p_value(p: float | None) -> str:
    """Return a p-value, or a dash for none; small ones are bounded rather than shown as nothing."""
    if p is None or math.isnan(p):
        return "—"
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0") if p < 0.9995 else "1"


def percent(value: float | None, digits: int = 0) -> str:
    """Return a part as a percentage, or a dash for none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}%}"


def whole_percent(value: float) -> str:
    """Return a part as a percentage that is not rounded, such as 99.9%."""
    return f"{100 * value:.10g}%"


def signed(value: float | None, digits: int = 2) -> str:
    """Return a number with its sign, a real minus, or a dash for none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:+.{digits}f}".replace("-", "\u2212")


def every_post(n: int) -> str:
    """Return the beginning of a sentence about what all of `n` posts have."""
    return "the only post has" if n == 1 else f"all {n:,} posts have"


def plural(n: int, word: str, several: str | None = None) -> str:
    """Return `n` and the word; unless there is one, with an s or as `several`."""
    return f"{n:,} {word if n == 1 else several or f'{word}s'}"
