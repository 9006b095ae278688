"""Excel workbooks as posts tables."""

from __future__ import annotations

import datetime
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cotune.cli import main
from cotune.data.posts import iter_posts, read_posts
from cotune.data.tables import excel
from cotune.data.tables.row_errors import row_errors
from cotune.errors import DataError

openpyxl = pytest.importorskip("openpyxl")


def book(path: Path, rows: list[list[Any]], *, more: dict[str, list[list[Any]]] | None = None) -> Path:
    made = openpyxl.Workbook()
    for row in rows:
        made.active.append(row)
    for name, others in (more or {}).items():
        sheet = made.create_sheet(name)
        for row in others:
            sheet.append(row)
    made.save(path)
    return path


def test_the_first_sheet_is_read(tmp_path: Path) -> None:
    rows = [["id", "text", "image", "label", "split"], [1, "olá\nline", "img/a.png", 1, "train"], [None, None, None, None, None],
            [2, 5, None, 0.0, "test"], ["007", True, "/b.png", "yes", "test"]]  # fmt: skip
    path = book(tmp_path / "posts.xlsx", rows, more={"notes": [["text"], ["not this"]]})
    posts = read_posts(path, allow_outside=True)
    assert posts["id"].tolist() == ["1", "2", "007"]
    assert posts["text"].tolist() == ["olá\nline", "5", "True"]
    assert posts["image"].tolist() == [str(tmp_path / "img/a.png"), None, "/b.png"]
    assert posts["label"].tolist() == ["1", "0", "yes"]
    assert posts["row"].tolist() == [1, 2, 3]
    assert [len(piece) for piece in iter_posts(path, 2)] == [2, 1]
    assert read_posts(path, where={"split": "test"})["row"].tolist() == [2, 3]


def test_a_date_as_a_label_is_an_error_of_its_row(tmp_path: Path) -> None:
    posts = read_posts(book(tmp_path / "a.xlsx", [["text", "label"], ["a", datetime.datetime(2020, 1, 1)], ["b", "x"]]))
    assert "the label is a datetime" in str(row_errors(posts)[0])
    assert posts["label"].tolist() == [None, "x"]


def test_columns_without_a_name_and_short_rows(tmp_path: Path) -> None:
    posts = read_posts(book(tmp_path / "a.xlsx", [["text", None, "label"], ["a", "?", "x"], ["b"]]))
    assert posts[["text", "label"]].to_numpy().tolist() == [["a", "x"], ["b", None]]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "the first sheet is empty"),
        ([["text", "text"], ["a", "b"]], "'text' more than once"),
        ([["words"], ["a"]], "no column 'text'"),
        ([["text"]], "holds no posts"),
    ],
)
def test_workbooks_that_cannot_be_used(tmp_path: Path, rows: list[list[Any]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_posts(book(tmp_path / "a.xlsx", rows))


def test_files_that_are_no_workbooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xlsx").write_text("text\na\n")
    with zipfile.ZipFile(tmp_path / "b.xlsx", "w") as packed:
        packed.writestr("x.txt", "hello")
    whole = book(tmp_path / "c.xlsx", [["text"], *([f"words {i}"] for i in range(2000))]).read_bytes()
    (tmp_path / "d.xlsx").write_bytes(whole[: len(whole) // 2])
    for name in ("a", "b", "d"):
        with pytest.raises(DataError, match="is not a readable workbook") as caught:
            read_posts(tmp_path / f"{name}.xlsx")
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(excel, "_MOST_BYTES", 100)
    with pytest.raises(DataError, match=r"unpacks to .* MB; save it as \.csv"):
        read_posts(tmp_path / "c.xlsx")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = book(tmp_path / "a.xlsx", [["text"], ["a"]])
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(DataError, match=r"pip install 'cotune\[excel\]', or save it as \.csv"):
        read_posts(path)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(book(tmp_path / "a.xlsx", [["text", "label"], ["a", "x"], ["b", "y"]]))]) == 0
    assert "x 1 (50%), y 1 (50%)" in capsys.readouterr().out
