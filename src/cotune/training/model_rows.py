"""What a model in training predicts for some of the prepared posts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cotune.tasks import Task
from cotune.training.features import Features, iterate
from cotune.training.kept import Source
from cotune.training.prefetch import on_device
from cotune.training.ranks import ALONE, Ranks


def predict_rows(
    model: Any,
    task: Task,
    features: Features,
    rows: np.ndarray,
    source: Mapping[str, Source],
    *,
    batch_size: int = 64,
    own: Ranks = ALONE,
) -> np.ndarray:
    """Return the predictions for the posts at `rows`, shape (len(rows), n_outputs), in their order.

    With `own`, every rank predicts its part of each batch and gets the predictions of all.
    """
    return _of_rows(model, (features, rows, source), task.n_outputs, task.predictions, batch_size, own)


def output_rows(model: Any, features: Features, rows: np.ndarray, source: Mapping[str, Source]) -> np.ndarray:
    """Return a model's outputs for the posts at `rows`, shape (len(rows), n_outputs), in their order."""
    return _of_rows(model, (features, rows, source), model.task.n_outputs, lambda outputs: outputs)


def _of_rows(
    model: Any,
    posts: tuple[Features, np.ndarray, Mapping[str, Source]],
    n_outputs: int,
    read: Callable[[Tensor], Tensor],
    batch_size: int = 64,
    own: Ranks = ALONE,
) -> np.ndarray:
    model.eval()
    features, rows, source = posts
    where = {int(row): i for i, row in enumerate(rows)}
    device = next(model.parameters()).device
    result = np.zeros((len(rows), read(torch.zeros(1, n_outputs)).shape[1]))
    with torch.no_grad() if own.count > 1 else torch.inference_mode():
        for batch in on_device(iterate(features, rows, source, batch_size, own=own), device):
            found = read(model(batch).float()).cpu().numpy()
            assert batch.rows is not None
            if batch.whole is None or len(batch.whole) > own.index:  # else a post that another rank has
                result[[where[int(row)] for row in batch.rows]] = found
    summed: np.ndarray = own.sum(torch.from_numpy(result)).numpy()
    return summed
