"""Open a run folder as whichever estimator its task needs."""

from __future__ import annotations

from pathlib import Path

from cotune.estimators.base import opened_run
from cotune.estimators.classifier import JointClassifier
from cotune.estimators.regressor import JointRegressor


def load(folder: str | Path, *, device: str = "auto") -> JointClassifier | JointRegressor:
    """Open a run folder as a classifier or a regressor, whichever its task is; see :meth:`JointClassifier.load`."""
    run = opened_run(folder)
    kind: type[JointClassifier] | type[JointRegressor] = JointClassifier if run.task.text_label else JointRegressor
    return kind.from_run(run, device=device)
