from __future__ import annotations

import pytest

from cotune.model import JointModel
from cotune.report.model_card import model_card
from cotune.run import Run
from cotune.tasks.single_label import SingleLabel
from runs import tiny_fit
from tiny import Zoo


@pytest.fixture(scope="module")
def fitted(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_fit(zoo, tmp_path_factory.mktemp("fitted"), tune="joint", validation=0.25).run


def card_of(run: Run) -> str:
    return model_card(run.model, run.config, run.metrics)


def test_the_card_names_parts_scores_and_survives_odd_labels(fitted: Run) -> None:
    card = card_of(fitted)
    assert f"{fitted.model.parameter_counts()['total']:,}" in card
    assert "held-out posts" in card
    odd = Run(JointModel(fitted.model.encoders, fitted.model.head, SingleLabel(["a|b", "`tick`\nnew"])), fitted.config)
    lines = card_of(odd).splitlines()
    assert any("a\\|b" in line and "`tick` new" in line for line in lines)
    unknown = {"value": None, "low": None, "high": None}
    empty = Run(fitted.model, fitted.config, {"validation": {"n": 1, "scores": {"auc": unknown}}})
    assert "| auc | - | - to - |" in card_of(empty)
