"""What a run keeps of its training posts, for a comparison with new ones; see :mod:`cotune.drift.summary`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from cotune.drift.summary import SAMPLE, PostsSummary, as_arrays, as_labels, as_predicted, counted, measured
from cotune.settings import FitConfig
from cotune.tasks import Task
from cotune.training.features import iterate
from cotune.training.prefetch import on_device
from cotune.training.trainer import Trained
from cotune.training.training_data import TrainingData

_BATCH = 64
#: So many posts held out are better to compare with than posts that the model has learned by heart.
_ENOUGH = 100


def summarise(
    trained: Trained,
    task: Task,
    data: TrainingData,
    posts: pd.DataFrame,
    config: FitConfig,
    unreadable_cells: tuple[int, int],
) -> PostsSummary:
    """Return the summary of the posts of the main table.

    Parameters
    ----------
    trained : Trained
        The model.
    task : Task
        What it predicts.
    data : TrainingData
        What it was trained on.
    posts : DataFrame
        The posts of `data`.
    config : FitConfig
        How it was trained.
    unreadable_cells : (int, int)
        How many posts have such a cell and are not among these, of how many.
    """
    held, features = data.held_out, data.features
    own = np.ones(len(posts), dtype=bool) if data.further is None else ~data.further
    unseen = held is not None and held.features is features and len(held.rows) >= _ENOUGH
    rows = held.rows if held is not None and unseen else data.rows[own[data.rows]]
    rows = np.sort(np.random.default_rng(config.seed).permutation(rows)[:SAMPLE])
    model = trained.model.eval()
    place = {int(row): i for i, row in enumerate(rows)}
    found = {name: np.zeros((len(rows), size), dtype=np.float16) for name, size in model.head.dims.items()}
    predictions = np.zeros((len(rows), task.n_predictions))
    with torch.inference_mode():
        for batch in on_device(iterate(features, rows, trained.source, _BATCH), next(model.parameters()).device):
            embeddings = model.embed(batch)
            assert batch.rows is not None
            at = [place[int(row)] for row in batch.rows]
            predictions[at] = task.predictions(model.head(embeddings)).float().cpu().numpy()
            for name, part in as_arrays(embeddings).items():
                found[name][at] = part
    trains = config.tune != "frozen" or any(encoder.learned for encoder in model.distinct_encoders.values())
    return PostsSummary(
        found,
        as_labels(task, data.targets[rows]),
        as_predicted(task, predictions) if np.isfinite(predictions).all() else None,
        measured(posts.iloc[rows], config.read_fields()),
        counted(
            posts[own], config.read_fields(), [bool(own[at]) for at in features.faults].count(True), unreadable_cells
        ),
        {"posts": int(own.sum()), "sampled": len(rows), "unseen": unseen, "encoders_trained": trains},
    )
