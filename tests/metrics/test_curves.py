"""Curves for charts: few points, all of the true curve, and the area is the score."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve

from cotune.metrics import evaluate
from cotune.metrics.curves import CLASSES, POINTS, ranking_curves


@pytest.mark.parametrize("ties", [False, True])
def test_a_thinned_curve_has_few_points_of_the_true_one_and_its_area(ties: bool) -> None:
    random = np.random.default_rng(0)
    positive = random.random((3000, 2)) < (0.3, 0.02)
    scores = random.normal(size=(3000, 2)) + positive
    scores = scores.round(1) if ties else scores
    found = ranking_curves(positive, scores, ["often", "rare"])
    for k, (name, curve) in enumerate(found.items()):
        assert curve["support"] == positive[:, k].sum(), name
        assert curve["auc"] == pytest.approx(roc_auc_score(positive[:, k], scores[:, k]))
        roc, recalled = np.array(curve["roc"]), np.array(curve["precision_recall"])
        for points in (roc, recalled):
            assert len(points) <= POINTS
            assert (np.diff(points[:, 0]) >= 0).all()
        assert roc[0].tolist() == [0, 0]
        assert roc[-1].tolist() == recalled[-1].tolist()[:1] * 2 == [1, 1]
        assert auc(*roc.T) == pytest.approx(curve["auc"], abs=0.01)
        false, true, _ = roc_curve(positive[:, k], scores[:, k], drop_intermediate=False)
        whole = {(round(a, 4), round(b, 4)) for a, b in zip(false, true, strict=True)}
        assert {tuple(point) for point in curve["roc"]} <= whole
        precision, recall, _ = precision_recall_curve(positive[:, k], scores[:, k])
        whole = {(round(a, 4), round(b, 4)) for a, b in zip(recall, precision, strict=True)}
        assert {tuple(point) for point in curve["precision_recall"]} <= whole


def test_classes_that_none_or_all_have_are_left_out_and_of_many_the_largest_stay() -> None:
    targets = np.zeros((40, CLASSES + 5), dtype=bool)
    targets[:, 0] = True
    for k in range(2, CLASSES + 5):
        targets[:k, k] = True
    names = [f"label {k}" for k in range(CLASSES + 5)]
    found = ranking_curves(targets, np.zeros(targets.shape), names)
    assert list(found) == names[-CLASSES:]
    assert found[names[-1]]["roc"] == [[0, 0], [1, 1]]
    assert found[names[-1]]["precision_recall"] == [[1, round((CLASSES + 4) / 40, 4)]]
    assert evaluate([0, 0], [[0.9, 0.1], [0.8, 0.2]], ["a", "b"], n_bootstrap=0).details["curves"] == {}
