"""Training that goes on from a run, and posts that count more than others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cotune import load
from cotune.cli import main
from cotune.errors import ConfigError, CotuneError, DataError
from cotune.estimators.classifier import JointClassifier
from cotune.run import Run, load_run, save_run
from cotune.settings import make_config
from cotune.tasks.losses import CrossEntropy
from cotune.training.callbacks import CheckpointCallback
from cotune.training.fit import fit_posts
from runs import tiny_config, tiny_settings, write_table
from tiny import Zoo, make_posts, same_weights, weights_of


@pytest.fixture
def posts(tmp_path: Path) -> pd.DataFrame:
    return make_posts(tmp_path / "posts", 24, gaps=False)


# ---- weights of posts --------------------------------------------------------------------------------


@pytest.mark.parametrize("class_weights", [None, (0.5, 2.0)])
def test_the_loss_counts_each_post_by_its_weight(class_weights: Any) -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    loss = CrossEntropy(class_weights, 0.0)
    torch.testing.assert_close(loss(outputs, targets, torch.ones(4)), loss(outputs, targets))
    each = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
    classes = torch.tensor(class_weights or (1.0, 1.0))[targets]
    weights = torch.tensor([5.0, 2.0, 1.0, 0.0])
    expected = (each * classes * weights).sum() / classes.sum()
    torch.testing.assert_close(loss(outputs, targets, weights), expected)


def test_weights_move_predictions_and_priors(zoo: Zoo, posts: pd.DataFrame, tmp_path: Path) -> None:
    config = tiny_config(zoo, tmp_path / "cache", tune="frozen", probe_epochs=5)
    first = posts["label"].iloc[0]
    heavy = np.where(posts["label"] == first, 9.0, 1.0)
    plain, weighed = fit_posts(posts, config).run, fit_posts(posts.assign(weight=heavy), config).run
    twice = fit_posts(posts.assign(weight=heavy * 7), config).run
    at = plain.classes.index(first)
    assert weighed.model.head.prior.exp()[at].item() == pytest.approx(0.9)
    assert plain.model.head.prior.exp()[at].item() == pytest.approx(0.5)
    assert same_weights(weights_of(weighed.model), weights_of(twice.model)), "only proportions matter"
    balanced = tiny_config(zoo, tmp_path / "cache", tune="frozen", class_weights="balanced")
    prior = fit_posts(posts.assign(weight=heavy), balanced).run.model.head.prior.exp()
    assert prior.tolist() == pytest.approx([0.5, 0.5]), "balanced by weight, not by number"


def test_a_post_of_weight_zero_is_left_out(zoo: Zoo, posts: pd.DataFrame, tmp_path: Path) -> None:
    config = tiny_config(zoo, tmp_path / "cache", tune="frozen")
    posts.loc[3, "label"] = None  # weights stay with their posts where one has no label
    weights = np.ones(24)
    weights[[0, 1, 8]] = 0
    run = fit_posts(posts.assign(weight=weights), config).run
    assert run.metrics["posts"]["train"] == 20
    fewer = fit_posts(posts[weights > 0].reset_index(drop=True), config).run
    for name, tensor in weights_of(run.model).items():
        torch.testing.assert_close(weights_of(fewer.model)[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0] * 3, "has the shape .3,., but X holds 24 posts"),
        ([-1.0] + [1.0] * 23, "at position 0 is -1.0"),
        ([1.0] * 23 + [float("nan")], "at position 23 is nan"),
        ([0.0] * 24, "is 0 for every post"),
        (["a"] * 24, "must hold a number"),
    ],
)
def test_weights_that_do_not_work(zoo: Zoo, posts: pd.DataFrame, tmp_path: Path, weights: Any, words: str) -> None:
    model = JointClassifier(**tiny_settings(zoo, tmp_path / "cache", tune="frozen"))
    with pytest.raises(DataError, match=words):
        model.fit(posts[["text", "image"]], posts["label"], sample_weight=weights)


# ---- going on from a run -----------------------------------------------------------------------------


@pytest.fixture
def run(zoo: Zoo, posts: pd.DataFrame, tmp_path: Path) -> Run:
    run = fit_posts(posts, tiny_config(zoo, tmp_path / "cache", tune="joint", lr_text=1e-3)).run
    save_run(tmp_path / "run", run)
    return load_run(tmp_path / "run")


def test_training_begins_with_the_runs_weights(zoo: Zoo, run: Run, tmp_path: Path) -> None:
    new = make_posts(tmp_path / "new", 16, gaps=False, seed=9)
    before = {name: tensor.clone() for name, tensor in weights_of(run.model).items()}
    still = tiny_config(zoo, tmp_path / "cache", tune="joint", lr_text=1e-12, lr_image=1e-12, lr_head=1e-12)
    same = fit_posts(new, still, start=run).run
    for name, tensor in weights_of(same.model).items():
        if "prior" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=1e-4)
    config = tiny_config(zoo, tmp_path / "cache", tune="top")
    moved = fit_posts(new, config, start=run).run
    assert [row["stage"] for row in moved.metrics["history"]] == ["top", "top"], "the head is trained already"
    assert moved.metrics["started_from"]["data_hash"] == run.environment["data_hash"]
    assert not same_weights(weights_of(moved.model), before)
    assert same_weights(weights_of(run.model), before), "the run that was given stays as it is"
    frozen = fit_posts(new, tiny_config(zoo, tmp_path / "cache", tune="frozen"), start=run).run
    assert {row["stage"] for row in frozen.metrics["history"]} == {"probe"}


def test_labels_and_encoders_are_those_of_the_run(zoo: Zoo, run: Run, posts: pd.DataFrame, tmp_path: Path) -> None:
    config = tiny_config(zoo, tmp_path / "cache")
    three = make_posts(tmp_path / "three", 12, gaps=False, classes=3)
    three["label"] = [f"new{label}" for label in three["label"]]
    with pytest.raises(
        DataError, match="which is not known .known are .*. by the run to start from; .*train from scratch"
    ):
        fit_posts(three, config, start=run)
    with pytest.raises(ConfigError, match="training on from a run keeps its own width .16., not 32"):
        fit_posts(posts, tiny_config(zoo, tmp_path / "cache", width=32), start=run)


def test_the_command_line_takes_the_runs_encoders(
    zoo: Zoo, run: Run, posts: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(posts, tmp_path / "posts.csv")
    words = ["fit", str(table), "--out", str(tmp_path / "next"), "--start-from", str(tmp_path / "run"), "--tune", "top"]
    words += ["--epochs", "1", "--device", "cpu", "--cache", str(tmp_path / "cache")]
    assert main(words) == 0, capsys.readouterr().err
    after = load_run(tmp_path / "next")
    assert after.classes == run.classes
    assert after.config.width == 16
    assert after.config.text_encoder == run.config.text_encoder
    assert main([*words, "--overwrite", "--fusion", "concat"]) == 2
    assert "leave that setting out" in capsys.readouterr().err
    assert main(["fit", str(table), "--out", str(tmp_path / "x"), "--start-from", str(tmp_path / "posts")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_loaded_classifier_goes_on_with_warm_start(run: Run, posts: pd.DataFrame, tmp_path: Path) -> None:
    model = load(tmp_path / "run", device="cpu").set_params(warm_start=True, tune="top", epochs=1)
    one_label = posts[posts["label"] == posts["label"].iloc[0]]
    few = pd.concat([posts.iloc[:6], one_label.iloc[:2]]).reset_index(drop=True)
    model.fit(few[["text", "image"]], few["label"])
    assert model.run_.metrics["started_from"]
    assert list(model.classes_) == list(run.classes)
    with pytest.raises(DataError, match="labels of the type int, but the run to start from has str"):
        model.fit(few[["text", "image"]], [0, 1] * 4)
    fresh = load(tmp_path / "run", device="cpu").set_params(epochs=1).fit(few[["text", "image"]], few["label"])
    assert "started_from" not in fresh.run_.metrics


def test_a_checkpoint_of_another_start_is_refused(zoo: Zoo, run: Run, posts: pd.DataFrame, tmp_path: Path) -> None:
    config = tiny_config(zoo, tmp_path / "cache", tune="top")
    fit_posts(posts, config.model_copy(update={"probe_epochs": 0}), callbacks=[CheckpointCallback(tmp_path / "c")])
    with pytest.raises(CotuneError, match="begun with other run to start from"):
        fit_posts(posts, config, start=run, callbacks=[CheckpointCallback(tmp_path / "c", resume=True)])
    with pytest.raises(CotuneError, match="other weights of posts"):
        fit_posts(posts.assign(weight=np.arange(1.0, 25.0)), config.model_copy(update={"probe_epochs": 0}),
                  callbacks=[CheckpointCallback(tmp_path / "c", resume=True)])  # fmt: skip


# ---- settings of a run -------------------------------------------------------------------------------


def test_a_runs_settings_as_a_configuration_file(run: Run, tmp_path: Path) -> None:
    for given in (tmp_path / "run", tmp_path / "run" / "config.json"):
        assert make_config({}, file=given) == run.config
        assert make_config({"seed": 7}, file=given).seed == 7
    (tmp_path / "mine.json").write_text(json.dumps({"lr-head": 1e-5}))
    assert make_config({}, file=tmp_path / "mine.json").lr_head == 1e-5
    for text, words in (("{", "is not valid JSON"), ('{"model_type": "bert"}', "unknown setting 'model_type'")):
        (tmp_path / "mine.json").write_text(text)
        with pytest.raises(ConfigError, match=words):
            make_config({}, file=tmp_path / "mine.json")
    with pytest.raises(ConfigError, match="there is no configuration file"):
        make_config({}, file=tmp_path / "posts")
