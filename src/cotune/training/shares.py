"""Predictions of held-out posts with what each field drove, from whatever is kept of the encoders' work."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from cotune.heads.contributions import contributions
from cotune.model import JointModel
from cotune.scoring import Scores
from cotune.tasks import Task
from cotune.training.features import Features, iterate
from cotune.training.kept import Source
from cotune.training.prefetch import on_device

_BATCH = 64


def predict_shares(
    model: JointModel, task: Task, features: Features, rows: np.ndarray, source: Mapping[str, Source]
) -> Scores:
    """Return predictions and what each field drove, in the order of `rows`.

    Parameters
    ----------
    model : JointModel
        The trained model.
    task : Task
        What it predicts.
    features : Features
        The prepared posts.
    rows : ndarray of int
        The posts to predict, in the order of the results.
    source : mapping
        What is read of each field, as in training.
    """
    model.eval()
    names = tuple(features.fields)
    place = {int(row): i for i, row in enumerate(rows)}
    scores = Scores.none(task, names, [""] * len(rows))
    device = next(model.parameters()).device
    with torch.inference_mode():
        for batch in on_device(iterate(features, rows, source, _BATCH), device):
            parts = contributions(model.head, task, model.embed(batch), names)
            assert batch.rows is not None
            at = [place[int(row)] for row in batch.rows]
            scores.predictions[at] = parts.predictions.cpu().numpy()
            scores.shares[at] = torch.stack(list(parts.shares().values()), dim=1).cpu().numpy()
            scores.contributions[at] = torch.stack(list(parts.parts.values()), dim=1).cpu().numpy()
    return scores
