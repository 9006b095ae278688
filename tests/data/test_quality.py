from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from cotune.data.checks.quality import QualityReport, check_posts
from cotune.data.posts import read_posts
from cotune.files import to_json
from cotune.report.data_report import render_quality


def scene(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC)


def shown(report: QualityReport) -> str:
    console = Console(width=160, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(render_quality(report))
    return capture.get()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    scene(1).save(tmp_path / "good.jpg")
    scene(1).resize((320, 240)).save(tmp_path / "good-large.jpg")
    scene(2).save(tmp_path / "wrong.png", format="JPEG")
    scene(3).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-400])
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "folder.jpg").mkdir()
    Image.new("1", (12_000, 12_000)).save(tmp_path / "bomb.png")
    rows = [
        ("hello", "good.jpg", "pos"), ("other words", "good-large.jpg", "neg"),
        ("Hello http://t.co/1", "good.jpg", "neg"),
        ("hello", None, "pos"), ("", "wrong.png", "pos"), (None, None, "pos"), ("x", "cut.jpg", "pos"),
        ("y", "zero.jpg", "pos"), ("z", "page.jpg", "pos"), ("w", "folder.jpg", "pos"),
        ("v", "bomb.png", "pos"),
        ("u", "missing.jpg", "Pos"), ("long " * 500, "good.jpg", None),
    ]  # fmt: skip
    pd.DataFrame(rows, columns=["text", "image", "label"]).to_csv(tmp_path / "posts.csv", index=False)
    return tmp_path / "posts.csv"


def test_every_fault_is_found_with_row_and_reason(table: Path) -> None:
    report = check_posts(read_posts(table))
    assert report.posts == 13
    assert report.labels == {"Pos": 1, "neg": 2, "pos": 9}
    assert report.imbalance == 9.0
    assert report.unlabelled == [13]
    assert (report.without_text, report.without_image, report.without_both) == ([5], [4], [6])
    assert report.long_texts == [(13, 2500)]
    assert [(trouble.row, trouble.kind) for trouble in report.image_troubles] == [
        (7, "truncated"), (8, "empty"), (9, "unreadable"), (10, "not a file"), (11, "too large"),
        (12, "missing"),
    ]  # fmt: skip
    assert "web page" in report.image_troubles[2].reason
    assert [(trouble.row, trouble.reason) for trouble in report.mislabelled] == [(5, "holds JPEG")]
    assert report.images["posts"] == 11
    assert report.images["sound"] == 5
    assert [group.rows for group in report.of("same text")] == [[1, 4]]
    assert [group.rows for group in report.of("near text")] == [[1, 3, 4]]
    assert [group.rows for group in report.of("same image")] == [[1, 3, 13]]
    assert [group.rows for group in report.of("near image")] == [[1, 2, 3, 13]]
    assert [(group.rows, group.labels) for group in report.contradictions] == [([1, 3], ["neg", "pos"])]
    assert (report.near_groups, report.near_posts) == (1, 5)


def test_the_report_says_what_to_do(table: Path) -> None:
    report = check_posts(read_posts(table))
    advice = "\n".join(map(str, report.advice))
    for words in (
        "1 post has an image that does not exist", "5 posts have an image that cannot be used",
        "1 post has an image whose extension is wrong", "1 post has no label",
        "outnumbers the rarest 9.0 times",
        "'Pos', 'pos' differ only in case", "neither text nor image", "2,000 characters",
        "different labels",
        "grouped folds",
    ):  # fmt: skip
        assert words in advice
    page = shown(report)
    for words in ("cut.jpg", "truncated", "What to do", "good.jpg", "11 referenced"):
        assert words in page
    assert json.loads(to_json(report.to_dict()))["image_troubles"][0]["row"] == 7


def test_a_sound_table_needs_nothing() -> None:
    frame = pd.DataFrame(
        {
            "text": [f"words number {i}" for i in range(24)],
            "image": [scene(i) for i in range(24)],
            "label": ["x", "y"] * 12,
        }
    )
    report = check_posts(read_posts(frame))
    assert report.advice == []
    assert report.images == {"posts": 24, "different": 24, "sound": 24, "width": 160, "height": 120}
    assert "Nothing to fix" in shown(report)


def test_a_table_without_labels_or_pictures() -> None:
    report = check_posts(read_posts(pd.DataFrame({"text": ["a", "b"]})))
    assert (report.labels, report.imbalance, report.unlabelled) == ({}, None, [1, 2])
    assert report.images["sound"] == 0
    assert len(report.without_image) == 2
    assert "labels" in shown(report)


def test_one_label_only() -> None:
    report = check_posts(read_posts(pd.DataFrame({"text": ["a", "b"], "label": [1, 1]})))
    assert any("at least two labels" in line.text for line in report.advice)


def test_labels_that_look_the_same() -> None:
    labels = ["pos", "pos\u200b", "\u202epos", "ＰＯＳ", "neg"]
    report = check_posts(read_posts(pd.DataFrame({"text": list("abcde"), "label": labels})))
    alike = [line.text for line in report.advice if "differ only in case, spaces or characters that" in line.text]
    assert len(alike) == 1
    assert all(repr(label) in alike[0] for label in labels[:4])


def test_texts_in_brackets_are_not_taken_for_markup() -> None:
    frame = pd.DataFrame({"text": ["[red]same[/nothing]"] * 2, "label": ["[bold]x", "y"]})
    page = shown(check_posts(read_posts(frame)))
    assert "[red]same[/nothing]" in page
    assert "[bold]x" in page


def test_progress_counts_pictures_once(table: Path) -> None:
    told: list[tuple[int, int]] = []
    check_posts(read_posts(table), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (9, 9)
