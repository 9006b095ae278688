"""Scores of a model on labelled posts: predictions in chunks, then every score with its interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from cotune.data.tables.cells import field_labels
from cotune.data.tables.row_errors import RowErrorCount, has_row_error
from cotune.errors import DataError
from cotune.metrics import Evaluation
from cotune.progress import Progress
from cotune.report.numbers import plural
from cotune.scoring import Scorer
from cotune.seen_check import SeenCheck
from cotune.slices import score_slices, slice_values

SeenChoice = Literal["keep", "leave-out"]


@dataclass
class EvaluatedPosts:
    """What evaluating a run on a labelled table gives.

    Attributes
    ----------
    evaluation : Evaluation
        All scores with their intervals.
    predictions : DataFrame
        The predictions, with the true label in column ``true``.
    left_out : dict
        How many posts could not be used, by reason.
    notes : list of str
        What a reader of the scores must know.
    slices : dict
        Scores of parts of the posts, see :func:`cotune.slices.score_slices`; empty where none were asked for.
    seen : dict
        How many of the scored posts the run was trained on: ``same``, or ``near`` (duplicates); and how many it only
        ``watched``, to stop or to choose thresholds. Empty if the run does not know.
    unseen : Evaluation or None
        The scores without posts that were trained on, where those are scored too.
    scored : ndarray of bool
        Which rows of `predictions` the scores are of.
    """

    evaluation: Evaluation
    predictions: pd.DataFrame
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    slices: dict[str, Any] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    unseen: Evaluation | None = None
    scored: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def to_dict(self) -> dict[str, Any]:
        """Return all but the predictions as plain values."""
        slices = {"slices": self.slices} if self.slices else {}
        found = {**self.evaluation.to_dict(), **slices, "left_out": self.left_out, "notes": self.notes}
        if self.seen:
            found["seen"] = {**self.seen, "without": None if self.unseen is None else self.unseen.to_dict()}
        return found

    def _repr_html_(self) -> str:
        from cotune.report.notebook import tables_html
        from cotune.report.terminal import evaluation_tables, left_out

        found = self.to_dict()
        notes = [note for note in (*self.notes, left_out(self.left_out)) if note]
        return tables_html(evaluation_tables(found, f"Scores on {plural(found['n'], 'post')}"), notes=notes)


def evaluate_posts(
    predictor: Scorer[Any],
    chunks: Iterable[pd.DataFrame],
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    watch: Callable[[pd.DataFrame, pd.DataFrame], None] | None = None,
    by: Sequence[str] = (),
    seen: SeenChoice = "keep",
) -> EvaluatedPosts:
    """Score labelled posts and compare; `watch` gets every chunk of posts with its predictions.

    `by` names what the posts are cut into slices by, see :func:`cotune.slices.slice_values`.

    Posts without a label, with a label that the run does not know, or without a prediction are left out of
    the scores and counted. Posts that the run was trained on, and near-duplicates of them, are counted in a note; by
    default they are scored, and the scores without them given as well, or they are left out (``seen="leave-out"``).

    Raises
    ------
    DataError
        If no post is left.
    """
    progress = progress or Progress()
    task = predictor.task
    tables: list[pd.DataFrame] = []
    field_cells: list[pd.DataFrame] = []
    scored_as: list[np.ndarray] = []
    values: list[pd.DataFrame] = []
    unreadable, bad = RowErrorCount(), []
    check = SeenCheck(predictor)
    for posts in progress.track(chunks, "posts (in chunks)", None):
        check.update(posts)
        posts = task.complete(posts)
        field_cells.append(posts[list(field_labels(posts).values())])
        values.append(slice_values(posts, predictor.fields, by))
        scores = predictor.scores(posts)
        table = predictor.frame_of(posts, scores)
        if watch is not None:
            watch(posts, table)
        unreadable.add(posts)
        bad.append(has_row_error(posts))
        table.insert(1, "true", posts["label"].to_numpy())
        tables.append(table)
        scored_as.append(scores.predictions)
    if not tables:
        raise DataError("there are no posts to evaluate")
    predictions = pd.concat(tables, ignore_index=True)
    readable = ~np.concatenate(bad)
    labelled = (predictions["true"].notna() & readable).to_numpy()
    problems = {label: task.problem(label) for label in dict.fromkeys(predictions["true"][labelled])}
    unknown = [label for label, problem in problems.items() if problem is not None]
    known = labelled & ~predictions["true"].isin(unknown).to_numpy()
    scored = predictions["label"].notna().to_numpy()
    for note in unreadable.notes():
        progress.say(note)
    left_out = {
        **({"an unreadable cell": unreadable.count} if unreadable.count else {}),
        "no label": int((readable & ~labelled).sum()),
        "unknown label": int((labelled & ~known).sum()),
        "no prediction": int((known & ~scored).sum()),
    }
    if unknown:
        progress.say(f"note: {task.note_on_unknown(unknown, left_out['unknown label'])}")
    used = known & scored
    found_seen = check.found(used)
    trained = used & found_seen.trained
    if seen == "leave-out" and trained.any():
        left_out["a duplicate in training"] = int(trained.sum())
        used = used & ~trained
    if not used.any():
        counted = ", ".join(f"{n} with {reason}" for reason, n in left_out.items() if n)
        if trained.any():
            way_out = "give posts that are not those that the run was trained on"
            raise DataError(f"no post can be scored ({counted}); {way_out}")
        raise DataError(f"no post can be scored ({counted}); the run's task is {task.describe()}")
    targets = task.encode(predictions["true"][used].tolist())
    every = np.concatenate(scored_as)
    found = task.evaluate(targets, every[used], n_bootstrap=n_bootstrap, seed=seed)
    whole = pd.concat(values, ignore_index=True)[used]
    slices = score_slices(task, targets, every[used], whole, n_bootstrap=n_bootstrap, seed=seed) if by else {}
    unseen, rest = None, used & ~trained
    if seen == "keep" and trained.any() and rest.any():
        unseen = task.evaluate(targets[rest[used]], every[rest], n_bootstrap=n_bootstrap, seed=seed)
    notes = found_seen.notes(without=None if unseen is None else (task, unseen), left_out=seen == "leave-out")
    for note in notes:
        progress.say(f"note: {note}")
    # Labels of fields are scored on posts without a class of their own too, and are left out by the same choice.
    count = ~found_seen.trained if seen == "leave-out" else np.ones(len(every), dtype=bool)
    fields = task.score_fields(pd.concat(field_cells, ignore_index=True)[count], every[count], seed=seed)
    if fields:
        found.details["fields"] = fields
    if not task.text_label:
        predictions["true"] = pd.to_numeric(predictions["true"].where(known), errors="coerce")
    return EvaluatedPosts(found, predictions, left_out, notes, slices, found_seen.counts(), unseen, used)
