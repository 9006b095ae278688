"""Scores of held-out posts that can always be compared."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cotune.training.held_out import score_held_out

PROBA = np.asarray([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])


def test_the_auc_is_watched_where_there_is_one() -> None:
    found = score_held_out(np.asarray([0, 1, 1]), PROBA)
    assert found.value == found.auc == 1.0
    assert found.loss == pytest.approx(-np.log([0.9, 0.8, 0.4]).mean())


def test_posts_of_one_class_are_watched_by_their_log_loss() -> None:
    better, worse = (score_held_out(np.asarray([1, 1, 1]), table) for table in (PROBA[:, ::-1], PROBA))
    assert better.auc is None
    assert better.loss == pytest.approx(-np.log([0.9, 0.2, 0.6]).mean())
    assert better.value > worse.value


def test_what_is_no_number_beats_nothing() -> None:
    found = score_held_out(np.asarray([0, 1, 1]), np.full((3, 2), np.nan))
    assert found.value == -math.inf
