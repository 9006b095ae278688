"""Equal images and texts of a chunk are read once, equal posts scored once, and every row has its own answer."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cotune.export.inputs import ImageReader
from cotune.export.package import open_export
from cotune.export.pixels import PixelSteps
from cotune.export.predictor import ExportedPredictor
from cotune.predict import Predictor
from cotune.scoring import Scorer, distinct
from explained import random_run
from tiny import Zoo, make_posts

pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")


@pytest.fixture(scope="module")
def scorers(zoo: Zoo, tiny_export: Path) -> dict[str, Scorer[Any]]:
    torch_scorer = Predictor(random_run(zoo, classes=2), device="cpu")
    return {"torch": torch_scorer, "onnx": ExportedPredictor(open_export(tiny_export), engine="onnx")}


def repeated(folder: Path) -> pd.DataFrame:
    """Return nine posts: two of them, with and without a field, with an error, and with a copy of an image."""
    one = make_posts(folder / "images", 4, gaps=False)
    posts = pd.concat([one] * 3, ignore_index=True)
    posts["id"] = [f"post-{i}" for i in range(12)]
    posts.loc[5, "image"] = None  # like post 1 and 9 but for the image
    posts.loc[6, "text"] = None
    posts.loc[7, "image"] = "/nowhere/a.png"
    copy = folder / "copy.png"
    shutil.copy(posts["image"][0], copy)
    posts.loc[8, "image"] = str(copy)
    posts.loc[11, "image"] = "/nowhere/b.png"
    return posts


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_equal_posts_are_scored_once(
    scorers: dict[str, Scorer[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    scorer, posts, scored = scorers[engine], repeated(tmp_path), []
    alone = pd.concat([scorer.frame(posts.iloc[i : i + 1].reset_index(drop=True)) for i in range(12)])
    if isinstance(scorer, ExportedPredictor):
        arrays = scorer.arrays
        monkeypatch.setattr(scorer, "arrays", lambda *given: scored.extend(given[2]) or arrays(*given))
    else:
        assert isinstance(scorer, Predictor)
        contributions = scorer.contributions
        monkeypatch.setattr(scorer, "contributions", lambda *given: scored.extend(given[1]) or contributions(*given))
    found = scorer.frame(posts)
    assert sorted(scored) == [0, 1, 2, 3, 5, 6], "posts 7 and 11 have an error, the others are copies"
    numbers = found.select_dtypes("number").columns
    np.testing.assert_allclose(found[numbers], alone[numbers], atol=1e-6)
    for name in ("id", "label", "error"):
        assert found[name].fillna("").tolist() == alone[name].fillna("").tolist()
    assert "/nowhere/a.png" in found["error"][7]
    assert "/nowhere/b.png" in found["error"][11]


def test_distinct() -> None:
    once, of = distinct(["a", "b", "a", None, "b", "c"], np.asarray([0, 2, 3, 4, 5]))
    assert once.tolist() == [0, 3, 4, 5]
    assert of.tolist() == [0, 0, 3, 4, 5]
    assert [part.tolist() for part in distinct([], np.asarray([], dtype=np.int64))] == [[], []]


def test_an_image_is_decoded_once_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    shutil.copy(tmp_path / "a.png", tmp_path / "c.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    shutil.copy(tmp_path / "bad.png", tmp_path / "worse.png")
    names = [str(tmp_path / name) for name in ("a.png", "b.png", "a.png", "c.png", "bad.png", "worse.png", "bad.png")]
    array = np.asarray(Image.open(names[0]))
    steps, calls = PixelSteps((8, 8), 8, "bilinear"), []
    reader = ImageReader(lambda image: calls.append(1) or steps(image))  # type: ignore[arg-type]
    monkeypatch.setattr(reader.steps, "size", (8, 8), raising=False)
    with ThreadPoolExecutor(1) as pool:
        found = reader.read([*names, None, Path(names[0]).read_bytes(), array, array], pool)
    assert len(calls) == 3, "two files and an array"
    assert found.rows[0] is found.rows[2] is found.rows[3] is found.rows[8]
    assert found.present.tolist() == [True] * 4 + [False] * 4 + [True] * 3
    assert {i: str(fault).partition(":")[0] for i, fault in found.faults.items()} == {
        4: names[4],
        5: names[5],
        6: names[4],
    }
    assert np.array_equal(found.rows[9], found.rows[0])
