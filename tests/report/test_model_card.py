from __future__ import annotations

import pytest
import yaml

from cotune.model import JointModel
from cotune.report.card_metadata import CardDetails
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
    assert "| AUC | - | - |" in card_of(empty)


def test_scores_have_the_names_of_the_report_and_each_class_a_row(fitted: Run) -> None:
    card = card_of(fitted)
    assert {"| AUC |", "| macro F1 |", "| calibration error |"} <= {
        line[: line.find("|", 1) + 1] for line in card.splitlines()
    }
    table = card.partition("| class | precision | recall | F1 | posts |")[2].splitlines()
    assert [line.split("|")[1].strip().strip("`") for line in table[2:] if line.startswith("|")] == list(
        fitted.model.task.outputs
    )


def test_posts_of_users_are_not_shown_those_of_the_demo_are(fitted: Run) -> None:
    assert "Sample predictions" not in card_of(fitted)
    shown = [{"text": "a|b", "image": "x.webp", "true": "negative", "predicted": "positive"}]
    demo = Run(fitted.model, fitted.config, {**fitted.metrics, "demo": {"samples": shown}})
    assert "| `a\\|b` | `x.webp` | `negative` | `positive` |" in card_of(demo)


def test_two_base_models_are_no_merge(fitted: Run) -> None:
    named = CardDetails(specs={"text": "hf:me/words", "image": "timm:resnet18"})
    found = yaml.safe_load(model_card(fitted.model, fitted.config, fitted.metrics, named).split("---")[1])
    assert len(found["base_model"]) == 2
    assert found["base_model_relation"] == "finetune"
    assert "license" not in found
    assert "base_model_relation" not in yaml.safe_load(card_of(fitted).split("---")[1])
