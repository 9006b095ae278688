"""Runs of several trainings: what they predict, how they are kept, resumed, explained and exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cotune.cli import main
from cotune.errors import ConfigError
from cotune.explain.explainer import Explainer
from cotune.explain.segments import segment
from cotune.explain.words import word_gradients
from cotune.heads.members import MeanHead
from cotune.predict import Predictor
from cotune.report.run_pages import run_pages
from cotune.run import Run, load_run, save_run
from cotune.tasks.single_label import SingleLabel
from cotune.training.build import open_encoders, prepare_posts
from cotune.training.callbacks import Callback, CheckpointCallback, HistoryCallback
from cotune.training.fit import FitResult, fit_posts
from cotune.training.stages import Stage, StageState
from runs import Told, tiny_config
from tiny import Zoo, make_posts, same_weights, weights_of

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def posts(folder: Path) -> pd.DataFrame:
    return make_posts(folder / "posts", 24)


def fit(zoo: Zoo, folder: Path, posts: pd.DataFrame, **settings: Any) -> FitResult:
    callbacks = settings.pop("callbacks", ())
    config = tiny_config(zoo, folder / "cache", **{"epochs": 1, "probe_epochs": 2, "dropout": 0.1, **settings})
    return fit_posts(posts, config, callbacks=callbacks, progress=Told())


@pytest.fixture(scope="module", params=["top", "joint", "frozen"])
def mean(request: pytest.FixtureRequest, zoo: Zoo, folder: Path, posts: pd.DataFrame) -> tuple[Run, list[Run]]:
    """A mean of two, and the two alone."""
    how = {"tune": request.param, "validation": 0.25}
    whole = fit(zoo, folder, posts, members=2, **how)
    # The same posts are held out whatever the seed of the member.
    held = whole.held_out[0]["id"]  # type: ignore[index]
    rest, apart = posts[~posts["id"].isin(held)], posts[posts["id"].isin(held)]
    config = tiny_config(zoo, folder / "cache", epochs=1, probe_epochs=2, dropout=0.1, tune=request.param)
    alone = [
        fit_posts(
            rest.reset_index(drop=True), config.model_copy(update={"seed": 42 + i}),
            validation_posts=apart.reset_index(drop=True), progress=Told(),
        ).run
        for i in range(2)
    ]  # fmt: skip
    return whole.run, alone


def test_a_run_of_two_predicts_the_mean_of_their_probabilities(
    mean: tuple[Run, list[Run]], posts: pd.DataFrame
) -> None:
    run, alone = mean
    scores = Predictor(run, device="cpu").scores(posts)
    found, shares = scores.predictions, scores.shares
    both = [Predictor(each, device="cpu").scores(posts).predictions for each in alone]
    assert np.nanmax(np.abs(both[0] - both[1])) > 1e-4
    np.testing.assert_allclose(found, np.mean(both, axis=0), atol=2e-5)
    np.testing.assert_allclose(np.nansum(shares, axis=1), 1, atol=1e-5)


def test_it_is_kept_as_it_is(mean: tuple[Run, list[Run]], posts: pd.DataFrame, tmp_path: Path) -> None:
    run, alone = mean
    save_run(tmp_path / "run", run, pages=run_pages(run, None, name="run"))
    again = load_run(tmp_path / "run")
    expected, found = (Predictor(each, device="cpu").scores(posts).predictions for each in (run, again))
    np.testing.assert_array_equal(found, expected)
    assert again.model.parameter_counts() == run.model.parameter_counts()
    assert isinstance(again.model.head, MeanHead)
    one, two = (each.model.parameter_counts() for each in (alone[0], again))
    if run.config.tune == "frozen":
        assert two["image"] == one["image"], "encoders that nobody trained are there once"
    elif run.config.tune == "top":
        assert one["image"] < two["image"] < 2 * one["image"]
    else:
        assert two["image"] == 2 * one["image"]
    saved = (tmp_path / "run" / "model.safetensors").stat().st_size
    assert saved < 4.5 * two["total"], "shared weights are written once"
    rows = run.metrics["members"]["steps"]
    assert [row["what"] for row in rows] == ["one member, mean of 2", "mean of 2 members"]
    assert rows[1]["score"] == pytest.approx(run.metrics["validation"]["scores"]["auc"]["value"], abs=1e-6)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "What 2 trainings gained" in page
    assert "the mean of 2" in page


def test_its_explanations_add_up(mean: tuple[Run, list[Run]], posts: pd.DataFrame) -> None:
    run, _ = mean
    explainer = Explainer(run, device="cpu")
    one = posts.iloc[[0]].reset_index(drop=True)
    features, rows, _ = explainer.read(one)
    ((_, parts),) = explainer.contributions(features, rows)
    whole = parts.base + sum(parts.parts.values())
    assert torch.allclose(run.task.from_scale(whole), parts.predictions, atol=1e-5)
    target, _ = explainer.target(one, "text")
    gradients, value, _, error, _ = word_gradients(target, segment(target.text_encoder, one["text"][0]), 96)
    assert error < 0.05
    assert value == pytest.approx(target.value, abs=1e-4)
    assert np.abs(gradients).sum() > 0
    found = explainer.explain(one, words=False, pixels=True)
    assert found.removed == dict.fromkeys(("text", "image"), "learned")
    assert np.isfinite(found.images["image"].pixels.map).all()


def test_it_is_not_trained_further(mean: tuple[Run, list[Run]], zoo: Zoo, folder: Path, posts: pd.DataFrame) -> None:
    run, alone = mean
    config = tiny_config(zoo, folder / "cache", tune=run.config.tune, dropout=0.1)
    with pytest.raises(ConfigError, match="mean of several trainings"):
        fit_posts(posts, config, start=run)
    with pytest.raises(ConfigError, match="without --members"):
        fit_posts(posts, config.model_copy(update={"members": 2}), start=alone[0])


def test_an_export_gives_the_same(zoo: Zoo, folder: Path, posts: pd.DataFrame, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    from cotune.export.export_run import export_run

    # A text alone is exported in a few seconds; the sets of fields are those of the graph in torch, below.
    run = fit(zoo, folder, posts, members=2, tune="top", fusion="text").run
    checks = export_run(run, tmp_path / "export", posts)
    assert checks
    assert all(check.largest_difference < 1e-5 for check in checks)


def test_the_graph_of_an_export_gives_the_same(mean: tuple[Run, list[Run]], posts: pd.DataFrame) -> None:
    from cotune.export.graph import ExportGraph

    run, _ = mean
    predictor = Predictor(run, device="cpu")
    one = posts[posts["text"].notna() & posts["image"].notna()].iloc[[0]].reset_index(drop=True)
    said = predictor.scores(one)
    expected, shares = said.predictions, said.shares
    batch = predictor.read(one)[0].batch(np.zeros(1, dtype=np.int64), dict.fromkeys(run.model.encoders, "raw"))
    inputs = {f"{name}.{key}": value for name, part in batch.inputs.items() for key, value in part.items()}
    with torch.no_grad():
        found = ExportGraph(run.model).eval()({"present": batch.present, **inputs})
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    np.testing.assert_allclose(found[1], shares, atol=1e-4)


@pytest.mark.parametrize("labels", ["a|b", "number"])
def test_other_tasks_have_means_and_students(zoo: Zoo, folder: Path, posts: pd.DataFrame, labels: str) -> None:
    first = posts["label"].eq("class0")
    cells = [("a|b" if one else "b|c") if i % 3 else "a|c" for i, one in enumerate(first)]
    numbers = [f"{0.37 * i + 3 * one:.2f}" for i, one in enumerate(first)]
    table = posts.assign(label=numbers if labels == "number" else cells)
    how: dict[str, Any] = {"tune": "frozen", "validation": 0.25, "members": 2}
    task = "regression" if labels == "number" else "multi-label"
    mean = fit(zoo, folder, table, task=task, **how)
    assert mean.run.metrics["members"]["made"] == "mean"
    taught = fit(zoo, folder, table, task=task, distill=True, **how).run
    assert taught.metrics["members"]["made"] == "student"
    assert taught.metrics["members"]["out_of_fold"]["score"] is not None
    assert len(taught.metrics["members"]["steps"]) == 3
    plain = fit(zoo, folder, table, task=task, tune="frozen", validation=0.25).run
    assert taught.model.parameter_counts() == plain.model.parameter_counts()


def test_columns_of_a_table_have_members_too(zoo: Zoo, folder: Path, posts: pd.DataFrame, tmp_path: Path) -> None:
    from cotune.fields import Field

    fields = (Field(name="text", kind="text"), Field(name="about", kind="table", columns=("age",)))
    table = posts.drop(columns=["image"]).assign(about=[{"age": str(20 + i)} for i in range(len(posts))])
    for more in ({}, {"soup": True}):
        run = fit(zoo, folder, table, members=2, tune="top", fields=fields, fusion="concat", **more).run
        save_run(tmp_path / str(len(more)), run)
        again = load_run(tmp_path / str(len(more)))
        expected, found = (Predictor(each, device="cpu").scores(table).predictions for each in (run, again))
        np.testing.assert_array_equal(found, expected)
        assert np.isfinite(found).all()


class Stops(Callback):
    """Stops the second member in its last stage."""

    def __init__(self, member: int = -1) -> None:
        self.member = member

    def of_member(self, member: int) -> Stops:
        return Stops(member)

    def on_epoch_end(self, stage: Stage, state: StageState, history: Any) -> None:
        if self.member == 1 and stage.name != "probe":
            raise KeyboardInterrupt


@pytest.mark.parametrize("more", [{}, {"distill": True}, {"soup": True}])
def test_an_interrupted_fit_goes_on_where_it_was(
    zoo: Zoo, folder: Path, posts: pd.DataFrame, tmp_path: Path, more: dict[str, Any]
) -> None:
    how: dict[str, Any] = {"members": 2, "tune": "top", **more}
    whole: list[Any] = []
    expected = fit(zoo, folder, posts, callbacks=[HistoryCallback(whole.append)], **how).run
    with pytest.raises(KeyboardInterrupt):
        fit(zoo, folder, posts, callbacks=[CheckpointCallback(tmp_path / "kept"), Stops()], **how)
    assert (tmp_path / "kept" / "member-0" / "state.json").is_file()
    seen: list[Any] = []
    kept = CheckpointCallback(tmp_path / "kept", resume=True)
    told = HistoryCallback(seen.append)
    found = fit(zoo, folder, posts, callbacks=[kept, told], **how).run
    assert same_weights(weights_of(found.model), weights_of(expected.model))
    assert [len(rows) for rows in seen] == sorted(len(rows) for rows in seen)
    losses = [[(row["stage"], row["epoch"], row["train_loss"]) for row in rows[-1]] for rows in (whole, seen)]
    assert losses[0] == losses[1], "epochs of members that were finished before are in the log too"
    kept.checkpoint.remove()
    assert not (tmp_path / "kept").exists()


def test_what_makes_no_sense_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = tmp_path / "posts.csv"
    table.write_text("id,text,label\n1,a,x\n2,b,y\n")
    for flags, words in (
        (["--members", "0"], "members"),
        (["--distill"], "distill needs several trainings"),
        (["--members", "2", "--soup", "--tune", "frozen"], "tune frozen trains none"),
        (["--members", "2", "--devices", "2"], "one device"),
    ):
        assert main(["fit", str(table), "--out", str(tmp_path / "run"), *flags]) == 2
        said = capsys.readouterr().err.strip()
        assert words in said
        assert len(said.splitlines()) == 1


def test_without_validation_a_soup_holds_out_a_tenth(zoo: Zoo, folder: Path, posts: pd.DataFrame) -> None:
    from cotune.benchmark.estimate import estimate_scores

    run = fit(zoo, folder, posts, members=2, soup=True, tune="top").run
    about = run.metrics["members"]
    assert about["held_out"] == run.metrics["posts"]["held_out"] == about["chosen_on"] > 0
    assert about["steps"][-1]["what"] == "soup"
    assert estimate_scores(posts, run, progress=Told())["n"] == 24


def test_a_benchmark_trains_members_too(zoo: Zoo, folder: Path, posts: pd.DataFrame) -> None:
    from cotune.benchmark.methods import METHODS, Trial

    config = tiny_config(zoo, folder / "cache", members=2, tune="top", epochs=1, probe_epochs=1)
    features = prepare_posts(posts, open_encoders(config), config)
    targets = posts["label"].eq("class1").to_numpy().astype(np.int64)
    task = SingleLabel(["class0", "class1"])
    trial = Trial(features, targets, np.arange(16), np.arange(16, 24), task, config)
    method = METHODS["joint"]
    assert method.run is not None
    found = method.run(trial)
    alone = [
        method.run(replace(trial, config=config.model_copy(update={"members": 1, "seed": 42 + i}))) for i in range(2)
    ]
    np.testing.assert_allclose(found.predictions, np.mean([one.predictions for one in alone], axis=0), atol=1e-5)
    assert found.parameters["trained"] == 2 * alone[0].parameters["trained"]
    assert found.parameters["total"] < 2 * alone[0].parameters["total"]
