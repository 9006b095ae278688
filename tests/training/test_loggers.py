"""Who keeps the history: the CSV file always, the others when asked for."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cotune.errors import ConfigError
from cotune.settings import FitConfig
from cotune.training.loggers import check_loggers, open_log

ROWS = [
    {"stage": "probe", "epoch": 1, "train_loss": 0.5, "validation_auc": None, "seconds": 1.0, "posts_per_second": 9.0},
    {"stage": "top", "epoch": 1, "train_loss": 0.4, "validation_auc": 0.8, "seconds": 2.0, "posts_per_second": 4.0},
]


def test_the_table_is_whole_after_every_epoch(tmp_path: Path) -> None:
    log = open_log(tmp_path / "run" / "log.csv", tmp_path / "run", [], FitConfig())
    for n in (1, 2):
        log(ROWS[:n])
        with (tmp_path / "run" / "log.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["stage"] for row in rows] == ["probe", "top"][:n]
    assert rows[0]["validation_auc"] == ""
    assert float(rows[1]["validation_auc"]) == 0.8
    log.close("finished")


def test_tensorboard_gets_each_epoch_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = open_log(tmp_path / "log.csv", tmp_path, ["tensorboard", "tensorboard"], FitConfig())
    log(ROWS[:1])
    log(ROWS)
    log.close("finished")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("top/train_loss")] == [(1, 0.4)]
    assert [e.step for e in events.Scalars("probe/train_loss")] == [0]
    assert "probe/validation_auc" not in events.Tags()["scalars"]


def test_mlflow_and_wandb_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def note(name: str) -> Any:
        return lambda *args, **more: calls.append((name, args, more))

    mlflow = SimpleNamespace(**{name: note(name) for name in ("start_run", "log_params", "log_metrics", "end_run")})
    run = SimpleNamespace(log=note("log"), finish=note("finish"))
    wandb = SimpleNamespace(init=lambda **more: calls.append(("init", (), more)) or run)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    log = open_log(tmp_path / "log.csv", tmp_path / "mine", ["mlflow", "wandb"], FitConfig(seed=5))
    log(ROWS)
    log.close("interrupted")
    names = [name for name, _, _ in calls]
    assert names.count("log_metrics") == names.count("log") == 2
    said = {name: (args, more) for name, args, more in calls}
    assert said["log_params"][0][0]["seed"] == 5
    assert said["init"][1]["name"] == "mine"
    assert said["log"] == (({"top/epoch": 1.0, "top/train_loss": 0.4, "top/validation_auc": 0.8, "top/seconds": 2.0,
                             "top/posts_per_second": 4.0},), {"step": 1})  # fmt: skip
    assert said["end_run"][1] == {"status": "KILLED"}
    assert said["finish"][1] == {"exit_code": 1}


def test_unknown_and_missing_loggers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"unknown logger 'tensorbord' \(did you mean 'tensorboard'"):
        check_loggers(["tensorbord"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'cotune\[wandb\]'"):
        check_loggers(["wandb"])
