"""The pages of a check: what they hold, what they never do, and a review by keyboard in a real browser."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from axe import barriers
from browser import Visit, check_fits, visits
from cotune.benchmark.label_issues import LabelIssue, LabelReview
from cotune.data.checks.quality import LabelCounts, check_posts
from cotune.data.decisions import apply_decisions, read_decisions
from cotune.data.posts import read_posts
from cotune.fields import DEFAULT_FIELDS, Field
from cotune.report.check_report import check_report, merged_groups
from cotune.report.review_page import MOST, review_page
from pages import check_page

EVIL = '<b onclick=alert(1)>"</script>'


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Posts with one of every error."""
    folder = tmp_path_factory.mktemp("posts")
    for i in range(8):
        scene(i).save(folder / f"{i}.jpg")
    scene(90, (300, 20)).save(folder / "long.png")
    (folder / "cut.jpg").write_bytes((folder / "1.jpg").read_bytes()[:-300])
    rows = [
        ("a day at the lake", "0.jpg", "good", "g"), ("A day at the lake", "0.jpg", "bad", "g"),
        (EVIL, "1.jpg", EVIL, None), (EVIL, "2.jpg", EVIL, None), ("words of a banner", "long.png", "good", None),
        ("cut short", "cut.jpg", "bad", None), ("lost", "missing.jpg", "bad", None), (None, "3.jpg", "good", None),
        ("w" * 2500, None, "bad", None), (None, None, "good", None), ("no label", "4.jpg", None, None),
        ("مرحبا بالعالم", "5.jpg", "good", None), ("the same image", "6.jpg", "good", None),
        ("once more", "6.jpg", "good", None),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["text", "image", "label", "group"])
    return read_posts(frame, base=folder)


def issue(row: int, given: str, suggested: str, p: dict[str, float]) -> LabelIssue:
    return LabelIssue(row, str(row - 1), given, suggested, 0.01 * row, p)


def review(issues: list[LabelIssue], task: str = "single-label", labels: list[str] | None = None) -> LabelReview:
    names = ["bad", "good"] if labels is None else labels
    return LabelReview(task, names, 14, {}, 5, "the run's frozen encoders", 0.8, "AUC", issues)


def data_of(page: str) -> dict[str, Any]:
    check_page(page)
    found: dict[str, Any] = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    return found


def test_the_page_says_what_to_fix_and_shows_the_posts(table: pd.DataFrame) -> None:
    page = check_report(check_posts(table), table, DEFAULT_FIELDS, name="posts.csv", suspects=3)
    check_page(page)
    for words in (
        "1 post has an image that does not exist", "3 labels look wrong", "contradicting labels", "300 × 20",
        "tiny, extreme aspect ratio", "truncated", "missing.jpg", "Arabic", "Incomplete posts", "No text",
        "1 text has over 2,000 characters", 'href="review.html"', "2 posts lie in 1 group",
    ):  # fmt: skip
        assert words in " ".join(page.split()), words
    assert page.index("does not exist") < page.index("3 labels look wrong") < page.index("scored by what they have")
    assert "<b on" not in page
    assert page.count("data:image/jpeg") >= 7
    assert "review.html" not in check_report(check_posts(table), table, DEFAULT_FIELDS, name="posts.csv")


def test_a_set_of_posts_is_shown_once_and_contradictions_come_first(table: pd.DataFrame) -> None:
    groups = merged_groups(check_posts(table))
    assert [group["rows"] for group in groups] == [[1, 2], [3, 4], [13, 14]]
    assert groups[0]["contradicts"]
    assert groups[0]["by"] == "near text, same image"
    assert [group["contradicts"] for group in groups[1:]] == [False, False]


def test_the_page_of_a_sound_table_and_of_one_without_labels() -> None:
    sound = read_posts(pd.DataFrame({"text": [f"words number {i}" for i in range(24)], "label": ["x", "y"] * 12}))
    texts = (Field(name="text", kind="text"),)
    page = check_report(check_posts(sound, texts), sound, texts, name="p")
    check_page(page)
    assert "Nothing to fix was found." in page
    assert "Sizes of images" not in page
    plain = sound.assign(label=None)
    page = check_report(check_posts(plain), plain, DEFAULT_FIELDS, name="p")
    check_page(page)
    assert "No post has a label" in page


def test_several_fields_tables_and_other_tasks(tmp_path: Path) -> None:
    for i in range(3):
        scene(i).save(tmp_path / f"{i}.png")
    fields = (
        Field(name="title", kind="text"), Field(name="body", kind="text"), Field(name="front", kind="image"),
        Field(name="back", kind="image"), Field(name="table", kind="table", columns=("price", "colour")),
    )  # fmt: skip
    frame = pd.DataFrame({
        "id": list("abcd"), "row": range(1, 5), "title": ["one", "one", "two", None], "body": ["x", "x", "y", "z"],
        "front": [str(tmp_path / name) for name in ("0.png", "0.png", "1.png", "gone.png")],
        "back": [str(tmp_path / "2.png"), None, None, None], "label": ["1.5", "7", "2", "3"], "group": None,
        "table": [{"price": 3.5, "colour": "red"}, {"price": 3.5, "colour": "red"}, {"price": 4, "colour": None}, None],
    }, dtype=object)  # fmt: skip
    counts = LabelCounts("regression", {"1.5 to 4": 3, "4 to 7": 1})
    report = check_posts(frame, fields, labels=counts)
    assert report.imbalance is None
    assert {group.by for group in report.duplicates} == {"same text", "same image (front)"}
    assert [(trouble.row, trouble.field) for trouble in report.image_troubles] == [(4, "front")]
    assert report.filled == {"title": 3, "body": 4, "front": 4, "back": 1, "table": 3}
    said = [
        advice.text for advice in report.advice if "labels" in advice.text and "different labels" not in advice.text
    ]
    assert len(said) == 1
    assert "takes for a quantity" in said[0]
    page = check_report(report, frame, fields, name="p")
    check_page(page)
    for words in ("quarter of the range", "Texts: title", "Texts: body", "colour</span> red", "front"):
        assert words in page, words


def test_the_review_holds_the_worst_posts_and_no_markup_of_theirs(table: pd.DataFrame) -> None:
    found = [issue(3, EVIL, "good", {"bad": 0.1, "good": 0.9}), issue(1, "good", "bad", {"bad": 0.8, "good": 0.2})]
    page = review_page(review(found), table, DEFAULT_FIELDS, name=EVIL)
    data = data_of(page)
    assert [post["row"] for post in data["posts"]] == [3, 1]
    assert data["posts"][0]["texts"] == [["text", EVIL]]
    assert data["posts"][1]["p"] == [0.8, 0.2]
    assert data["posts"][1]["images"][0]["uri"].startswith("data:image/jpeg")
    assert "<b on" not in page
    other = review_page(review(found), table.assign(label="good"), DEFAULT_FIELDS, name="p")
    assert data_of(other)["key"] != data["key"], "decisions on other labels are kept apart"


def test_a_review_is_bounded_and_says_so(table: pd.DataFrame) -> None:
    many = [issue(1 + i % 14, "good", "bad", {"bad": 0.8, "good": 0.2}) for i in range(MOST + 40)]
    page = review_page(review(many), table, DEFAULT_FIELDS, name="p")
    assert len(data_of(page)["posts"]) == MOST
    assert f"The {MOST} worst are here" in page
    nothing = review_page(review([]), table, DEFAULT_FIELDS, name="p")
    check_page(nothing)
    assert "No label of 14 posts stands out as wrong." in nothing


# ---- in Chromium -----------------------------------------------------------------------------------------

Open = Callable[..., Any]


@pytest.fixture
def visit(chromium: Any, tmp_path: Path) -> Iterator[Open]:
    """Open pages, each in a window of its own; none may complain or ask for anything."""
    with visits(chromium, Visit) as make:

        def opened(page: str, width: int = 1280, scheme: str = "light") -> Any:
            file = tmp_path / "page.html"
            file.write_text(page, encoding="utf-8")
            shown = make(width, scheme).page
            shown.goto(file.as_uri())
            return shown

        yield opened


LOOKS = [(1280, "light"), (390, "dark")]


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_the_page_of_a_check_has_no_barriers(visit: Open, table: pd.DataFrame, width: int, scheme: str) -> None:
    html = check_report(check_posts(table), table, DEFAULT_FIELDS, name="posts.csv", suspects=2)
    page = visit(html, width, scheme)
    assert barriers(page) == []
    check_fits(page)
    shown = page.locator(".dup img").evaluate_all(
        "all => Promise.all(all.map(async image => { image.loading = 'eager'; await image.decode(); return image.naturalWidth; }))"
    )
    assert len(shown) == 6
    assert all(shown)


def saved(page: Any, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name="Save decisions.csv").click()
    assert download.value.suggested_filename == "decisions.csv"
    path = folder / "decisions.csv"
    download.value.save_as(path)
    return path


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_posts_are_reviewed_by_keyboard_alone(
    visit: Open, table: pd.DataFrame, tmp_path: Path, width: int, scheme: str
) -> None:
    p = {"bad": 0.3, "good": 0.7}
    issues = [issue(row, str(table["label"][row - 1]), "good", p) for row in (1, 2, 6, 7, 8)]
    page = visit(review_page(review(issues), table, DEFAULT_FIELDS, name="posts.csv"), width, scheme)
    assert barriers(page) == []
    check_fits(page)
    heading, press = page.locator("#where"), page.keyboard.press
    assert "Post 1 of 5 row 1" in heading.inner_text()
    assert page.get_by_role("button", name="Save decisions.csv").is_disabled()
    press("1")  # good -> bad
    assert page.evaluate("document.activeElement.id") == "where", "a screen reader reads the next post"
    assert page.locator("#status").inner_text() == "Row 1 changed to bad."
    press("s")
    assert "row 6" in heading.inner_text()
    press("x")
    press("1")  # row 7 is bad: kept
    press("u")
    assert "row 7" in heading.inner_text()
    press("Enter")
    press("2")  # row 8 is good: kept
    press("2")  # row 2, bad -> good, which was skipped
    assert page.locator("#status").inner_text().endswith("All posts are reviewed: save your decisions.")
    assert page.locator("#count").inner_text() == "5 reviewed"
    press("ArrowLeft")
    assert "Post 1 of 5" in heading.inner_text()
    assert barriers(page) == []
    path = saved(page, tmp_path)
    rows = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    assert [(row["row"], row["decision"], row["label"], row["given"]) for row in rows] == [
        ("1", "change", "bad", "good"), ("2", "change", "good", "bad"), ("6", "exclude", "", "bad"),
        ("7", "keep", "bad", "bad"), ("8", "keep", "good", "good"),
    ]  # fmt: skip
    found, note = apply_decisions(table, read_decisions(path))
    assert found["label"].tolist()[:2] == ["bad", "good"]
    assert 6 not in found["row"].tolist()
    assert "2 changed, 1 post left out, 2 kept" in note
    page.reload()
    assert page.locator("#count").inner_text() == "5 reviewed"
    assert "of an earlier visit are still here" in page.locator("#status").inner_text()


@pytest.mark.browser
def test_several_labels_are_ticked_by_mouse_and_numbers_typed(visit: Open, table: pd.DataFrame, tmp_path: Path) -> None:
    found = review([issue(1, "a|b", "b", {"a": 0.2, "b": 0.9, "c": 0.4})], "multi-label", ["a", "b", "c"])
    page = visit(review_page(found, table, DEFAULT_FIELDS, name="p"))
    choices = page.locator("#labels button")
    assert choices.evaluate_all("all => all.map(one => one.getAttribute('aria-pressed'))") == ["true", "true", "false"]
    choices.nth(0).click()
    choices.nth(2).click()
    page.get_by_role("button", name="Save and go on").click()
    assert "0,1,b|c,change,a|b" in saved(page, tmp_path).read_text(encoding="utf-8")
    page.get_by_label("Keyboard shortcuts").uncheck()
    page.locator("#where").focus()
    page.keyboard.press("x")
    assert page.locator("#decision").inner_text() == "changed to b, c", "shortcuts can be turned off"

    amounts = review([issue(2, "7", "2.5", {"value": 2.5})], "regression", [])
    page = visit(review_page(amounts, table, DEFAULT_FIELDS, name="p"))
    assert barriers(page) == []
    page.get_by_label("New value").fill("much")
    page.keyboard.press("Enter")
    assert "Type a number" in page.locator("#status").inner_text()
    page.get_by_label("New value").fill("3,25")
    page.keyboard.press("Enter")
    assert "1,2,3.25,change,7" in saved(page, tmp_path).read_text(encoding="utf-8")
    page.locator("#where").focus()
    page.keyboard.press("t")
    assert "1,2,2.5,change,7" in saved(page, tmp_path).read_text(encoding="utf-8")
