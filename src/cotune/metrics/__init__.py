"""Scores of predicted probabilities, their bootstrap intervals, and paired tests between two models."""

from __future__ import annotations

from cotune.metrics.comparison import (
    AucComparison,
    delong_covariance,
    delong_test,
    holm,
    paired_bootstrap_auc,
    paired_p,
)
from cotune.metrics.intervals import Estimate, Evaluation, bootstrap_interval, evaluate, evaluate_sheet
from cotune.metrics.scores import SCORE_NAMES, confusion_matrix, roc_auc, score

__all__ = [
    "SCORE_NAMES",
    "AucComparison",
    "Estimate",
    "Evaluation",
    "bootstrap_interval",
    "confusion_matrix",
    "delong_covariance",
    "delong_test",
    "evaluate",
    "evaluate_sheet",
    "holm",
    "paired_bootstrap_auc",
    "paired_p",
    "roc_auc",
    "score",
]
