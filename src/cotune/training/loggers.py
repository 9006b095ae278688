"""Who keeps the history of a training: a CSV file always; TensorBoard, MLflow and W&B when asked for."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cotune.data.write import UnixLines
from cotune.errors import ConfigError, did_you_mean
from cotune.files import write_text
from cotune.settings import FitConfig

History = Sequence[Mapping[str, Any]]


class EpochLogger(Protocol):
    """Takes what each epoch gave."""

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Note one epoch; `step` counts epochs over all stages, from 0."""

    def close(self, status: str) -> None:
        """Write what is still to be written; `status` is finished, interrupted or failed."""


class TensorBoardLogger:
    """Event files in the run's own folder."""

    def __init__(self, run: Path, config: FitConfig) -> None:
        _needs("tensorboard")
        tensorboard = importlib.import_module("torch.utils.tensorboard")
        self._writer = tensorboard.SummaryWriter(str(run / "tensorboard"))
        self._writer.add_text("settings", f"```\n{config.model_dump_json(indent=2)}\n```", 0)

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Note one epoch."""
        for name, value in _numbers(row).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, status: str) -> None:
        """Close the event file."""
        self._writer.add_text("status", status, 0)
        self._writer.close()


class MlflowLogger:
    """A run of MLflow's active experiment (``MLFLOW_TRACKING_URI`` says where)."""

    def __init__(self, run: Path, config: FitConfig) -> None:
        self._mlflow = _needs("mlflow")
        self._mlflow.start_run(run_name=run.name)
        self._mlflow.log_params(config.model_dump(mode="json"))

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Note one epoch."""
        self._mlflow.log_metrics(_numbers(row), step=step)

    def close(self, status: str) -> None:
        """End the run."""
        ends = {"finished": "FINISHED", "interrupted": "KILLED"}
        self._mlflow.end_run(status=ends.get(status, "FAILED"))


class WandbLogger:
    """A run of Weights & Biases (``WANDB_MODE=offline`` keeps it on this machine)."""

    def __init__(self, run: Path, config: FitConfig) -> None:
        self._run = _needs("wandb").init(project="cotune", name=run.name, config=config.model_dump(mode="json"))

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Note one epoch."""
        self._run.log(_numbers(row), step=step)

    def close(self, status: str) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if status == "finished" else 1)


LOGGERS: dict[str, type[TensorBoardLogger] | type[MlflowLogger] | type[WandbLogger]] = {
    "tensorboard": TensorBoardLogger,
    "mlflow": MlflowLogger,
    "wandb": WandbLogger,
}


def check_loggers(names: Sequence[str]) -> None:
    """Refuse unknown loggers and those whose package is missing, before any work is done.

    Raises
    ------
    ConfigError
        With the nearest name, or the command that installs the package.
    """
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"unknown logger {name!r}{did_you_mean(name, LOGGERS)}; known are: {', '.join(LOGGERS)}")
        _needs(name)


class HistoryLog:
    """Writes the whole history after each epoch, and hands new epochs on to the loggers.

    Parameters
    ----------
    table : Path
        The CSV file, always whole.
    loggers : sequence of EpochLogger
        Others who want to know.
    """

    def __init__(self, table: Path, loggers: Sequence[EpochLogger] = ()) -> None:
        self.table = table
        self.loggers = loggers
        self._told = 0

    def __call__(self, history: History) -> None:
        """Take the history of all epochs so far."""
        text = io.StringIO()
        writer = csv.DictWriter(UnixLines(text), list(history[0]) if history else [], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(history)
        write_text(self.table, text.getvalue())
        for step in range(self._told, len(history)):
            for logger in self.loggers:
                logger.log(step, history[step])
        self._told = len(history)

    def close(self, status: str) -> None:
        """Close all loggers."""
        for logger in self.loggers:
            logger.close(status)


def open_log(table: Path, run: Path, names: Sequence[str], config: FitConfig) -> HistoryLog:
    """Open the CSV log and the named loggers of a run."""
    check_loggers(names)
    return HistoryLog(table, [LOGGERS[name](run, config) for name in dict.fromkeys(names)])


def _needs(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as fault:
        raise ConfigError(f"--logger {package} needs its package: pip install 'cotune[{package}]'") from fault


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    stage = row["stage"]
    return {f"{stage}/{name}": float(value) for name, value in row.items() if name != "stage" and value is not None}
