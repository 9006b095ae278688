"""Several labels and numbers as targets: from the command line and from Python, through training, scores and pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import cotune
from cotune import JointClassifier, JointRegressor
from cotune.cli import main
from cotune.errors import ConfigError, DataError, RunError
from cotune.explain.explainer import Explainer
from cotune.run import load_run
from runs import tiny_settings, write_table
from tiny import Zoo, make_posts

KINDS = ("multi-label", "regression")


def labelled(folder: Path, kind: str, n: int = 80) -> pd.DataFrame:
    """Return posts whose words and colours tell two labels, or a number."""
    posts = make_posts(folder, n, classes=2, gaps=False)
    word = posts["text"].str.contains("good").to_numpy()
    colour = (posts["label"] == "class1").to_numpy()
    if kind == "multi-label":
        labels = ["|".join(np.asarray(["bright", "kind"])[[c, w]]) or "|" for c, w in zip(colour, word, strict=True)]
    else:
        labels = [
            f"{10 + 5 * c + 2 * w + 0.1 * (i % 7):.2f}" for i, (c, w) in enumerate(zip(colour, word, strict=True))
        ]
    return posts.assign(label=labels)


def settings(zoo: Zoo, folder: Path, **more: Any) -> dict[str, Any]:
    return tiny_settings(zoo, folder / "cache", **{"probe_epochs": 40, "probe_lr": 1e-2, "validation": 0.25, **more})


@pytest.fixture(scope="module", params=KINDS)
def fitted(request: pytest.FixtureRequest, zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    write_table(labelled(folder / "posts", request.param), folder / "posts.csv")
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings(zoo, folder)))
    arguments = ["fit", folder / "posts.csv", "--out", folder / "run", "--config", folder / "settings.yaml"]
    assert main([*map(str, arguments)]) == 0
    return request.param, folder


def test_the_task_is_read_off_the_labels_and_told(
    fitted: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, folder = fitted
    arguments = ["fit", folder / "posts.csv", "--out", tmp_path / "run", "--config", folder / "settings.yaml"]
    assert main([*map(str, arguments), "--epochs", "1", "--set", "probe-epochs=1", "--set", "min-epochs=1"]) == 0
    assert f"note: the labels look like a {kind} task" in capsys.readouterr().err
    assert load_run(folder / "run").task.name == kind


def test_predictions_in_every_format(fitted: tuple[str, Path]) -> None:
    kind, folder = fitted
    for name in ("found.csv", "found.parquet", "found.jsonl"):
        assert main(["predict", str(folder / "run"), str(folder / "posts.csv"), "--out", str(folder / name)]) == 0
    found = pd.read_parquet(folder / "found.parquet")
    given = pd.read_csv(folder / "posts.csv")
    if kind == "multi-label":
        assert list(found.columns) == ["id", "label", "p_bright", "p_kind", "text_share", "image_share", "error"]
        assert set(found["label"]) <= {"bright", "kind", "bright|kind", "|"}
        for name in ("bright", "kind"):
            said, true = (
                table["label"].str.split("|").map(lambda labels, name=name: name in labels) for table in (found, given)
            )
            assert (said == true).mean() > 0.75, "half of the posts have the label, so that .5 is a guess"
    else:
        assert list(found.columns) == ["id", "label", "text_share", "image_share", "error"]
        assert found["label"].dtype == float
        assert found["label"].corr(given["label"]) > 0.9
    assert np.allclose(found["text_share"] + found["image_share"], 1)


def test_scores_and_pages(fitted: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    kind, folder = fitted
    out = folder / "scores"
    assert main(["evaluate", str(folder / "run"), str(folder / "posts.csv"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    scores = json.loads((out / "metrics.json").read_text())["scores"]
    report = (out / "report.html").read_text()
    own = (folder / "run" / "report.html").read_text()
    if kind == "multi-label":
        assert {"auc", "micro_auc", "mean_average_precision", "macro_f1"} <= scores.keys()
        assert "By label" in said
        assert "Label by label" in report
        assert "macro AUC" in own
    else:
        assert {"mae", "rmse", "r2", "spearman"} <= scores.keys()
        assert scores["spearman"]["low"] > 0.6
        assert "Predicted and true values" in report
        assert "Spearman" in own
    for name, value in scores.items():
        assert value["low"] <= value["value"] <= value["high"], name


def test_explanations_add_up_to_the_prediction(fitted: tuple[str, Path]) -> None:
    kind, folder = fitted
    out = folder / "explained"
    arguments = ["explain", folder / "run", folder / "posts.csv", "--out", out, "--limit", 2, "--word-posts", 4]
    assert main([*map(str, arguments)]) == 0
    found = [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]
    for one in found:
        for name, parts in one["log_odds" if kind == "multi-label" else "value"].items():
            total = parts["base"] + parts["text"] + parts["image"]
            if kind == "multi-label":
                assert 1 / (1 + np.exp(-total)) == pytest.approx(one["probability"][name], abs=1e-4)
            else:
                assert total == pytest.approx(one["prediction"][name], abs=1e-3)
    page = next((out / "posts").glob("*.html")).read_text()
    assert ("log-odds" in page) == (kind == "multi-label")
    assert ("in units of the label" in page) == (kind == "regression")


def test_all_rows_of_the_benchmark(fitted: tuple[str, Path], zoo: Zoo, capsys: pytest.CaptureFixture[str]) -> None:
    kind, folder = fitted
    out = folder / "bench"
    arguments = ["bench", folder / "posts.csv", "--out", out, "--config", folder / "settings.yaml", "--folds", 2,
                 "--protocol", "paper", "--methods", "joint,text,image,svm,probe,ensemble", "--set", "validation=null",
                 "--epochs", 1, "--bootstrap", 50]  # fmt: skip
    assert main([*map(str, arguments)]) == 0
    title = "macro AUC" if kind == "multi-label" else "Spearman"
    assert f"{title} by method" in capsys.readouterr().out
    rows = {row["method"]: row for row in json.loads((out / "summary.json").read_text())["rows"]}
    assert set(rows) == {"joint", "text", "image", "svm", "probe", "ensemble"}
    assert rows["joint"]["auc_mean"] > 0.7
    before = (out / "results.md").read_bytes()
    assert main(["bench", "--out", str(out), "--tables-only", "--bootstrap", "50"]) == 0
    assert (out / "results.md").read_bytes() == before


def test_a_run_of_another_task_is_one_line(fitted: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    kind, folder = fitted
    table = pd.read_csv(folder / "posts.csv", dtype=str).assign(label="sunny")
    table.to_csv(folder / "other.csv", index=False)
    assert main(["evaluate", str(folder / "run"), str(folder / "other.csv"), "--out", str(folder / "none")]) == 2
    said = capsys.readouterr().err
    assert f"no post can be scored (80 with unknown label); the run's task is {kind}" in said
    assert not (folder / "none").exists()


def test_the_faces_open_runs_of_their_task_alone(fitted: tuple[str, Path]) -> None:
    kind, folder = fitted
    right, wrong = (JointClassifier, JointRegressor) if kind == "multi-label" else (JointRegressor, JointClassifier)
    assert isinstance(cotune.load(folder / "run", device="cpu"), right)
    with pytest.raises(RunError, match=f"the run's task is {kind}; open it with {right.__name__}"):
        wrong.load(folder / "run", device="cpu")


def test_a_table_of_labels_in_python(zoo: Zoo, tmp_path: Path) -> None:
    posts = labelled(tmp_path / "posts", "multi-label")
    y = pd.DataFrame(
        {"bright": posts["label"].str.contains("bright"), "kind": posts["label"].str.contains("kind")}
    ).astype(int)
    model = JointClassifier(**settings(zoo, tmp_path, tune="frozen", validation=None)).fit(posts[["text", "image"]], y)
    assert list(model.classes_) == ["bright", "kind"]
    assert model.predict_proba(posts).shape == (80, 2)
    said = model.predict(posts)
    assert said.shape == (80, 2)
    assert set(np.unique(said)) <= {0, 1}
    assert (said == y.to_numpy()).mean() > 0.8
    model.save(tmp_path / "run")
    assert np.array_equal(JointClassifier.load(tmp_path / "run", device="cpu").predict(posts), said)
    same = JointClassifier(**settings(zoo, tmp_path, tune="frozen", validation=None))
    same.fit(posts, [label.split("|") if label != "|" else [] for label in posts["label"]])
    assert np.allclose(same.predict_proba(posts), model.predict_proba(posts))
    with pytest.raises(DataError, match="a table of labels holds 0 and 1"):
        same.fit(posts, y * 2)


def test_numbers_in_python(zoo: Zoo, tmp_path: Path) -> None:
    posts = labelled(tmp_path / "posts", "regression")
    y = posts["label"].astype(float)
    model = JointRegressor(**settings(zoo, tmp_path, tune="frozen", validation=None)).fit(posts[["text", "image"]], y)
    assert model.score(posts, y) > 0.7
    explained = Explainer(model.run_, device="cpu").explain(posts.head(1), words=False, pixels=False)
    assert explained.scale == "value"
    with pytest.raises(DataError, match="y holds 'many' at position 1, expected a finite number"):
        model.fit(posts.head(2), [1.0, "many"])
    with pytest.raises(ConfigError, match="use JointRegressor"):
        JointClassifier(task="regression").fit(posts, y)


@pytest.mark.parametrize(
    ("labels", "task", "says"),
    [
        (["a|b", "a", "b", "a|b,c"] * 5, "auto", "mixes the separators | and ,"),
        (["a|b", "a", "b", "a||b"] * 5, "multi-label", "has an empty name"),
        (["1", "2", "3.5", "many"] * 5, "regression", "the label 'many' is not a"),
        (["1.5"] * 20, "regression", "1.5"),
        (["a", "a", "a", "a|b"] * 5, "multi-label", "'a'"),
    ],
)
def test_labels_that_cannot_be_learned(
    zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: list[str], task: str, says: str
) -> None:
    posts = make_posts(tmp_path / "posts", 20, gaps=False).assign(label=labels)
    write_table(posts, tmp_path / "posts.csv")
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings(zoo, tmp_path, validation=None)))
    arguments = ["fit", tmp_path / "posts.csv", "--out", tmp_path / "run", "--config", tmp_path / "settings.yaml"]
    assert main([*map(str, arguments), "--task", task]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_columns_of_labels(zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    posts = labelled(tmp_path / "posts", "multi-label")
    for name in ("bright", "kind"):
        posts[name] = posts["label"].str.contains(name).astype(int)
    write_table(posts.drop(columns="label"), tmp_path / "posts.csv")
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings(zoo, tmp_path, tune="frozen", probe_epochs=2)))
    arguments = ["fit", tmp_path / "posts.csv", "--out", tmp_path / "run", "--config", tmp_path / "settings.yaml"]
    flags = ["--label-column", "bright", "--label-column", "kind"]
    assert main([*map(str, arguments), *flags]) == 0
    assert load_run(tmp_path / "run").classes == ("bright", "kind")
    posts.loc[3, "kind"] = 7
    write_table(posts.drop(columns="label"), tmp_path / "posts.csv")
    capsys.readouterr()
    assert main([*map(str, arguments), *flags, "--overwrite"]) == 0
    assert "row 4: the label column 'kind' holds '7', expected 0 or 1" in capsys.readouterr().err
