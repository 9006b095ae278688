"""``cotune tune``: what a user types and reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import cotune.cli
from cotune.settings import FitConfig
from cotune.tuning import make_space, search
from runs import tiny_settings, write_table
from tiny import Zoo
from tuned import hard_posts

SPACE = "probe-lr: {low: 0.0001, high: 0.1, log: true}\nwidth: [16, 32]\n"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune-cli")
    return write_table(hard_posts(folder), folder / "posts.csv")


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def run(zoo: Zoo, cache: Path, *words: object) -> int:
    given = tiny_settings(zoo, cache, tune="frozen")
    settings = [word for key, value in given.items() for word in ("--set", f"{key.replace('_', '-')}={value}")]
    return cotune.cli.main([str(word) for word in ["tune", *words, *settings]])


def test_a_search_and_a_fit_with_its_best_settings(
    zoo: Zoo, table: Path, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = (table, "--out", out, "--trials", 3, "--space", space, "--bootstrap", 50)
    assert run(zoo, tmp_path / "cache", *words) == 0
    said = capsys.readouterr()
    assert "AUC on 12 test posts that no trial saw" in said.out
    assert "Score it was searched on (too good): validation AUC" in said.out
    assert "trial 3 of 3: " in said.err
    assert f"cotune fit {table} --config {out / 'best.yaml'} --out run\n" in said.out
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        "best.yaml", "parts.parquet", "report.html", "search.db", "summary.json", "test_predictions.safetensors",
        "trials.csv", "tune.json",
    }  # fmt: skip
    assert run(zoo, tmp_path / "cache", *words) == 2
    assert "holds 3 finished trials; go on with --resume" in capsys.readouterr().err
    assert run(zoo, tmp_path / "cache", *words, "--resume", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == json.loads((out / "summary.json").read_text())
    fit = ["fit", table, "--config", out / "best.yaml", "--out", tmp_path / "run", "--cache", tmp_path / "cache"]
    assert cotune.cli.main([str(word) for word in fit]) == 0
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["fit"]
    best = {name: kept[name] for name in answer["best_settings"]}
    assert best == answer["best_settings"]
    assert kept["tune"] == "frozen"


def test_the_space_is_printed_as_a_file(space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = sys.modules.pop("cotune.tuning.search", None)
    assert cotune.cli.main(["tune", "--show-space", "--tune", "top"]) == 0
    printed = capsys.readouterr().out
    found = make_space(yaml.safe_load(printed), FitConfig(tune="top"))
    assert "lr_image" in found.settings
    assert cotune.cli.main(["tune", "--show-space", "--space", str(space)]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(SPACE)
    assert "cotune.tuning.search" not in sys.modules, "nobody waits for torch here"
    if torch is not None:
        sys.modules["cotune.tuning.search"] = torch


def test_ctrl_c_keeps_the_finished_trials(
    zoo: Zoo, table: Path, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    said: list[Any] = []
    line = search._Teller._line

    def stopping(self: Any, trial: Any) -> str:
        said.append(trial)
        if len(said) == 2:
            raise KeyboardInterrupt
        return line(self, trial)

    monkeypatch.setattr(search._Teller, "_line", stopping)
    out = tmp_path / "out"
    assert run(zoo, tmp_path / "cache", table, "--out", out, "--trials", 9, "--space", space) == 130
    assert f"stopped; 2 finished trials kept in {out}, and --resume goes on from there" in capsys.readouterr().err
    assert "No result yet." in (out / "report.html").read_text()
    monkeypatch.setattr(search, "readable", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(zoo, tmp_path / "cache", table, "--out", tmp_path / "two", "--space", space) == 130
    assert "stopped before the first trial" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--trials", "0"], "--trials must be at least 1, not 0"),
        (["--test", "1.5"], "--test is a fraction between 0 and 1, not 1.5"),
        (["--space", "no.yaml"], "there is no search space no.yaml"),
        (["--validation", "other.csv"], "give --validation a part such as 0.2"),
        (["--seeds", "a"], "--seeds takes numbers from 0 on, not 'a'"),
        (["--set", "probe-epochs=0"], "nothing would be trained"),
    ],
)
def test_wrong_usage_is_one_line(
    table: Path, tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--tune", "frozen", "--cache", str(tmp_path / "cache")]
    assert cotune.cli.main(["tune", str(table), "--out", str(tmp_path / "out"), *settings, *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_posts_and_folder_are_needed(capsys: pytest.CaptureFixture[str], table: Path) -> None:
    assert cotune.cli.main(["tune", str(table)]) == 2
    assert "cotune tune POSTS --out DIR" in capsys.readouterr().err
