"""Explanations as JSON and as pages: complete, escaped, and readable in a browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cotune import JointClassifier
from cotune.errors import DataError
from cotune.explain.explanation import Explanation
from cotune.explain.table.explain_posts import explain_posts
from cotune.explain.table.second_pass import ExplainPlan
from cotune.report import explain_report
from cotune.report.explain_report import page_name, post_page, set_page, with_neighbours
from cotune.run import Run
from explained import EVIL, evil_posts, evil_run, explainer, post, random_run
from tiny import PostsMaker, Zoo, picture

torch.set_num_threads(1)


class Reader(HTMLParser):
    """Collects tags, text and addresses, and notes tags that are left open."""

    VOID = frozenset({"meta", "img", "br", "hr", "line", "circle"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.addresses.append(value)
            if name.startswith("on"):
                self.handlers.append(name)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check_page(page: str) -> Reader:
    """Return the page read; it must be whole, run nothing and fetch nothing."""
    reader = Reader(page)
    assert reader.open == []
    assert "script" not in reader.tags
    assert not reader.handlers
    for address in reader.addresses:
        assert address.startswith(("data:image/", "#", "posts/", "../index.html")), address
    assert not re.search(r"url\((?!data:)|@import", page)
    return reader


@pytest.fixture(scope="module")
def run(zoo: Zoo) -> Run:
    return random_run(zoo)


@pytest.fixture(scope="module")
def found(run: Run) -> Explanation:
    one = post(
        "the good dog is so very happy! #sunday 今日 \U0001f600", picture(2, size=(120, 70)), label="class1", id="p7"
    )
    return explainer(run).explain(one)


def test_the_result_is_plain_numbers(found: Explanation) -> None:
    said = json.loads(found.to_json())
    assert said["id"] == "p7"
    assert said["true"] == "class1"
    assert set(said["probability"]) == {"class0", "class1", "class2"}
    assert sum(said["probability"].values()) == pytest.approx(1)
    for name, parts in said["log_odds"].items():
        p = said["probability"][name]
        assert parts["base"] + parts["text"] + parts["image"] == pytest.approx(np.log(p / (1 - p)), abs=1e-3)
    assert said["text_share"] + said["image_share"] == pytest.approx(1)
    assert [word["text"] for word in said["words"]["words"]][:3] == ["the", "good", "dog"]
    assert said["words"]["completeness_error"] <= 0.03
    assert np.asarray(said["pixels"]["patches"]).shape == (7, 7)
    assert said["frame"]["left"] < said["frame"]["right"]
    assert said["removed"]["text"]["by"] == "learned"
    assert said["verdict"]


def test_a_notebook_gets_a_whole_piece_of_html(found: Explanation) -> None:
    reader = check_page(found._repr_html_())
    assert {"style", "mark", "table", "img"} <= set(reader.tags)
    assert found.label in reader.text


def test_a_post_page_shows_every_value_as_text(found: Explanation) -> None:
    page = post_page(found, row=3, run="my run", index="../index.html")
    reader = check_page(page)
    text = reader.text
    assert "Post p7" in text
    assert f"Text {found.shares['text']:.0%}" in text
    assert f"Image {found.shares['image']:.0%}" in text
    strongest = max(found.words["text"].words, key=lambda word: abs(word.gradient))
    assert f"{strongest.gradient:+.2f}".replace("-", "−") in text
    assert "今日" in text
    assert "\U0001f600" in text
    assert "viewport" in page
    assert "prefers-color-scheme: dark" in page
    assert "Content-Security-Policy" in page
    assert reader.tags.count("img") == 2
    assert page.count("cx-for-bar") + page.count("cx-against-bar") > 3


def test_nothing_that_a_post_says_is_markup(zoo: Zoo, tmp_path: Path) -> None:
    explain = explainer(evil_run(zoo), bad_images="text-only")
    posts = evil_posts(tmp_path / "posts")
    pages: dict[int, str] = {}

    def keep(row: int, result: Explanation) -> None:
        pages[row] = post_page(result, row=row, run=EVIL, index="../index.html")

    result = explain_posts(explain, lambda: [posts], ExplainPlan(limit=9), out=tmp_path / "out", on_explanation=keep)
    assert len(pages) == 5
    for row, page in pages.items():
        reader = check_page(page)
        assert reader.tags.count("img") == (0 if row == 5 else 2)
        assert "<script>document.title='owned'</script>" in reader.text
    assert "&lt;b&gt;gone" in pages[5], "the name of an image that cannot be read stands in the note"
    reader = check_page(set_page(result, run=EVIL, posts=EVIL))
    assert "<script>document.title='owned'</script>" in reader.text
    shown = [int(row["row"]) for rows in result.lists.values() for row in rows] + list(result.explained)
    assert set(result.thumbnails) == set(range(1, 6))
    assert result.thumbnails[5] == "", "an image that cannot be read has none"
    assert reader.tags.count("img") == sum(bool(result.thumbnails[row]) for row in shown), "no image but thumbnails"
    check_page(explain.explain(posts.iloc[[0]].reset_index(drop=True))._repr_html_())


def test_page_names_hold_nothing_of_the_post() -> None:
    assert page_name(12) == "post-000012.html"


def test_the_table_page_has_every_part(run: Run, new_posts: PostsMaker, tmp_path: Path) -> None:
    posts = new_posts(24, classes=3)
    result = explain_posts(explainer(run), lambda: [posts[:10], posts[10:]], ExplainPlan(limit=5), out=tmp_path)
    reader = check_page(set_page(result, run="r", posts="p.csv"))
    for title in ("Text share by predicted class", "Agreement and interaction", "Words that support each class most", "Most image-driven",
                  "Most text-driven", "Most confident errors", "Posts with words and pixels"):  # fmt: skip
        assert title in reader.text, title
    links = {address for address in reader.addresses if address.startswith("posts/")}
    assert links == {f"posts/{page_name(row)}" for row in result.explained}
    anchors = [address[1:] for address in reader.addresses if address.startswith("#")]
    page = set_page(result, run="r", posts="p.csv")
    assert all(f'id="{name}"' in page for name in anchors)


def test_a_table_of_which_nothing_can_be_scored_still_has_a_page(run: Run, tmp_path: Path) -> None:
    nothing = post(None, str(tmp_path / "gone.png"))
    result = explain_posts(explainer(run), lambda: [nothing], ExplainPlan(), out=tmp_path / "out")
    assert result.summary["scored"] == 0
    assert "Without a prediction" in check_page(set_page(result, run="r", posts="p")).text


def test_thumbnails_stay_within_their_budget_and_the_first_of_every_list_come_first(
    run: Run, new_posts: PostsMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posts = new_posts(24, classes=3)
    result = explain_posts(
        explainer(run), lambda: [posts], ExplainPlan(limit=6, words=False, pixels=False), out=tmp_path
    )
    assert all(small.startswith("data:image/jpeg") for row, small in result.thumbnails.items() if small)
    assert "data:image" not in (tmp_path / "summary.json").read_text(), "they are for pages alone"
    monkeypatch.setattr(explain_report, "BUDGET", 5000)
    page = set_page(result, run="r", posts="p")
    assert sum(map(len, re.findall(r'src="(data:[^"]*)"', page))) <= 5000
    lists = page.split('<section id="list-')[1:]
    assert len(lists) > 2
    assert all(re.search(r"<li>(<img|<span)", part) for part in lists)
    assert all(re.search(r"<li>.*?<img", part.split("</li>")[0], re.S) for part in lists), "one in every list"


def test_posts_lead_to_their_neighbours(found: Explanation) -> None:
    page = post_page(found, row=3, run="r", index="../index.html")
    assert "post-" not in page
    both = with_neighbours(page, (1, "<b>"), (7, "p\\1"))
    assert '<a href="post-000001.html" rel="prev">Previous: &lt;b&gt;</a>' in both
    assert '<a href="post-000007.html" rel="next">Next: p\\1</a>' in both
    last = with_neighbours(both, (2, "x"), None)
    assert "post-000002.html" in last
    assert "Next" not in last
    assert "post-000007" not in last
    alone = post_page(found, row=3, run="r")
    assert with_neighbours(alone, (1, "a"), None) == alone


@pytest.mark.parametrize("head", ["text", "image", "reference", "concat"])
def test_other_heads_have_pages_and_say_what_they_lack(
    zoo: Zoo, new_posts: PostsMaker, tmp_path: Path, head: str
) -> None:
    one = random_run(zoo, head=head)
    posts = new_posts(12)
    result = explain_posts(explainer(one), lambda: [posts], ExplainPlan(limit=3), out=tmp_path / "out")
    text = check_page(set_page(result, run="r", posts="p")).text
    assert ("embedding of zeros" in text) == (head == "reference")
    found = explainer(one).explain(post("good dog", picture(1)))
    notes = " ".join(found.notes)
    page = check_page(post_page(found, row=1, run="r")).text
    if head == "reference":
        assert "an embedding of zeros stands in" in notes
        assert "zeros" in page
    elif head in ("text", "image"):
        assert notes == f"This run reads the {head} alone."
        assert found.shares == {"text": float(head == "text"), "image": float(head == "image")}
        assert list(found.words) == (["text"] if head == "text" else [])
        assert list(found.images) == (["image"] if head == "image" else [])
        assert all(part.pixels is not None for part in found.images.values())


def test_posts_that_lack_something_are_explained_by_the_rest(run: Run) -> None:
    no_text = explainer(run).explain(post("   ", picture(1)))
    assert no_text.shares == {"text": 0.0, "image": 1.0}
    assert no_text.words == {}
    assert no_text.images["image"].pixels is not None
    assert "no text" in no_text.notes[0]
    no_image = explainer(run).explain(post("good dog", None))
    assert no_image.shares == {"text": 1.0, "image": 0.0}
    assert no_image.images == {}
    assert no_image.alone["image"] is None
    for found in (no_text, no_image):
        check_page(post_page(found, row=1, run="r"))


def test_a_picture_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be explained.*broken.png"):
        explainer(run).explain(post("good dog", str(broken)))
    found = explainer(run, bad_images="text-only").explain(post("good dog", str(broken)))
    assert "scored by its text alone" in found.notes[0]
    assert found.shares["text"] == 1.0
    with pytest.raises(DataError, match="has no text and no image"):
        explainer(run).explain(post("", None))
    with pytest.raises(DataError, match="one post is explained at a time"):
        explainer(run).explain(pd.concat([post("a", None)] * 2))


def test_pictures_of_any_shape_are_drawn(run: Run) -> None:
    for size in ((1, 1), (4000, 3), (3, 3000), (64, 64)):
        found = explainer(run).explain(post("good", Image.new("RGB", size, "red")), words=False)
        assert found.images["image"].image is not None
        assert found.words == {}
        check_page(post_page(found, row=1, run="r"))


def test_the_scikit_learn_face_explains(run: Run) -> None:
    model = JointClassifier.from_run(run, device="cpu")
    row = {"text": "good dog", "image": picture(1), "label": "class0"}
    found = model.explain(row)
    proba = model.predict_proba([row])[0]
    assert [found.predictions[name] for name in run.classes] == pytest.approx(proba.tolist(), abs=1e-5)
    assert found.true == "class0"
    assert found.words["text"].words
    assert found.images["image"].pixels is not None
    plain = model.explain(pd.DataFrame([row]), words=False, pixels=False)
    assert plain.words == {}
    assert plain.images["image"].pixels is None
    with pytest.raises(DataError, match="one post"):
        model.explain([row, row])


def test_an_explanation_as_plain_values(zoo: Zoo) -> None:
    found = explainer(random_run(zoo)).explain(post("good dog", picture(1)))
    values = found.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["pixels"]["map"] == found.images["image"].pixels.map.tolist()  # type: ignore[union-attr]
