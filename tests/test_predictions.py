"""Predictions tables, written piece by piece and read back as they were."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotune.data.predictions import check_predictions_path, predictions_writer
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


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".jsonl":
        return pd.DataFrame([json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]])
    sep = "\t" if path.suffix == ".tsv" else ","
    return pd.read_csv(path, sep=sep, dtype={"id": str}, keep_default_na=False, na_values={"p_a": [""]})


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl", ".parquet"])
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
        check_predictions_path("p.xlsx")
    check_predictions_path("-")
