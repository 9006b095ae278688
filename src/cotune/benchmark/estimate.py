"""A figure for a run of which no posts were held out: its head, cross-validated on frozen encoders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import pandas as pd

from cotune.benchmark.out_of_fold import out_of_fold
from cotune.errors import DataError
from cotune.progress import Progress
from cotune.report.numbers import plural
from cotune.run import Run

#: Folds that are tried: fewer where a label has too few posts.
_FOLDS = (5, 3, 2)
T = TypeVar("T")


def estimate_scores(
    posts: pd.DataFrame, run: Run, *, allow_remote: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Return the scores of heads that were trained like the run's, on the posts that each did not see.

    Only the probe is cross-validated, on embeddings that the training has cached, near-duplicates kept together. It is
    a cautious estimate of the run's own scores: each head has seen fewer posts, and nothing was fine-tuned.

    Parameters
    ----------
    posts : DataFrame
        The posts that the run was trained on.
    run : Run
        The run.
    allow_remote : bool
        Whether images may be fetched by URL.
    progress : Progress, optional
        Progress reporter.

    Returns
    -------
    dict
        As :meth:`cotune.metrics.Evaluation.to_dict` gives it, with ``folds``, ``encoders`` and ``note``.

    Raises
    ------
    DataError
        If the posts cannot be cut into folds.
    """
    progress = progress or Progress()
    progress.begin(f"estimating scores on {plural(len(posts), 'post')}, by cross-validating the head")
    found = None
    for folds in _FOLDS:
        try:
            found = out_of_fold(posts, run, folds=folds, allow_remote=allow_remote, progress=_Quiet(progress))
            break
        except DataError:
            if folds == _FOLDS[-1]:
                raise
    assert found is not None
    cut = found.folds
    scores = cut.task.evaluate(cut.targets, found.predictions, seed=run.config.seed).to_dict()
    return {**scores, "folds": folds, "encoders": found.encoders, "note": found.note}


class _Quiet(Progress):
    """Shows the bars of another reporter, without what it said of the same posts in training."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown

    def track(self, items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
        """Yield `items` behind a bar of the other reporter."""
        return self._shown.track(items, what, total)
