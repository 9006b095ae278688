"""Predictions: a row for every row, and an error where there is none."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cotune.data.posts import data_hash
from cotune.data.python_posts import posts_from
from cotune.errors import DataError
from cotune.evaluation import evaluate_posts
from cotune.explain.explainer import Explainer
from cotune.predict import Predictor
from cotune.progress import Progress
from cotune.run import Run
from runs import tiny_fit
from tiny import Zoo, make_posts, picture


@pytest.fixture(scope="module")
def fitted(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_fit(zoo, tmp_path_factory.mktemp("predict"), tune="frozen", classes=3).run


@pytest.fixture
def posts(tmp_path: Path) -> pd.DataFrame:
    return make_posts(tmp_path / "new", 12, gaps=False, classes=3, seed=9)


def spoil(posts: pd.DataFrame, tmp_path: Path) -> pd.DataFrame:
    """Make the pictures of rows 2 to 5 missing, empty, unreadable and a folder; row 6 is empty altogether."""
    Path(posts["image"][1]).unlink()
    Path(posts["image"][2]).write_bytes(b"")
    Path(posts["image"][3]).write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    posts.loc[4, "image"] = str(tmp_path)
    posts.loc[5, ["text", "image"]] = None
    return posts


def test_one_row_for_every_row_in_order(fitted: Run, posts: pd.DataFrame, tmp_path: Path) -> None:
    predictor = Predictor(fitted, device="cpu")
    table = predictor.frame(spoil(posts, tmp_path))
    assert list(table.columns) == predictor.columns()
    assert list(table.columns)[:2] == ["id", "label"]
    assert table["id"].tolist() == posts["id"].tolist()
    bad = table.iloc[1:6]
    assert bad["label"].isna().all()
    assert bad[["p_class0", "text_share"]].isna().all(axis=None)
    for error, words in zip(
        bad["error"], ("no such file", "0 bytes", "", "is a folder", "no text and no image"), strict=True
    ):
        assert words in error
        assert error
    good = table.drop(index=range(1, 6))
    assert good["error"].isna().all()
    assert np.allclose(good[["p_class0", "p_class1", "p_class2"]].sum(axis=1), 1)
    assert np.allclose(good["text_share"] + good["image_share"], 1)
    assert (good["label"] == good[["p_class0", "p_class1", "p_class2"]].idxmax(axis=1).str.removeprefix("p_")).all()


def test_text_only_predicts_and_still_says_so(fitted: Run, posts: pd.DataFrame, tmp_path: Path) -> None:
    table = Predictor(fitted, device="cpu", bad_images="text-only").frame(spoil(posts, tmp_path))
    assert table["label"].notna().tolist() == [i != 5 for i in range(12)]
    assert table["error"][1].endswith("scored by its text alone")
    assert table["text_share"][1] == 1
    alone = Predictor(fitted, device="cpu").frame(posts.assign(image=None))
    assert np.allclose(alone["p_class0"][1], table["p_class0"][1], atol=1e-6)


def test_chunks_change_nothing(fitted: Run, posts: pd.DataFrame) -> None:
    predictor = Predictor(fitted, device="cpu", batch_size=5)
    whole = predictor.frame(posts)
    parts = pd.concat(predictor.stream(posts.iloc[i : i + 5] for i in range(0, 12, 5)), ignore_index=True)
    pd.testing.assert_frame_equal(whole, parts, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fusion", ["text", "image", "reference", "concat"])
def test_every_head_scores_posts_that_lack_something(
    zoo: Zoo, tmp_path: Path, posts: pd.DataFrame, fusion: str
) -> None:
    run = tiny_fit(zoo, tmp_path, tune="frozen", fusion=fusion, classes=3).run
    posts.loc[0, "text"] = None
    posts.loc[1, "image"] = None
    posts.loc[2, "image"] = str(tmp_path / "nowhere.png")
    table = Predictor(run, device="cpu").frame(posts)
    scored = table["label"].notna()
    expected = {"text": [False, True, True], "image": [True, False, False]}.get(fusion, [True, True, False])
    assert scored[:3].tolist() == expected
    assert scored[3:].all()
    if fusion in ("text", "image"):
        assert (table[f"{fusion}_share"][scored] == 1).all()
    if fusion == "text":
        assert table["error"][0] == "the post has no text"


def test_scores_and_left_out_posts_are_counted(fitted: Run, posts: pd.DataFrame, tmp_path: Path) -> None:
    posts = spoil(posts, tmp_path)
    posts.loc[10, "label"] = None
    posts.loc[11, "label"] = "nonsense"

    class Told(Progress):
        lines: list[str] = []  # noqa: RUF012

        def say(self, line: str) -> None:
            self.lines.append(line)

    result = evaluate_posts(Predictor(fitted, device="cpu"), [posts], n_bootstrap=20, progress=Told())
    assert result.left_out == {"no label": 1, "unknown label": 1, "no prediction": 5}
    assert result.evaluation.n == 5
    assert sum(each["n"] for each in result.evaluation.details["calibration"]) == 5
    assert len(result.predictions) == 12
    assert result.predictions["true"].tolist()[:3] == ["class0", "class1", "class2"]
    assert "1 post has a label that the run does not know ('nonsense')" in Told.lines[0]


def test_scoring_the_training_posts_is_told(fitted: Run, posts: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Told(Progress):
        def say(self, line: str) -> None:
            said.append(line)

    predictor = Predictor(fitted, device="cpu")
    pieces = [posts.iloc[:5], posts.iloc[5:]]
    evaluate_posts(predictor, pieces, n_bootstrap=0, progress=Told())
    assert not said
    monkeypatch.setitem(fitted.environment, "data_hash", data_hash(posts))
    evaluate_posts(Predictor(fitted, device="cpu"), pieces, n_bootstrap=0, progress=Told())
    assert "these are the posts that the run was trained on" in said[0]


def test_nothing_to_evaluate_is_an_error(fitted: Run, posts: pd.DataFrame) -> None:
    predictor = Predictor(fitted, device="cpu")
    with pytest.raises(DataError, match="12 with unknown label.*task is single-label, 3 classes: class0"):
        evaluate_posts(predictor, [posts.assign(label="x")])
    with pytest.raises(DataError, match="no posts to evaluate"):
        evaluate_posts(predictor, [])


def test_pictures_as_paths_images_and_arrays_give_the_same(fitted: Run, tmp_path: Path) -> None:
    image = picture(3)
    image.save(tmp_path / "p.png")
    forms = [str(tmp_path / "p.png"), tmp_path / "p.png", image, np.asarray(image), (tmp_path / "p.png").read_bytes()]
    posts = posts_from([{"text": "good dog", "image": form} for form in forms])
    scores = Predictor(fitted, device="cpu").scores(posts)
    assert not any(scores.errors)
    assert np.abs(scores.predictions - scores.predictions[0]).max() < 1e-6


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "a DataFrame or a list of dicts"),
        (["words"], "a DataFrame or a list of dicts"),
        ([], "no posts"),
        (pd.DataFrame({"text": []}), "no posts"),
        ([{"words": "a"}], "has no column 'text' and no 'image'"),
    ],
)
def test_what_are_no_posts(given: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        posts_from(given)


def test_one_dict_is_one_post() -> None:
    assert posts_from({"text": "a", "image": Image.new("RGB", (4, 4))})["text"].tolist() == ["a"]


def test_a_model_that_gives_no_numbers_is_said_in_every_row(fitted: Run, posts: pd.DataFrame) -> None:
    broken = copy.deepcopy(fitted)
    with torch.no_grad():
        broken.model.head.output.bias.fill_(float("nan"))  # type: ignore[union-attr, operator]
    frame = Predictor(broken, device="cpu").frame(posts)
    assert frame["label"].isna().all()
    assert frame["error"].str.contains("not a number").all()
    explainer = Explainer(broken, device="cpu")
    shares = explainer.contribution_frame(posts)
    assert shares["label"].isna().all()
    assert shares["error"].str.contains("not a number").all()
    with pytest.raises(DataError, match="cannot be explained: .*not a number"):
        explainer.explain(posts.iloc[[1]].reset_index(drop=True), words=False, pixels=False)
