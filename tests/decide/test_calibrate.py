"""Temperatures of tasks whose posts have several labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cotune.data.posts import read_posts
from cotune.decide.calibrate import calibrate, refuse_other_tasks
from cotune.errors import ConfigError, DataError
from cotune.fields import DEFAULT_FIELDS
from cotune.metrics.multi_label import MultiLabelSheet
from cotune.scoring import Scorer, Scores
from cotune.tasks.annotated import Annotated
from cotune.tasks.multi_label import MultiLabel
from cotune.tasks.regression import Regression

TASK = MultiLabel(["a", "b", "c"], [0.5, 0.3, 0.7])


class Fixed(Scorer[Any]):
    """Answers the log-odds that a post's text lists, as overconfident as it is told to be."""

    engine_version = weights_hash = "none"

    def __init__(self, task: MultiLabel, times: float) -> None:
        super().__init__(task, DEFAULT_FIELDS, ("text",), None)
        self._times = times

    def table_columns(self) -> dict[str, Any]:
        return {}

    def read(self, posts: pd.DataFrame) -> Any:
        return posts

    def score(self, read: Any) -> Scores:
        outputs = np.array([[float(word) for word in text.split()] for text in read["text"]]) * self._times
        task = self.task
        assert isinstance(task, MultiLabel)
        found = 1 / (1 + np.exp(-outputs / task.temperature))
        return replace(Scores.none(task, self.field_names, [""] * len(read)), predictions=found)


def posts(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    outputs = 1.5 * rng.normal(size=(n, 3)) - 0.5
    has = rng.random((n, 3)) < 1 / (1 + np.exp(-outputs))
    texts = [" ".join(f"{value:.6f}" for value in row) for row in outputs]
    labels = ["|".join(np.array(TASK.outputs)[row]) or "|" for row in has]
    return read_posts(pd.DataFrame({"id": [f"p{i}" for i in range(n)], "text": texts, "label": labels}))


@pytest.mark.parametrize("times", [0.5, 3.0])
def test_the_temperature_of_several_labels_is_found(times: float) -> None:
    found = calibrate(Fixed(TASK, times), [posts(1500, 0)], n_bootstrap=50)
    assert found.temperature == pytest.approx(times, rel=0.1)
    for name in ("log_loss", "brier", "calibration_error"):
        assert found.after[name]["value"] < found.before[name]["value"]
        assert found.after[name]["low"] <= found.after[name]["high"]
    assert found.after["calibration_error"]["value"] < 0.04
    # Again from scratch: the same temperature, not a product of the two.
    again = calibrate(Fixed(TASK.at_temperature(found.temperature), times), [posts(1500, 0)], n_bootstrap=0)
    assert again.temperature == pytest.approx(found.temperature, rel=1e-3)
    assert again.before["log_loss"]["value"] == pytest.approx(found.before["log_loss"]["value"], rel=1e-6)


def test_a_probability_of_one_is_no_endless_certainty() -> None:
    sure = Fixed(TASK, 3.0)
    frame = posts(200, 1)
    frame["text"] = ["40 -1 1", "30 1 -1"] * 100
    frame["label"] = ["a|c", "b", "a", "a|b", "a|c"] * 40
    assert 1 < calibrate(sure, [frame], n_bootstrap=0).temperature < 50


def test_labels_that_no_temperature_fits() -> None:
    frame = posts(300, 2)
    with pytest.raises(DataError, match="tell nothing of these labels"):
        calibrate(Fixed(TASK, -2.0), [frame], n_bootstrap=0)
    with pytest.raises(DataError, match="need"):
        calibrate(Fixed(TASK, 1.0), [frame.assign(label="a")], n_bootstrap=0)


def test_other_tasks_are_refused() -> None:
    for task in (Regression.learn(["1", "2.5"]), Annotated(["a", "b"], {"text": ["a", "b"]})):
        with pytest.raises(ConfigError, match="for the tasks single-label and multi-label"):
            refuse_other_tasks(task)


def test_the_calibration_error_of_several_labels_is_that_of_all_pairs() -> None:
    proba = np.array([[0.95, 0.05], [0.95, 0.95]])
    sheet = MultiLabelSheet.of([[1, 0], [0, 1]], proba)
    assert sheet.calibration_error(np.ones((1, 2)))[0] == pytest.approx((3 * (0.95 - 2 / 3) + 0.05) / 4)
    assert sheet.brier(np.ones((1, 2)))[0] == pytest.approx((3 * 0.05**2 + 0.95**2) / 4)
    assert sheet.calibration_error(np.array([[2.0, 0.0]]))[0] == pytest.approx(0.05)
