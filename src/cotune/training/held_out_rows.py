"""Which of the training posts are held out."""

from __future__ import annotations

import numpy as np

from cotune.data.splits import holdout_split
from cotune.tasks import Task


def hold_out(
    task: Task, targets: np.ndarray, rows: np.ndarray, *, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the posts to train on and those to hold out, of the posts at `rows`.

    Only posts that can be scored are held out. One that cannot is trained on, unless it is a near-duplicate of one that
    is held out: what is known of its fields is known of that one.

    Parameters
    ----------
    task : Task
        What the targets mean; it says which posts can be scored, and by what they are stratified.
    targets : ndarray
        Of all posts, first axis N.
    rows : ndarray of int
        The posts that can be used.
    fraction : float
        The part to hold out.
    seed : int
        Of the choice.
    groups : ndarray, optional
        A group for each of all posts; each is kept together.

    Raises
    ------
    DataError
        If there are too few posts.
    """
    scored = task.scored(targets[rows])
    usable, others = rows[scored], rows[~scored]
    own = None if groups is None else groups[usable]
    train, held = holdout_split(task.strata(targets)[usable], fraction=fraction, seed=seed, groups=own)
    if groups is not None:
        others = others[~np.isin(groups[others], groups[usable[held]])]
    return np.sort(np.concatenate([usable[train], others])) if len(others) else usable[train], usable[held]
