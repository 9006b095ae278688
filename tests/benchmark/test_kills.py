"""The script that kills commands: it finds what is planted, and goes on with what it has done."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
whole_files = runpy.run_path(str(BENCHMARKS / "whole_files.py"))
served_answers = runpy.run_path(str(BENCHMARKS / "served_answers.py"))


def plant(folder: Path) -> None:
    import pandas as pd
    from safetensors.numpy import save_file

    save_file({"a": pd.Series([1.0, 2.0]).to_numpy()}, folder / "a.safetensors")
    table = pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "seconds": [0.1, 0.2]})
    table.to_parquet(folder / "a.parquet")
    table.to_excel(folder / "a.xlsx")
    table.to_csv(folder / "a.csv", index=False)
    table.to_csv(folder / "a.csv.gz", index=False)
    table.to_json(folder / "a.jsonl", orient="records", lines=True)
    (folder / "a.json").write_text(json.dumps({"figure": 1, "seconds": 2.5}))
    (folder / "a.html").write_text("<html></html>\n")
    (folder / ".tmp-0a1b2c3d-1f-0a1b-a.csv").write_text("half")
    (folder / "a.lock").write_text("")


def test_files_that_are_cut_short_are_found_and_temporary_ones_listed(tmp_path: Path) -> None:
    plant(tmp_path)
    assert whole_files["damaged_files"](tmp_path) == []
    assert whole_files["leftovers"](tmp_path) == [".tmp-0a1b2c3d-1f-0a1b-a.csv"]
    for path in sorted(tmp_path.glob("a.*")):
        content = path.read_bytes()
        if path.suffix != ".lock":
            path.write_bytes(content[:-2])
            assert [line.partition(":")[0] for line in whole_files["damaged_files"](tmp_path)] == [path.name]
            path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (lambda folder: (folder / "a.json").write_text(json.dumps({"figure": 1, "seconds": 9})), set()),
        (lambda folder: (folder / "a.json").write_text(json.dumps({"figure": 2, "seconds": 2.5})), {"a.json"}),
        (lambda folder: (folder / "a.csv").write_text("a,b,seconds\n1,x,7\n2,y,8\n"), set()),
        (lambda folder: (folder / "a.csv").write_text("a,b,seconds\n1,x,7\n2,z,8\n"), {"a.csv"}),
        (lambda folder: (folder / "a.html").write_text("<html> </html>"), {"a.html"}),
        (lambda folder: (folder / "b.html").write_text("<html></html>"), {"b.html"}),
    ],
)
def test_results_are_the_same_but_for_times(
    tmp_path: Path, change: Callable[[Path], object], differs: set[str]
) -> None:
    plant(tmp_path)
    before = whole_files["result_of"](tmp_path)
    change(tmp_path)
    after = whole_files["result_of"](tmp_path)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == differs


def test_a_wrong_answer_of_a_service_is_told_from_a_rounding() -> None:
    differing: Callable[[Any, Any, str], str] = served_answers["differing"]
    right = {"request_id": "a", "predictions": [{"label": "x", "p": 0.25, "error": None}]}
    other = {"request_id": "b", "predictions": [{"label": "x", "p": 0.2500001, "error": None}]}
    assert differing(other, right, "0") == ""
    other["predictions"][0]["p"] = 0.26  # type: ignore[index]
    assert differing(other, right, "0") == "0.predictions.0.p is 0.26, not 0.25"
    assert differing({"predictions": []}, right, "0") == "0 has ['predictions']"


def test_predict_is_killed_resumed_and_the_script_goes_on(tmp_path: Path) -> None:
    def kills(*more: str) -> subprocess.CompletedProcess[str]:
        words = ["--commands", "predict", "--case", "torch", "--out", tmp_path / "kills.json", *more]
        command = [sys.executable, BENCHMARKS / "kills.py", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    found = kills("--kills", "2")
    assert found.returncode == 0, found.stdout + found.stderr
    series = json.loads((tmp_path / "kills.json").read_text())["series"]
    assert sum(len(one["kills"]) for one in series) >= 2
    assert all(one["equal"] and not one["wrong"] for one in series)
    again = kills("--kills", "2")  # all is done
    assert again.stdout.splitlines()[-1] == found.stdout.splitlines()[-1]
    assert json.loads((tmp_path / "kills.json").read_text())["series"] == series
    assert "begun with the seed 0" in kills("--seed", "1").stderr
