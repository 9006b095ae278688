"""One odd cell is an error of its row, everywhere, and never of the whole table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cotune.benchmark.folds import cut_posts, told_left_out
from cotune.cli import main
from cotune.data.checks.quality import check_posts
from cotune.data.posts import ColumnNames, iter_posts, read_posts
from cotune.data.python_posts import posts_from
from cotune.data.tables.row_errors import RowErrorCount, row_errors
from cotune.errors import DataError
from cotune.evaluation import evaluate_posts
from cotune.explain.explainer import Explainer
from cotune.predict import Predictor
from cotune.run import Run, save_run
from cotune.training.fit import fit_posts
from runs import Told, tiny_config, tiny_fit
from tiny import Zoo, make_posts

ODD: list[tuple[str, Any, str]] = [
    ("text", ["a", "b"], "the text is a list of 2 values, expected a string"),
    ("text", {"words": "a"}, "the text is a dictionary of 1 value"),
    ("text", [5], "the text is a list of 1 value"),
    ("image", ["a.jpg", "b.jpg"], "the image is a list of 2 values, expected a path"),
    ("image", 5, "the image is an integer"),
    ("image", True, "the image is an integer"),
    ("image", {"url": "x"}, "the image is a dictionary of 1 value"),
    ("label", ["x", ["y", "z"]], "the label is a list of 2 values, expected a string or number"),
    ("label", {}, "the label is a dictionary of 0 values"),
    ("id", {"a": 1}, "the id is a dictionary of 1 value"),
    ("group", [1, 2], "the group is a list of 2 values"),
]


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(("field", "value", "words"), ODD)
def test_the_row_has_the_error_and_the_others_are_read(tmp_path: Path, field: str, value: Any, words: str) -> None:
    good = {"id": "g", "text": "hello", "image": "a.png", "label": "x", "group": "1"}
    path = write_lines(tmp_path / "a.jsonl", [good, {**good, "id": "bad", field: value}, {**good, "id": "h"}])
    for posts in (read_posts(path), pd.concat(iter_posts(path, 2), ignore_index=True)):
        first, second, third = row_errors(posts)
        assert first is None
        assert third is None
        assert second is not None
        assert words in str(second)
        assert second.fields == (field,)
        assert posts["id"].tolist() == ["g", "row-2" if field == "id" else "bad", "h"]
        assert posts["row"].tolist() == [1, 2, 3]
        assert field == "id" or posts[field][1] is None


def test_two_odd_cells_of_a_row_are_both_named(tmp_path: Path) -> None:
    posts = read_posts(write_lines(tmp_path / "a.jsonl", [{"text": [1, 2], "label": {}}]))
    error = row_errors(posts)[0]
    assert error is not None
    assert error.fields == ("text", "label")
    assert "the text is a list of 2 values" in str(error)
    assert "the label is a dictionary" in str(error)


def test_a_list_that_holds_one_string_is_that_string_and_an_empty_one_is_nothing(tmp_path: Path) -> None:
    lines = [{"text": ["hello"], "image": ["a.png"], "label": ["x"]}, {"text": [], "image": [], "label": None}]
    posts = read_posts(write_lines(tmp_path / "a.jsonl", lines))
    assert posts[["text", "image", "label"]].to_numpy().tolist() == [
        ["hello", str(tmp_path / "a.png"), "x"],
        [None, None, None],
    ]
    assert row_errors(posts) == [None, None]


def test_a_list_of_labels_is_a_post_with_several_of_them_or_with_none(tmp_path: Path) -> None:
    lines = [{"text": "a", "label": given} for given in (["x", "y"], ["y", 1, True], [])]
    posts = read_posts(write_lines(tmp_path / "a.jsonl", lines))
    assert posts["label"].tolist() == ["x|y", "y|1|True", "|"]
    assert row_errors(posts) == [None] * 3


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array([b"ok", b"\xff\xfe", b"\xc3\xa9"], pa.binary()),
            "label": pa.array([b"x", b"y", b"\xff"], pa.binary()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    posts = read_posts(tmp_path / "a.parquet")
    assert posts["text"].tolist() == ["ok", None, "é"]
    assert [str(error) for error in row_errors(posts)[1:]] == [
        "the text is bytes that are not UTF-8 (byte 1)",
        "the label is bytes that are not UTF-8 (byte 1)",
    ]


def test_a_string_column_of_parquet_with_one_broken_string(tmp_path: Path) -> None:
    offsets = pa.array([0, 2, 4, 6], pa.int32()).buffers()[1]
    broken = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"ok\xff\xfeme")])
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    posts = read_posts(tmp_path / "a.parquet")
    assert posts["text"].tolist() == ["ok", None, "me"]
    assert "not UTF-8" in str(row_errors(posts)[1])


def test_a_day_that_python_has_not_is_an_error_of_its_row(tmp_path: Path) -> None:
    days = pa.array([0, 2**52], pa.timestamp("ms"))
    pq.write_table(pa.table({"text": ["a", "b"], "group": days}), tmp_path / "a.parquet")
    posts = read_posts(tmp_path / "a.parquet")
    assert posts["group"][0].startswith("1970")
    assert "cannot be read" in str(row_errors(posts)[1])


def test_a_number_of_too_many_digits_is_read_as_words(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 1}\n{"text": ' + "7" * 5000 + ', "label": 2}\n')
    assert read_posts(tmp_path / "a.jsonl")["text"].tolist() == ["a", "7" * 5000]


def test_python_objects() -> None:
    frame = pd.DataFrame({"text": ["a", object(), np.asarray(["b", "c"])], "label": ["x", "y", pd.Timestamp(0)]})
    errors = row_errors(read_posts(frame))
    assert [None if error is None else error.fields for error in errors] == [None, ("text",), ("text", "label")]
    assert "a Timestamp" in str(errors[2])


def test_the_first_rows_are_named_and_all_are_counted(tmp_path: Path) -> None:
    posts = read_posts(write_lines(tmp_path / "a.jsonl", [{"text": [1, 2]}] * 9 + [{"text": "a"}]))
    found = RowErrorCount(most=2)
    found.add(posts)
    found.add(posts)
    notes = found.notes()
    assert len(notes) == 3
    assert notes[0].startswith("note: row 1: the text is a list")
    assert notes[2] == "note: 18 posts with an unreadable cell are left out"


# ---- what the commands do with such rows ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_fit(zoo, tmp_path_factory.mktemp("run"), tune="frozen").run


def spoiled(folder: Path, n: int = 12) -> pd.DataFrame:
    """Return posts of which row 1 has an odd text, row 2 an odd image, row 3 an odd label."""
    posts = make_posts(folder / "posts", n, gaps=False)
    frame = posts.drop(columns=["row", "group"]).astype(object)
    frame.at[0, "text"] = ["a", "b"]
    frame.at[1, "image"] = ["a.jpg", "b.jpg"]
    frame.at[2, "label"] = {"class0": 1}
    return posts_from(frame)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("caption", ["a", "b"], "caption: the text is a list of 2 values"),
        ("thumb", 7, "thumb: the image is an integer"),
        ("likes", [1, 2], "table: the column 'likes' holds a list of 2 values, expected a number or a category"),
        ("device", {"a": 1}, "table: the column 'device' holds a dictionary of 1 value"),
        ("label:title", {"a": 1}, "label:title: the label is a dictionary of 1 value"),
    ],
)
def test_of_several_fields_the_error_says_which(tmp_path: Path, column: str, value: Any, words: str) -> None:
    good = {"title": "a", "caption": "b", "photo": "a.png", "thumb": "b.png", "likes": 1, "device": "web", "label": "x",
            "label:title": "x"}  # fmt: skip
    names = ColumnNames(text=("title", "caption"), image=("photo", "thumb"), table=("likes", "device"))
    path = write_lines(tmp_path / "a.jsonl", [good, {**good, column: value}, {**good, "likes": [], "device": ["web"]}])
    posts = read_posts(path, columns=names)
    first, second, third = row_errors(posts)
    assert first is None
    assert third is None
    assert words in str(second)
    assert posts["table"][2] == {"likes": None, "device": "web"}


def test_a_text_that_fills_the_memory_is_an_error_of_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotune.data.tables.cells.MOST_TEXT", 1_000)
    for name, more in (("a.jsonl", {}), ("b.jsonl", {"label": "x"})):
        lines = [{"id": i, "text": "x" * length, **more} for i, length in enumerate((1_000, 1_001))]
        first, second = row_errors(read_posts(write_lines(tmp_path / name, lines)))
        assert first is None
        assert "the text has 1,001 characters, the limit is 1,000" in str(second)


def test_predict_writes_a_row_with_the_error(fitted: Run, tmp_path: Path) -> None:
    posts = spoiled(tmp_path)
    table = Predictor(fitted, device="cpu").frame(posts)
    assert len(table) == 12
    assert table["label"].isna().tolist() == [True, True, *[False] * 10], "the label is not what a prediction needs"
    assert "the text is a list" in table["error"][0]
    assert "the image is a list" in table["error"][1]
    assert "the label is a dictionary" in table["error"][2]
    assert table["error"][3:].isna().all()
    text_only = Predictor(fitted, device="cpu", bad_images="text-only").frame(posts)
    assert text_only["label"].isna().tolist()[:2] == [True, True], "half of a post is no post to be sure of"


def test_predict_from_the_command_line(fitted: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_run(tmp_path / "run", fitted)
    path = write_lines(tmp_path / "a.jsonl", [{"text": "good"}, {"text": ["a", "b"]}, {"text": "bad"}])
    assert main(["predict", str(tmp_path / "run"), str(path), "--out", str(tmp_path / "p.csv"), "--device", "cpu"]) == 0
    found = pd.read_csv(tmp_path / "p.csv")
    assert found["error"].notna().tolist() == [False, True, False]
    assert "row 2 (id 1): the text is a list of 2 values" in capsys.readouterr().err


def test_evaluate_leaves_them_out_and_counts_them(fitted: Run, tmp_path: Path) -> None:
    told = Told()
    result = evaluate_posts(Predictor(fitted, device="cpu"), [spoiled(tmp_path)], n_bootstrap=10, progress=told)
    assert result.left_out == {"an unreadable cell": 3, "no label": 0, "unknown label": 0, "no prediction": 0}
    assert result.evaluation.n == 9
    assert any(line.startswith("note: row 3: the label is a dictionary") for line in told.lines)
    assert "note: 3 posts with an unreadable cell are left out" in told.lines


def test_fit_leaves_them_out_and_counts_them(zoo: Zoo, tmp_path: Path) -> None:
    told = Told()
    config = tiny_config(zoo, tmp_path / "cache", tune="frozen")
    result = fit_posts(spoiled(tmp_path, 16), config, progress=told)
    posts = result.run.metrics["posts"]
    assert (posts["read"], posts["train"], posts["unreadable_cells"], posts["unlabelled"]) == (16, 13, 3, 0)
    assert any(line.startswith("note: row 2: the image is a list") for line in told.lines)
    assert "note: 3 posts with an unreadable cell are left out" in told.lines


def test_a_table_of_odd_rows_alone_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    posts = posts_from(pd.DataFrame({"text": [["a", "b"]] * 4, "label": ["x", "y"] * 2}))
    with pytest.raises(DataError, match="every post has a cell that cannot be read"):
        fit_posts(posts, tiny_config(zoo, tmp_path / "cache"))


def test_a_benchmark_leaves_them_out_and_counts_them(zoo: Zoo, tmp_path: Path) -> None:
    from bench_tiny import tiny_plan

    folds = cut_posts(spoiled(tmp_path, 36), tiny_plan(zoo, tmp_path))
    assert len(folds.ids) == 33
    assert folds.left_out["an unreadable cell"] == 3
    assert "3 with an unreadable cell" in (told_left_out(folds) or "")


def test_explain_gives_them_an_error(fitted: Run, tmp_path: Path) -> None:
    table = Explainer(fitted, device="cpu").contribution_frame(spoiled(tmp_path))
    assert table["error"][0].startswith("the text is a list")
    assert table["label"].isna().tolist()[:2] == [True, True]


def test_check_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = check_posts(spoiled(tmp_path))
    assert [(trouble.row, trouble.reason[:18]) for trouble in report.row_errors] == [
        (1, "the text is a list"), (2, "the image is a lis"), (3, "the label is a dic"),
    ]  # fmt: skip
    assert "3 posts have a cell that cannot be read" in report.advice[0].text
    path = write_lines(tmp_path / "a.jsonl", [{"text": "good"}, {"text": ["a", "b"]}])
    assert main(["check", str(path)]) == 0
    assert "Cells that cannot be read: 1" in capsys.readouterr().out


def test_half_of_a_character_in_an_image_path_is_an_error_of_its_row(tmp_path: Path) -> None:
    table = tmp_path / "posts.jsonl"
    table.write_text('{"id":"1","text":"x","image":"\\ud800.png","label":"a"}\n{"id":"2","text":"y","label":"b"}\n')
    posts = read_posts(table)
    assert "half of a character" in str(posts["error"].iloc[0])
    assert posts["error"].iloc[1] is None
