"""The scikit-learn contract, kept to the letter."""

from __future__ import annotations

import inspect
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import cotune
from cotune import JointClassifier
from cotune.cli import main
from cotune.data.posts import read_posts
from cotune.errors import ConfigError, DataError
from cotune.estimators.parameters import EstimatorSettings
from cotune.settings import FitConfig, settings_of
from runs import tiny_settings, write_table
from tiny import Zoo, make_posts


@pytest.fixture
def posts(tmp_path: Path) -> pd.DataFrame:
    return make_posts(tmp_path / "posts", 18)


@pytest.fixture
def new(zoo: Zoo, tmp_path: Path) -> Any:
    def make(**more: Any) -> JointClassifier:
        return JointClassifier(**tiny_settings(zoo, tmp_path / "cache", **{"tune": "frozen", **more}))

    return make


def test_parameters_are_those_of_the_settings_and_clone_keeps_them(new: Any) -> None:
    model = new(seed=7)
    assert set(FitConfig.model_fields) == set(model.get_params()) - {
        "allow_outside",
        "allow_remote",
        "verbose",
        "warm_start",
    }
    assert {name: JointClassifier().get_params()[name] for name in FitConfig.model_fields} == FitConfig().model_dump()
    twin = clone(model)
    assert twin is not model
    assert twin.get_params() == model.get_params()
    assert clone(twin.set_params(width=32)).width == 32
    assert is_classifier(model)


def test_signature_docstring_and_settings_agree() -> None:
    parameters = inspect.signature(JointClassifier).parameters
    assert list(parameters) == [*FitConfig.model_fields, "allow_remote", "allow_outside", "warm_start", "verbose"]
    described = str(JointClassifier.__doc__)
    for item in settings_of(EstimatorSettings):
        assert parameters[item.name].default == item.default
        assert f"    {item.name} : {item.kind}, default {item.default!r}\n        {item.help}\n" in described
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert repr(JointClassifier(width=32, seed=42)) == "JointClassifier(width=32)"


@pytest.mark.parametrize("given", [{"widht": 32}, {"clip": 1.0}])
def test_an_unknown_parameter_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(given))}'"):
        JointClassifier(**given)
    with pytest.raises(ValueError, match="Invalid parameter"):
        JointClassifier().set_params(**given)
    with pytest.raises(TypeError, match="positional"):
        JointClassifier("joint")  # type: ignore[misc]


def test_fit_returns_itself_and_learns(new: Any, posts: pd.DataFrame) -> None:
    model = new(probe_epochs=30, dropout=0.1)
    before = model.get_params()
    X, y = posts[["text", "image"]], posts["label"]
    assert model.fit(X, y) is model
    assert model.get_params() == before, "fit must not change the parameters"
    assert model.classes_.tolist() == ["class0", "class1"]
    proba = model.predict_proba(X)
    assert proba.shape == (18, 2)
    assert np.allclose(proba.sum(axis=1), 1)
    assert (model.predict(X) == model.classes_[proba.argmax(axis=1)]).all()
    assert model.score(X, y) > 0.7
    assert model.n_features_in_ == 2


def test_unfitted_is_said_in_scikit_learns_words(new: Any, posts: pd.DataFrame) -> None:
    for call in (new().predict, new().predict_proba, new().predict_frame):
        with pytest.raises(NotFittedError):
            call(posts)
    with pytest.raises(NotFittedError):
        new().save("anywhere")


def test_fitting_twice_gives_the_same(new: Any, posts: pd.DataFrame) -> None:
    X, y = posts[["text", "image"]], posts["label"]
    model = new().fit(X, y)
    first = model.predict_proba(X)
    assert np.array_equal(model.fit(X, y).predict_proba(X), first)


def test_cross_validation_grid_search_and_pipeline(new: Any, posts: pd.DataFrame) -> None:
    X, y = posts[["text", "image"]], posts["label"].to_numpy()
    proba = cross_val_predict(new(), X, y, cv=3, method="predict_proba")
    assert proba.shape == (18, 2)
    assert np.isfinite(proba).all()
    assert set(cross_val_predict(new(), X, y, cv=3)) <= {"class0", "class1"}
    scores = cross_val_score(new(), X, y, cv=3, scoring="roc_auc")
    assert np.isfinite(scores).all()
    search = GridSearchCV(new(), {"width": [16, 32]}, cv=2).fit(X, y)
    assert search.best_params_["width"] in (16, 32)
    line = make_pipeline(FunctionTransformer(lambda frame: frame), new()).fit(X, y)
    assert line.predict(X).shape == (18,)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ([0, 1, 2], "i"),
        ([2, 10, -3], "i"),
        ([5.0, 1.0, 2.0], "f"),
        (["1.0", "2.0", "10.0"], "U"),
        ([" sad", "sa d", "happy "], "U"),
        (["cafe\u0301", "tea", "x"], "U"),
        (["b", "a", "c"], "U"),
        (["10", "9", "1"], "U"),
    ],
)
def test_labels_keep_their_type_also_through_a_file(new: Any, tmp_path: Path, names: list[Any], kind: str) -> None:
    posts = make_posts(tmp_path / "three", 18, classes=3)
    y = np.asarray([names[i % 3] for i in range(18)])
    X = posts[["text", "image"]]
    model = new().fit(X, y)
    assert np.array_equal(model.classes_, np.unique(y))
    assert model.classes_.dtype.kind == kind
    model.save(tmp_path / "run")
    loaded = cotune.load(tmp_path / "run")
    assert np.array_equal(loaded.classes_, model.classes_)
    assert loaded.classes_.dtype.kind == kind
    assert np.abs(loaded.predict_proba(X) - model.predict_proba(X)).max() < 1e-5
    assert np.array_equal(loaded.predict(X), model.predict(X))
    assert loaded.get_params()["width"] == 16


def test_true_and_false_are_labels(new: Any, posts: pd.DataFrame, tmp_path: Path) -> None:
    y = (posts["label"] == "class1").to_numpy()
    model = new().fit(posts[["text", "image"]], y)
    model.save(tmp_path / "run")
    assert cotune.load(tmp_path / "run").predict(posts[["text", "image"]]).dtype == bool


def test_pictures_arrays_and_dicts_are_posts(new: Any, posts: pd.DataFrame) -> None:
    rows = []
    for i, (text, path) in enumerate(zip(posts["text"], posts["image"], strict=True)):
        image = Image.open(path).convert("RGB") if isinstance(path, str) else None
        rows.append({"text": text, "image": np.asarray(image) if image is not None and i % 2 else image})
    y = posts["label"].to_numpy()
    by_path = new().fit(posts[["text", "image"]], y).predict_proba(posts[["text", "image"]])
    by_value = new().fit(rows, y)
    assert np.abs(by_value.predict_proba(rows) - by_path).max() < 1e-6
    assert by_value.predict_proba({"text": "good", "image": None}).shape == (1, 2)
    assert np.abs(by_value.predict_proba(pd.DataFrame(rows)) - by_path).max() < 1e-6


def test_labels_may_come_with_the_posts(new: Any, posts: pd.DataFrame) -> None:
    assert new().fit(posts).classes_.tolist() == ["class0", "class1"]
    numbered = posts.assign(label=[int(label[-1]) for label in posts["label"]])
    assert new().fit(numbered).classes_.tolist() == [0, 1]
    with pytest.raises(DataError, match="fit needs y"):
        new().fit(posts[["text", "image"]])


@pytest.mark.parametrize("names", [[0.0, 1.0], [" sad", "happy "], ["cafe\u0301", "tea"]])
def test_labels_have_the_names_that_tables_give_them(new: Any, posts: pd.DataFrame, tmp_path: Path, names: Any) -> None:
    y = np.asarray([names[int(label == "class1")] for label in posts["label"]])
    model = new().fit(posts[["text", "image"]], y)
    assert np.array_equal(model.classes_, np.unique(y))
    assert set(model.predict(posts[["text", "image"]])) <= set(names)
    write_table(posts.assign(label=y), tmp_path / "same.csv")
    assert set(read_posts(tmp_path / "same.csv")["label"]) == set(model.run_.classes)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (["a"] * 18, "a classifier needs at least two"),
        (["a"] * 17, r"y has the shape \(17,\), but X holds 18 posts"),
        (["a", "b", None] * 6, "y has no label at position 2"),
        ([str(i) for i in range(18)], "only one usable post"),
        (np.asarray(["a", 1] * 9, dtype=object), "cannot be sorted together"),
        (["1", "1.0"] * 9, "the labels '1' and '1.0', which a table could not tell apart.*read as '1'"),
        (
            ["\u00e9", "e\u0301"] * 9,
            r"the labels 'e\\u0301' and '\\xe9', which a table could not tell apart.*read as 'é'",
        ),
        ([pd.Timestamp(0), pd.Timestamp(1)] * 9, "a label of the type Timestamp at position 0; labels are text, whole"),
        (np.asarray(["2020-01-01", "2021-01-01"] * 9, dtype="datetime64[D]"), "of the type datetime64"),
        ([b"a", b"b"] * 9, "of the type bytes at position 0"),
        (np.asarray([b"a", b"b"] * 9), "of the type bytes_ at position 0"),
        ([("a", 1), ("b", 2)] * 9, "of the type tuple at position 0"),
        ([Decimal(1), Decimal(2)] * 9, "of the type Decimal"),
        ([0.25, 0.5] * 9, "0.25 at position 0: numbers with fractions.*JointRegressor.*pandas.cut"),
        ([1, 2.5] * 9, "2.5 at position 1: numbers with fractions"),
        ([float("inf"), 1.0] * 9, "inf at position 0"),
        ([True, 2] * 9, "cannot be sorted together"),
        (["a", 1] * 9, "cannot be sorted together"),
        ("ab" * 9, "y has the shape"),
        (5, "y has the shape"),
        (np.zeros((18, 2)), "the labels of all 18 posts name none"),
        (np.zeros((18, 2, 1)), r"y has the shape \(18, 2, 1\)"),
    ],
)
def test_labels_that_do_not_work(new: Any, posts: pd.DataFrame, y: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        new().fit(posts[["text", "image"]], y)


def test_labels_as_a_tensor_a_category_or_arrow(new: Any, posts: pd.DataFrame) -> None:
    X, numbers = posts[["text", "image"]], [int(label == "class1") for label in posts["label"]]
    assert new().fit(X, torch.tensor(numbers)).classes_.tolist() == [0, 1]
    assert new().fit(X, pa.array(numbers)).classes_.tolist() == [0, 1]
    assert new().fit(X, pd.Series(numbers, dtype="category")).classes_.tolist() == [0, 1]


def test_a_run_of_texts_that_look_like_numbers_is_evaluated_by_a_table(
    new: Any, posts: pd.DataFrame, tmp_path: Path
) -> None:
    y = ["1.0" if label == "class1" else "2.0" for label in posts["label"]]
    new().fit(posts[["text", "image"]], y).save(tmp_path / "run")
    write_table(posts.assign(label=y), tmp_path / "same.csv")
    flags = ["--bootstrap", "0", "--device", "cpu", "--out", str(tmp_path / "scores")]
    assert main(["evaluate", str(tmp_path / "run"), str(tmp_path / "same.csv"), *flags]) == 0
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["n"] == 18


def test_posts_that_cannot_be_scored(new: Any, posts: pd.DataFrame, tmp_path: Path) -> None:
    model = new().fit(posts[["text", "image"]], posts["label"])
    (tmp_path / "empty.png").write_bytes(b"")
    bad = [{"text": "good", "image": None}, {"text": "good", "image": str(tmp_path / "empty.png")}]
    with pytest.raises(DataError, match="1 of 2 posts cannot be scored, first at position 1: .*0 bytes"):
        model.predict(bad)
    table = model.predict_frame(bad)
    assert table["label"].notna().tolist() == [True, False]
    assert "0 bytes" in table["error"][1]


def test_a_wrong_setting_shows_at_fit(new: Any, posts: pd.DataFrame) -> None:
    with pytest.raises(ConfigError, match="epochs"):
        new().set_params(epochs=-1).fit(posts)
    with pytest.raises(ConfigError, match="unknown fusion head"):
        new(fusion="atention").fit(posts)


def test_a_validation_table_by_name(new: Any, posts: pd.DataFrame, tmp_path: Path) -> None:
    held = write_table(make_posts(tmp_path / "held", 12, seed=2), tmp_path / "held.csv")
    model = new(validation=str(held)).fit(posts[["text", "image"]], posts["label"])
    assert model.run_.metrics["validation"]["n"] == 12


def test_verbose_tells_of_every_stage_before_its_first_epoch(
    new: Any, posts: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    new(tune="top", verbose=True).fit(posts[["text", "image"]], posts["label"])
    lines = capsys.readouterr().err.splitlines()
    stages = ["reading", "computing", "training the fusion head", "fine-tuning, top"]
    places = [next(i for i, line in enumerate(lines) if line.startswith(stage)) for stage in stages]
    assert places == sorted(places)
    assert places[2] < next(i for i, line in enumerate(lines) if line.startswith("probe"))
    new(tune="top").fit(posts[["text", "image"]], posts["label"])
    assert capsys.readouterr().err == ""
