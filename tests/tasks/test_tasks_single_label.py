"""The single-label task: classes, prior, loss, log-odds and what is watched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotune.errors import DataError
from cotune.settings import FitConfig
from cotune.tasks import TASKS, make_task, restore_task
from cotune.tasks.single_label import SingleLabel

CONFIG = FitConfig()
BALANCED = FitConfig(class_weights="balanced")
THREE = SingleLabel(["a", "b", "c"])


def test_numbers_are_ordered_by_size_and_words_by_the_alphabet():
    assert SingleLabel.learn(["10", "2", "2.5"]).outputs == ("2", "2.5", "10")
    assert SingleLabel.learn(["b", "10", "2"]).outputs == ("10", "2", "b")
    assert SingleLabel.learn(["nan", "10", "2"]).outputs == ("10", "2", "nan")


def test_one_class_alone_is_refused():
    with pytest.raises(DataError, match=r"all 2 posts have the label 'a'"):
        SingleLabel.learn(["a", "a"])


def test_a_class_with_one_post_is_refused_by_name():
    with pytest.raises(DataError, match=r"only one usable post has the label 'c'"):
        THREE.refuse_untrainable(np.array([0, 0, 1, 1, 2]))
    THREE.refuse_untrainable(np.array([0, 0, 1, 1, 2, 2]))


def test_an_unknown_label_is_a_problem():
    assert THREE.problem("a") is None
    assert THREE.problem("A") == "is not known (known are a, b, c)"
    assert "'A'" in THREE.note_on_unknown(["A"], 3)


def test_auto_takes_words_and_few_numbers_as_classes():
    assert make_task("auto", ["0", "1", "1"]).name == "single-label"
    assert make_task("auto", ["yes", "no"]).outputs == ("no", "yes")


def test_a_task_comes_back_from_its_settings():
    again = restore_task({"name": THREE.name, "settings": THREE.settings()})
    assert again.outputs == THREE.outputs
    assert TASKS["single-label"] is SingleLabel


def test_the_prior_is_the_log_of_the_shares():
    targets = THREE.encode(["a", "a", "b", "c"])
    assert THREE.prior(CONFIG, targets).exp().tolist() == pytest.approx([0.5, 0.25, 0.25])
    assert THREE.prior(BALANCED, targets).exp().tolist() == pytest.approx([1 / 3] * 3)
    weighted = THREE.prior(CONFIG, targets, np.array([0.5, 0.5, 1.0, 2.0]))
    assert weighted.exp().tolist() == pytest.approx([0.25, 0.25, 0.5])


def test_an_unseen_class_stays_possible():
    assert torch.isfinite(THREE.prior(CONFIG, np.array([0, 0, 1]))).all()


@pytest.mark.parametrize("config", [CONFIG, BALANCED, FitConfig(label_smoothing=0.1)])
def test_post_weights_of_one_do_not_change_the_loss(config):
    targets = THREE.encode(["a", "a", "b", "c"])
    outputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    loss = THREE.loss(config, targets)
    true = torch.from_numpy(targets)
    assert float(loss(outputs, true, torch.ones(4))) == pytest.approx(float(loss(outputs, true)))


def test_a_post_of_weight_two_counts_twice():
    targets = THREE.encode(["a", "b"])
    outputs, true = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.from_numpy(targets)
    loss = THREE.loss(CONFIG, targets)
    each = [float(loss(outputs[i : i + 1], true[i : i + 1])) for i in range(2)]
    assert float(loss(outputs, true, torch.tensor([2.0, 0.5]))) == pytest.approx((2 * each[0] + 0.5 * each[1]) / 2)


@given(st.lists(st.floats(-80, 80), min_size=2, max_size=5))
def test_contributions_are_log_odds(logits):
    outputs = torch.tensor([logits], dtype=torch.float64)
    task = SingleLabel([str(i) for i in range(len(logits))])
    odds = task.contribution_scale(outputs)
    assert torch.isfinite(odds).all()
    assert torch.sigmoid(odds)[0].tolist() == pytest.approx(task.predictions(outputs)[0].tolist(), abs=1e-9)


def test_what_is_watched():
    two = SingleLabel(["no", "yes"])
    proba = np.array([[0.9, 0.1], [0.4, 0.6]])
    found = two.watch(np.array([0, 1]), proba)
    assert found.score == 1
    assert found.loss == pytest.approx(-(np.log(0.9) + np.log(0.6)) / 2)
    alone = two.watch(np.array([1, 1]), proba)
    assert alone.score is None
    assert alone.value == -alone.loss
    lost = two.watch(np.array([0, 1]), np.full((2, 2), np.nan))
    assert (lost.score, lost.loss, lost.value) == (None, None, -np.inf)


def test_posts_of_one_class_are_watched_by_their_log_loss():
    two = SingleLabel(["no", "yes"])
    proba = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    better, worse = (two.watch(np.array([1, 1, 1]), table) for table in (proba[:, ::-1], proba))
    assert better.loss == pytest.approx(-np.log([0.9, 0.2, 0.6]).mean())
    assert better.value > worse.value


def test_decoding_and_checking():
    assert THREE.decode(np.array([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]])) == ["b", "a"]
    assert THREE.check_predictions(np.array([[0.2, 0.5, 0.3]])) is None
    assert "softmax" in THREE.check_predictions(np.array([[2.0, -1.0, 0.0]]))
    assert THREE.columns() == ["p_a", "p_b", "p_c"]


def test_the_evaluation_names_its_classes():
    found = THREE.evaluate(np.array([0, 1, 2]), np.eye(3) * 0.7 + 0.1, n_bootstrap=10).to_dict()
    assert found["classes"] == ["a", "b", "c"]
    assert found["scores"]["accuracy"]["value"] == 1
    assert THREE.note_on_held_out(np.array([1, 1])) == "all 2 held-out posts have the label 'b'"
    assert THREE.note_on_held_out(np.array([1, 2])) is None


def test_a_temperature_divides_the_outputs():
    task = SingleLabel(["a", "b", "c"], 2.5)
    again = restore_task({"name": task.name, "settings": task.settings()})
    outputs = torch.randn(7, 3, dtype=torch.float64) * 5
    for each in (task, again):
        torch.testing.assert_close(each.predictions(outputs), (outputs / 2.5).softmax(dim=1))
        torch.testing.assert_close(each.from_scale(each.contribution_scale(outputs)), each.predictions(outputs))
    assert "temperature" not in THREE.settings()
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="above 0"):
            SingleLabel(["a", "b"], wrong)
