"""Open a run folder as whichever estimator its task needs."""

from __future__ import annotations

import warnings
from pathlib import Path

from cotune.estimators.classifier import JointClassifier
from cotune.estimators.regressor import JointRegressor
from cotune.run import load_run
from cotune.sharing.fetch import local_folder


def load(folder: str | Path, *, device: str = "auto") -> JointClassifier | JointRegressor:
    """Open a run folder as a classifier or a regressor, whichever its task is; see :meth:`JointClassifier.load`."""
    run = load_run(local_folder(folder))
    for note in run.notes:
        warnings.warn(note, stacklevel=2)
    kind: type[JointClassifier] | type[JointRegressor] = JointClassifier if run.task.text_label else JointRegressor
    return kind.from_run(run, device=device)
