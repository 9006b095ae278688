"""The page to look through scored posts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cotune.fields import DEFAULT_FIELDS, Field
from cotune.report.posts_page import ShownPosts, posts_page
from cotune.report.thumbnails import thumbnail, thumbnails
from cotune.scoring import Scores, predictions_table
from cotune.tasks import Task
from cotune.tasks.multi_label import MultiLabel
from cotune.tasks.regression import Regression
from cotune.tasks.single_label import SingleLabel
from pages import check_page

EVIL = "</script><script>alert(1)</script>"


def posts_of(folder: Path, n: int, labels: list[Any], text: str = "some words") -> pd.DataFrame:
    path = folder / "image.png"
    Image.new("RGB", (300, 200), "red").save(path)
    return pd.DataFrame({
        "id": [f"post {i}" for i in range(n)], "row": range(2, n + 2), "text": text, "image": str(path),
        "label": [labels[i % len(labels)] for i in range(n)],
    })  # fmt: skip


def shown(task: Task, posts: pd.DataFrame, outputs: np.ndarray, limit: int = 100) -> ShownPosts:
    shares = np.tile([0.25, 0.75], (len(posts), 1))
    scores = replace(Scores.none(task, ("text", "image"), [""] * len(posts)), predictions=outputs, shares=shares)
    table = predictions_table(task, ("text", "image"), posts["id"], scores)
    found = ShownPosts(task, DEFAULT_FIELDS, limit)
    for at in range(0, len(posts), 7):
        found.add(posts.iloc[at : at + 7], table.iloc[at : at + 7])
    return found


def data_of(page: str) -> dict[str, Any]:
    check_page(page)
    found: dict[str, Any] = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    return found


def test_the_page_holds_all_that_its_filters_need(tmp_path: Path) -> None:
    posts = posts_of(tmp_path, 20, ["no", "yes"])
    outputs = np.tile([0.9, 0.1], (20, 1))
    outputs[3] = np.nan  # no prediction
    data = data_of(posts_page(shown(SingleLabel(("no", "yes")), posts, outputs), title="mine"))
    assert data["kind"] == "multiclass"
    assert len(data["posts"]) == 19
    first = data["posts"][0]
    assert first["image"].startswith("data:image/jpeg;base64,")
    del first["image"]
    assert first == {
        "row": 2, "id": "post 0", "true": "no", "label": "no", "outputs": [[0, 0.9], [1, 0.1]], "shares": [0.25, 0.75],
        "texts": ["some words"],
    }  # fmt: skip


def test_what_posts_say_is_never_markup(tmp_path: Path) -> None:
    posts = posts_of(tmp_path, 2, ["no", EVIL], text=EVIL).astype(object)
    posts.loc[1, "text"] += "\ud800"  # half a character, as scraped texts have
    page = posts_page(shown(SingleLabel(("no", EVIL)), posts, np.tile([0.9, 0.1], (2, 1))), title=EVIL)
    page.encode("utf-8", "replace")
    assert "<script>alert" not in page
    assert data_of(page)["posts"][0]["texts"][0].startswith("</script>")


def test_of_many_posts_a_random_sample_is_kept_and_the_page_says_so(tmp_path: Path) -> None:
    posts = posts_of(tmp_path, 300, ["no", "yes"])
    found = shown(SingleLabel(("no", "yes")), posts, np.tile([0.6, 0.4], (300, 1)), limit=40)
    page = posts_page(found, title="many")
    rows = [post["row"] for post in data_of(page)["posts"]]
    assert len(set(rows)) == 40
    assert rows == sorted(rows)
    assert max(rows) > 200
    assert "A random sample of 40 of 300 posts" in page


def test_other_tasks_and_labels_that_the_run_does_not_know(tmp_path: Path) -> None:
    several = shown(MultiLabel(("a", "b")), posts_of(tmp_path, 4, ["a|b", "|", "c"]), np.tile([0.9, 0.8], (4, 1)))
    found = data_of(posts_page(several, title="several"))
    assert [post["true"] for post in found["posts"]] == [["a", "b"], [], None, ["a", "b"]]
    assert found["posts"][0]["label"] == ["a", "b"]
    number = shown(Regression(0.0, 1.0), posts_of(tmp_path, 3, ["1.5"]), np.asarray([[2.0], [1.0], [0.5]]))
    page = posts_page(number, title="number")
    assert [post["label"] for post in data_of(page)["posts"]] == [2.0, 1.0, 0.5]
    assert "Confidence" not in page


def test_several_texts_tables_and_images_that_are_no_files(tmp_path: Path) -> None:
    kinds = {"title": "text", "about": "table", "photo": "image"}
    fields = tuple(Field(name=name, kind=kind) for name, kind in kinds.items())
    buffer = tmp_path / "b.png"
    Image.new("RGB", (30, 20)).save(buffer)
    posts = pd.DataFrame({
        "id": ["a", "b"], "row": [2, 3], "title": ["x" * 900, None], "about": [{"age": 3.5, "sex": None}, None],
        "photo": [buffer.read_bytes(), b"no image"],
    })  # fmt: skip
    task = SingleLabel(("no", "yes"))
    scores = replace(Scores.none(task, tuple(kinds), ["", ""]), predictions=np.tile([0.9, 0.1], (2, 1)))
    found = ShownPosts(task, fields)
    found.add(posts, predictions_table(task, [one.name for one in fields], posts["id"], scores))
    page = posts_page(found, title="t")
    first, second = data_of(page)["posts"]
    assert first["texts"][0].endswith("…")
    assert len(first["texts"][0]) < 500
    assert first["texts"][1] == "age: 3.5"
    assert first["image"]
    assert second["image"] == ""
    assert "Mostly by" not in page, "no shares are known"
    assert "Thumbnails of 1 of 2 images" in page


@pytest.mark.parametrize("source", [None, float("nan"), "missing.jpg", "https://example.org/a.jpg", b"junk"])
def test_no_thumbnail_of_what_is_no_image(source: Any) -> None:
    assert thumbnail(source) == ""


def test_thumbnails_are_bounded_in_number_of_bytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 600, 3), dtype=np.uint8)
    one = thumbnail(noise)
    found = thumbnails([noise] * 200, budget=5 * len(one))
    assert [bool(uri) for uri in found] == [True] * 5 + [False] * 195
