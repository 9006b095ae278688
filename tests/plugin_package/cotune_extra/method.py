"""A benchmark method: the class frequencies of the training posts for everyone."""

import numpy as np

from cotune.benchmark import Method, Outcome
from cotune.benchmark.methods import Task


def _prior(task: Task) -> Outcome:
    counts = np.bincount(task.labels[task.train], minlength=task.n_classes)
    return Outcome(np.tile(counts / counts.sum(), (len(task.test), 1)), {"total": 0, "trained": 0})


PRIOR = Method("Class frequencies", run=_prior)
