"""The benchmark script that sets two methods against one another over several folders."""

from __future__ import annotations

import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench_tiny import made_up
from cotune.benchmark import Plan

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "two_methods.py"
PLAN = Plan(methods=("joint", "concat"), pairs=(("hf:a/t", "timm:i"),), folds=3)
SKILL = {"joint": 3.0, "concat": 1.0}


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_differences_by_folder_over_all_and_by_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up(tmp_path / "a", PLAN, SKILL)
    made_up(tmp_path / "b", replace(PLAN, shots=(4, None), draws=2), SKILL)
    run(monkeypatch, "joint", "concat", tmp_path / "a", tmp_path / "b")
    said = capsys.readouterr().out
    told = {
        name.rsplit("/", 1)[-1]: [float(value), float(low), float(high)]
        for name, value, low, high in re.findall(r"(.*): (\S+) \[(\S+), (\S+)\]", said)
    }
    assert set(told) == {"a", "b", "mean of all"}
    for value, low, high in told.values():
        assert 0 < low < value < high
    assert told["mean of all"][0] == pytest.approx((told["a"][0] + told["b"][0]) / 2, abs=1e-4)
    assert "second ahead in 0 of 6 folds" in said
    assert re.search(r" 4 per class: \+0\.\d+ ± 0\.\d+, first ahead in 2 of 2 draws", said)
    run(monkeypatch, "concat", "joint", tmp_path / "a")
    assert "second ahead in 3 of 3 folds" in capsys.readouterr().out


def test_seeds_count_one_by_one_and_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up(tmp_path / "a", replace(PLAN, seeds=(1, 2, 3)), SKILL)
    run(monkeypatch, "concat", "joint", tmp_path / "a")
    said = capsys.readouterr().out
    single = [float(value) for value in re.findall(r"seed \d: (\S+) \[", said)]
    assert len(set(single)) == 3
    assert float(re.search(r"mean of all: (\S+) \[", said)[1]) == pytest.approx(np.mean(single), abs=2e-4)
    assert "second ahead in 9 of 9 folds" in said
    for name in ("concat", "joint"):
        found = re.search(rf"{name}: (\S+) \((\S+) to (\S+)\) with one of 3 seeds, (\S+) with the mean", said)
        mean, low, high, together = map(float, found.groups())
        assert low <= mean <= high
        assert together > mean  # the noise of each seed is its own and averages out


def test_a_method_that_is_not_there_and_other_posts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(tmp_path / "a", PLAN, SKILL)
    made_up(tmp_path / "b", PLAN, SKILL, seed=1)
    with pytest.raises(SystemExit, match="holds 0 rows of text"):
        run(monkeypatch, "joint", "text", tmp_path / "a")
    with pytest.raises(SystemExit, match="other posts"):
        run(monkeypatch, "joint", "concat", tmp_path / "a", tmp_path / "b")


def test_the_same_method_trained_in_two_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up(tmp_path / "good", PLAN, SKILL)
    made_up(tmp_path / "poor", PLAN, {"joint": 0.5})
    run(monkeypatch, "joint", "joint", tmp_path / "good", "--second-in", tmp_path / "poor")
    said = capsys.readouterr().out
    assert float(re.search(r": (\S+) \[", said)[1]) > 0.05
    assert "second ahead in 0 of 3 folds" in said
    made_up(tmp_path / "other", replace(PLAN, folds=4), SKILL)
    with pytest.raises(SystemExit, match=r"other has other posts or folds than .*good"):
        run(monkeypatch, "joint", "joint", tmp_path / "good", "--second-in", tmp_path / "other")
