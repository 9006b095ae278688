"""Predictions tables, written piece by piece and read back as they were."""

from __future__ import annotations

import errno
import gzip
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotune.data.predictions import check_predictions_path, predictions_writer
from cotune.data.tables import excel
from cotune.errors import CotuneError, DataError

COLUMNS = ["id", "label", "p_a", "text_share", "error"]


def frame(ids: list[str], errors: list[str | None] | None = None) -> pd.DataFrame:
    n = len(ids)
    return pd.DataFrame(
        {
            "id": ids,
            "label": ["a" if i % 2 else None for i in range(n)],
            "p_a": [i / 7 if i % 2 else np.nan for i in range(n)],
            "text_share": np.linspace(0, 1, n),
            "error": errors or [None] * n,
        },
        columns=COLUMNS,
    )


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".xlsx":
        return pd.read_excel(path, dtype={"id": str}, keep_default_na=False, na_values={"p_a": [""]})
    if ".json" in path.suffixes:
        return pd.DataFrame(json.loads(_text(path)))
    if ".jsonl" in path.suffixes:
        return pd.DataFrame([json.loads(line) for line in _text(path).split("\n")[:-1]])
    sep = "\t" if ".tsv" in path.suffixes else ","
    return pd.read_csv(
        io.StringIO(_text(path), newline=""),
        sep=sep,
        dtype={"id": str},
        keep_default_na=False,
        na_values={"p_a": [""]},
        float_precision="round_trip",  # pandas before 3 rounds otherwise
    )


@pytest.mark.parametrize(
    "kind", [".csv", ".tsv", ".jsonl", ".parquet", ".json", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".json.gz"]
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=3, max_size=6)
)
def test_any_words_survive_in_pieces(tmp_path: Path, kind: str, words: list[str]) -> None:
    out = tmp_path / f"p{kind}"
    table = frame(words, errors=[*words[:-1], None])
    with predictions_writer(out, COLUMNS) as write:
        write(table.iloc[:2])
        write(table.iloc[2:])
    found = read(out)
    assert list(found.columns) == COLUMNS
    assert [str(value) for value in found["id"]] == words
    assert np.array_equal(found["p_a"].astype(float), table["p_a"], equal_nan=True)
    assert [value or None for value in found["error"]][:-1] == [word or None for word in words[:-1]]


def test_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with predictions_writer("-", COLUMNS) as write:
        write(frame(["x", 'y,\n"z"']))
    assert capsys.readouterr().out.startswith('id,label,p_a,text_share,error\nx,,,0.0,\n"y,\n')


def test_an_error_in_between_leaves_the_old_table(tmp_path: Path) -> None:
    for name in ("p.csv", "p.parquet"):
        (tmp_path / name).write_bytes(b"old")
        with pytest.raises(DataError), predictions_writer(tmp_path / name, COLUMNS) as write:
            write(frame(["x"]))
            raise DataError("broken row")
    full = pytest.raises(CotuneError, match="the disk is full")
    with full, predictions_writer(tmp_path / "p.csv", COLUMNS):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"p.csv": b"old", "p.parquet": b"old"}


def test_an_unknown_ending_is_refused_at_once() -> None:
    with pytest.raises(DataError, match="no ending that is known"):
        check_predictions_path("p.xls")
    for name in ("p.parquet.gz", "p.xlsx.gz", "p.gz", "p", "p" * 500):
        with pytest.raises(DataError, match="no ending that is known") as caught:
            check_predictions_path(name)
        assert len(str(caught.value)) < 400
    check_predictions_path("-")
    check_predictions_path("P.JSON.GZ")


@pytest.mark.parametrize("kind", [".json", ".json.gz", ".csv.gz", ".jsonl.gz"])
def test_an_empty_table_and_equal_tables(tmp_path: Path, kind: str) -> None:
    for name in ("a", "b"):
        with predictions_writer(tmp_path / f"{name}{kind}", COLUMNS) as write:
            write(frame(["x", "y"]))
    assert (tmp_path / f"a{kind}").read_bytes() == (tmp_path / f"b{kind}").read_bytes()
    with predictions_writer(tmp_path / f"c{kind}", COLUMNS):
        pass
    assert len(read(tmp_path / f"c{kind}")) == 0


def test_a_workbook(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    words = ["=1+1", "+x", "@SUM(A1)", "tab\there", "line\nbreak", "bell\x07", "\x00", "z" * 40_000, "0123", "é 😀"]
    with predictions_writer(tmp_path / "p.xlsx", COLUMNS) as write:
        write(frame(words[:4]))
        write(frame(words[4:], errors=words[4:]))
    found = read(tmp_path / "p.xlsx")
    assert list(found.columns) == COLUMNS
    assert found["id"].tolist() == [*words[:5], "bell\ufffd", "\ufffd", "z" * 32_767, "0123", "é 😀"]
    assert found["p_a"].tolist()[1] == pytest.approx(1 / 7, rel=1e-12)
    import openpyxl

    sheet = openpyxl.load_workbook(tmp_path / "p.xlsx").worksheets[0]
    assert {sheet.cell(row, 1).data_type for row in range(1, 12)} == {"s"}, "text is no formula"


def test_a_workbook_that_would_be_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openpyxl")
    monkeypatch.setattr(excel, "_MOST_ROWS", 3)
    with (
        pytest.raises(DataError, match=r"a sheet of Excel has 3 rows.*\.csv"),
        predictions_writer(tmp_path / "p.xlsx", COLUMNS) as write,
    ):
        write(frame(["a", "b", "c"]))
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_for_workbooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'cotune\[excel\]', or write \.csv"):
        check_predictions_path("p.xlsx")


@pytest.mark.parametrize(
    ("name", "marker"), [("labels.json", "config.json"), ("config.json", "config.json"), ("log.csv", "config.json"),
                         ("folds.parquet", "bench.json")]
)  # fmt: skip
def test_files_of_runs_encoders_and_benchmarks_are_not_replaced(tmp_path: Path, name: str, marker: str) -> None:
    (tmp_path / marker).write_text("{}")
    (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match="which predictions would replace"):
        check_predictions_path(tmp_path / name)
    check_predictions_path(tmp_path / "predictions.csv")


def test_json_that_is_no_predictions_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"precious": 1}')
    with pytest.raises(DataError, match="holds something other than predictions"):
        check_predictions_path(tmp_path / "mine.json")
    (tmp_path / "old.json").write_text('[{"id": "1"}]')
    check_predictions_path(tmp_path / "old.json")


def test_a_posts_table_that_is_a_link_to_itself_is_no_reason_to_crash(tmp_path: Path) -> None:
    loop = tmp_path / "loop.csv"
    loop.symlink_to("loop.csv")
    check_predictions_path(tmp_path / "out.csv", loop)
    with pytest.raises(DataError, match="is the posts table itself"):
        check_predictions_path(loop, loop)
