"""The regression task: numbers, strata, loss, prior and what is shown."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.errors import ConfigError, DataError
from cotune.settings import FitConfig
from cotune.tasks import make_task, restore_task
from cotune.tasks.regression import Regression

CONFIG = FitConfig()
TASK = Regression(mean=10.0, scale=2.0)
values = st.floats(-(2.0**96), 2.0**96, width=32)


def test_mean_and_deviation_are_learned():
    task = Regression.learn(["1", " 2.5 ", "4e0"])
    assert task.settings() == pytest.approx({"mean": 2.5, "scale": math.sqrt(1.5)})
    again = restore_task({"name": task.name, "settings": json.loads(json.dumps(task.settings()))})
    assert again.settings() == task.settings()
    assert (task.outputs, task.columns(), task.text_label) == (("value",), [], False)


@pytest.mark.parametrize("label", ["many", "", "nan", "inf", "-inf", "1,5", "1_000", "1e400"])
def test_a_label_that_is_no_number_is_refused_by_name(label):
    with pytest.raises(DataError) as raised:
        Regression.learn(["1", "2", label])
    assert str(raised.value).startswith(f"the label {label!r} is not a finite number; ")
    assert TASK.problem(label).startswith("is not a finite number")
    assert f"{label!r} is not a finite number" in TASK.note_on_unknown([label], 1)


def test_numbers_that_single_precision_cannot_square_are_refused():
    assert "in a larger unit" in TASK.problem("1e31")
    assert TASK.problem("-1e30") is None


@pytest.mark.parametrize("labels", [["3", "3.0"], ["1e9", "1000000001"], []])
def test_equal_values_are_refused(labels):
    with pytest.raises(DataError, match="at least two different values"):
        Regression.learn(labels)
    with pytest.raises(DataError, match="at least two different values"):
        TASK.refuse_untrainable(TASK.encode(labels))


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        ([str(i) for i in range(21)], "regression"),
        ([str(i) for i in range(20)], "single-label"),
        (["1", "2", "3", "4", "5", "5.5"], "regression"),
        (["1", "2", "3", "4", "5.5"], "single-label"),
        ([*(str(i) for i in range(30)), "many"], "single-label"),
        ([*(str(i) for i in range(30)), "nan"], "single-label"),
        ([f"{i}.0" for i in range(8)], "single-label"),
    ],
)
def test_auto_takes_many_different_numbers_for_a_regression(labels, task):
    assert make_task("auto", labels).name == task


@given(st.lists(values, min_size=2, max_size=30))
def test_outputs_go_back_to_values(numbers):
    labels = [repr(number) for number in numbers]
    assert not any(TASK.problem(label) for label in labels)
    targets = TASK.encode(labels)
    assert targets.dtype == np.float32
    assert targets.tolist() == numbers
    if len(set(numbers)) > 1:
        task = Regression.learn(labels)
        assert math.isfinite(task.mean)
        assert task.deviation > 0


def test_predictions_and_contributions_are_in_the_unit_of_the_labels():
    outputs = torch.tensor([[0.0], [1.0], [-0.5]])
    assert TASK.predictions(outputs).tolist() == [[10], [12], [9]]
    assert torch.equal(TASK.contribution_scale(outputs), TASK.predictions(outputs))
    assert TASK.explained(outputs).tolist() == [0, 0, 0]


def test_the_loss_is_that_of_standardised_values():
    targets = np.array([10.0, 12.0, 20.0], dtype=np.float32)
    outputs, true = torch.tensor([[0.5], [1.0], [0.0]]), torch.from_numpy(targets)
    squared = TASK.loss(CONFIG, targets)
    assert float(squared(outputs, true)) == pytest.approx((0.25 + 0 + 25) / 3)
    weighted = squared(outputs, true, torch.tensor([2.0, 0.5, 0.5], dtype=torch.float64))
    assert float(weighted) == pytest.approx((0.5 + 12.5) / 3)
    huber = TASK.loss(FitConfig(regression_loss="huber"), targets)
    assert float(huber(outputs, true)) == pytest.approx((0.125 + 0 + 4.5) / 3)


@pytest.mark.parametrize("wrong", [{"label_smoothing": 0.1}, {"class_weights": "balanced"}])
def test_settings_of_classes_are_refused(wrong):
    flag = next(iter(wrong)).replace("_", "-")
    with pytest.raises(ConfigError, match=f"--{flag}") as raised:
        TASK.loss(FitConfig(**wrong), np.array([1.0, 2.0]))
    assert "\n" not in str(raised.value)


def test_the_prior_is_the_weighted_mean():
    targets = np.array([8.0, 12.0], dtype=np.float32)
    assert TASK.prior(CONFIG, targets).tolist() == [0]
    assert TASK.prior(CONFIG, targets, np.array([0.5, 1.5])).tolist() == [0.5]


def test_decoded_values_are_python_floats_of_six_digits():
    decoded = TASK.decode(np.array([[1234567.89], [0.1], [-2 / 3]], dtype=np.float32))
    assert decoded == [1234570.0, 0.1, -0.666667]
    assert all(type(value) is float for value in decoded)


def test_predictions_that_are_no_numbers_are_named():
    assert TASK.check_predictions(np.array([[1.0]])) is None
    assert "finite" in TASK.check_predictions(np.array([[math.inf]]))


def test_what_is_watched():
    targets = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    found = TASK.watch(targets, np.array([[2.0], [3.0], [4.0]]))
    assert (found.score, found.loss) == (pytest.approx(1), pytest.approx(1))
    constant = TASK.watch(targets, np.full((3, 1), 2.0))
    assert (constant.score, constant.value) == (None, -constant.loss)
    lost = TASK.watch(targets, np.full((3, 1), np.nan))
    assert (lost.score, lost.loss) == (None, None)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
@settings(deadline=None)
def test_strata_follow_the_order_of_the_values(numbers):
    targets = np.array(numbers, dtype=np.float32)
    strata = TASK.strata(targets)
    order = np.argsort(targets, kind="stable")
    assert (np.diff(strata[order]) >= 0).all()
    assert set(strata) == set(range(strata.max() + 1))
    assert strata.max() < 5
    assert all(len(set(strata[targets == value])) == 1 for value in set(numbers))


def test_strata_are_quintiles():
    assert np.bincount(TASK.strata(np.arange(100, dtype=np.float32))).tolist() == [20] * 5


@given(st.lists(values, max_size=40))
@settings(deadline=None)
def test_every_post_is_counted_once(numbers):
    counted = TASK.count(np.array(numbers, dtype=np.float32))
    assert sum(counted.values()) == len(numbers)


def test_counts_have_readable_keys():
    assert TASK.count(np.array([1.0, 2.0, 7.0], dtype=np.float32)) == {
        "1 to 2.5": 2,
        "2.5 to 4": 0,
        "4 to 5.5": 0,
        "5.5 to 7": 1,
    }
    assert TASK.count(np.array([3.0, 3.0])) == {"3": 2}
    assert len(TASK.count(np.array([10000.0, 10001.0]))) == 4
    assert next(iter(TASK.count(np.array([1e4, 2.5e5], dtype=np.float32)))) == "10000 to 70000"
    assert list(TASK.count(np.array([0.0, 4e-9])))[-1] == "3e-09 to 4e-09"


def test_a_note_says_that_all_values_are_equal():
    assert TASK.note_on_held_out(np.array([2.5, 2.5])) == "all 2 held-out posts have the value 2.5"
    assert TASK.note_on_held_out(np.array([2.5, 3.0])) is None


def test_the_evaluation_is_json_with_a_sample_of_pairs():
    rng = np.random.default_rng(0)
    targets = rng.normal(size=700).astype(np.float32)
    predictions = targets[:, None] + 1
    found = TASK.evaluate(targets, predictions, n_bootstrap=20, seed=3).to_dict()
    json.dumps(found, allow_nan=False)
    assert found["scores"]["mae"]["value"] == pytest.approx(1)
    assert found["targets"]["max"] == pytest.approx(targets.max())
    assert len(found["scatter"]) == 500
    assert all(guess == pytest.approx(true + 1, abs=1e-5) for true, guess in found["scatter"])
    assert TASK.evaluate(targets, predictions, n_bootstrap=0, seed=3).details["scatter"] == found["scatter"]
    few = TASK.evaluate(targets[:3], predictions[:3], n_bootstrap=0).details["scatter"]
    assert [true for true, _ in few] == targets[:3].tolist()
    assert TASK.describe() == "regression, mean 10, standard deviation 2"
