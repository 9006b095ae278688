"""The folder of cells that benchmark scripts share: what is done stays, what fails is told, rows are compared."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cotune.settings import make_config

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import cells as script

SKILL = {"plain": 0.5, "better": 3.0, "worse-0.1": -2.0}


def posts(n: int = 60) -> pd.DataFrame:
    rows = [{"id": f"p{i}", "text": f"text number {i}", "image": None, "label": "ab"[i % 2]} for i in range(n)]
    return pd.DataFrame(rows, dtype=object).assign(group=None, row=range(1, n + 1), error=None)


def begin(out: Path, **more: Any) -> script.Cells:
    return script.Cells.begin(out, posts(), make_config({"device": "cpu"}), folds=3, **more)[0]


def setup(out: str) -> script.Cells:
    return script.Cells.open(Path(out))


def train(state: script.Cells, cell: script.Cell) -> tuple[np.ndarray, dict[str, Any]]:
    targets = state.folds.targets[state.folds.test(cell.fold)]
    if cell.row == "broken" and cell.fold == 1:
        raise ValueError("no such thing")
    noise = np.random.default_rng([cell.fold, cell.seed]).normal(size=len(targets))
    yes = 1 / (1 + np.exp(-(SKILL.get(cell.row, 0.0) * (targets - 0.5) + noise)))
    return np.column_stack([1 - yes, yes, yes]), {"n": len(targets)}  # the third column is not a class


def test_cells_are_trained_once_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = begin(tmp_path, made_of={"epochs": 3})
    todo = cells.todo([*SKILL, "broken"], [1])
    assert len(todo) == 12
    assert not script.run(cells, todo, setup, (str(tmp_path),), train)
    said = capsys.readouterr().out
    assert "broken-fold1-seed1: ValueError: no such thing" in said
    assert "1 cell failed" in said
    assert [cell.key for cell in cells.todo([*SKILL, "broken"], [1])] == ["broken-fold1-seed1"]
    assert cells.read(script.Cell("plain", 0, 1))[1]["n"] == len(cells.folds.test(0))
    rows = {row.name: row for row in script.compare(cells)}
    assert rows["broken"].folds == 2
    assert rows["plain"].difference is None
    assert rows["better"].difference.difference > 0 > rows["worse-0.1"].difference.difference
    assert rows["better"].difference.low < rows["better"].difference.difference < rows["better"].difference.high
    assert rows["better"].p_holm >= rows["better"].difference.p
    table = script.table(cells, {"plain": "as it is"})
    assert "| as it is | 3 x 1 |" in table
    assert "cut with seed 7" in table


def test_a_folder_keeps_to_what_it_was_begun_with(tmp_path: Path) -> None:
    first = begin(tmp_path, made_of={"epochs": 3}).folds.fold
    assert (begin(tmp_path, made_of={"epochs": 3}).folds.fold == first).all()
    with pytest.raises(SystemExit, match="another value of epochs"):
        begin(tmp_path, made_of={"epochs": 4})
    with pytest.raises(SystemExit, match="another value of fold seed"):
        begin(tmp_path, made_of={"epochs": 3}, seed=8)


def test_predictions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    cells = begin(tmp_path)
    with pytest.raises(ValueError, match="plain-fold0-seed1"):
        cells.keep(script.Cell("plain", 0, 1), np.full((len(cells.folds.test(0)), 2), np.nan))
    with pytest.raises(ValueError, match="3 predictions"):
        cells.keep(script.Cell("plain", 0, 1), np.zeros((3, 2)))
    assert cells.there() == []
