"""Predictions on new posts: in chunks of bounded memory, one row out for every row in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from cotune.data.images.load import ImageFault
from cotune.data.posts import ColumnNames, PostsHash, is_arrow, read_posts
from cotune.data.tables.row_errors import RowErrorCount, has_row_error
from cotune.encoders.prepared import ReadOptions
from cotune.errors import CotuneError, DataError
from cotune.fields import DEFAULT_FIELDS, Field
from cotune.heads import Embeddings
from cotune.heads.contributions import Contributions, contributions
from cotune.metrics import Evaluation
from cotune.model import Batch
from cotune.progress import Progress
from cotune.run import Run
from cotune.settings import make_config
from cotune.training.device import choose_device
from cotune.training.features import Features, iterate, prepare

BadImages = Literal["error", "text-only"]
SEEN_POSTS = "these are the posts that the run was trained on; on new posts it will score lower"
NO_NUMBER = "the model's answer for this post is not a number; train again with lower learning rates"


class Predictor:
    """A run, ready to score posts.

    Parameters
    ----------
    run : Run
        The trained model.
    device : {"auto", "cpu", "cuda", "mps"}
        Where it runs.
    batch_size : int
        Posts in a pass.
    bad_images : {"error", "text-only"}
        What to do with a post whose image cannot be read: no prediction, or one by its text alone. Either
        way the row says so in ``error``.
    allow_remote : bool
        Whether images may be fetched by URL.
    """

    def __init__(
        self,
        run: Run,
        *,
        device: str = "auto",
        batch_size: int = 64,
        bad_images: BadImages = "error",
        allow_remote: bool = False,
    ) -> None:
        self.run = run
        self.device = choose_device(make_config({"device": device}).device)
        self.batch_size = batch_size
        self.bad_images: BadImages = bad_images
        self.allow_remote = allow_remote
        self.model = run.model.to(self.device).eval()

    @property
    def field_names(self) -> tuple[str, ...]:
        """The fields of a post, whether the model reads them or not."""
        return tuple(self.kinds)

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of every field."""
        return {field.name: field.kind for field in self.run.fields}

    def text_columns(self) -> set[str]:
        """Return the columns of a predictions table that hold text; all others hold numbers."""
        return {"id", "error", *(("label",) if self.run.task.text_label else ())}

    def columns(self) -> list[str]:
        """Return the columns of a predictions table."""
        shares = [share_column(name) for name in self.field_names]
        return ["id", "label", *self.run.task.columns(), *shares, "error"]

    def scores(self, posts: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Score posts as :func:`~cotune.data.posts.read_posts` gives them.

        Returns
        -------
        predictions : ndarray
            Probabilities or values, shape (N, n_outputs); NaN where there is no prediction.
        shares : ndarray
            Each field's share, shape (N, F).
        errors : list of str
            What is wrong with each post; "" for nothing.
        """
        features, rows, errors = self.read(posts)
        found = np.full((len(posts), self.run.task.n_outputs), np.nan)
        shares = np.full((len(posts), len(self.field_names)), np.nan)
        for at, parts in self.contributions(features, rows):
            found[at] = parts.predictions.cpu().double().numpy()
            shares[at] = torch.stack(list(parts.shares().values()), dim=1).cpu().double().numpy()
        for row in rows[~np.isfinite(found[rows]).all(axis=1)]:
            found[row], shares[row], errors[row] = np.nan, np.nan, NO_NUMBER
        return found, shares, errors

    def read(self, posts: pd.DataFrame) -> tuple[Features, np.ndarray, list[str]]:
        """Return the prepared posts, the positions of those that can be scored, and what is wrong with each."""
        options = ReadOptions(allow_remote=self.allow_remote)
        features = prepare(posts, self.model.encoders, options, device=self.device)
        usable: np.ndarray = np.asarray(features.present.any(axis=1))
        faults = features.faults
        if self.bad_images == "error":
            usable[list(faults)] = False
        return features, np.flatnonzero(usable), self._errors(features, faults, usable)

    def embedded(self, features: Features, rows: np.ndarray) -> Iterator[tuple[Batch, Embeddings]]:
        """Yield batches of the posts at `rows`, on the model's device, with their embeddings."""
        sources = dict.fromkeys(self.model.encoders, "raw")
        for batch in iterate(features, rows, sources, self.batch_size) if len(rows) else ():
            moved = batch.to(self.device)
            with torch.inference_mode():
                yield moved, self.model.embed(moved)

    def contributions(self, features: Features, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Contributions]]:
        """Yield positions and contributions of the posts at `rows`, batch by batch."""
        for batch, embeddings in self.embedded(features, rows):
            with torch.inference_mode():
                parts = contributions(self.model.head, self.run.task, embeddings, self.field_names)
            assert batch.rows is not None
            yield batch.rows.numpy(), parts

    def _errors(self, features: Features, faults: Mapping[int, ImageFault], usable: np.ndarray) -> list[str]:
        errors = []
        rest = "its text alone" if self.field_names == ("text", "image") else "what else it has"
        for i in range(len(features)):
            fault, cells = faults.get(i), features.errors.get(i)
            if cells is not None:
                errors.append(str(cells) if fault is None else f"{cells}; {fault}")
            elif fault is not None:
                errors.append(f"{fault}; scored by {rest}" if usable[i] else str(fault))
            elif not usable[i]:
                errors.append(f"the post has no {' and no '.join(self.model.encoders)}")
            else:
                errors.append("")
        return errors

    def frame(self, posts: pd.DataFrame) -> pd.DataFrame:
        """Return one row for every post, in order: id, label, probabilities, shares, error."""
        return self.frame_of(posts, self.scores(posts))

    def frame_of(self, posts: pd.DataFrame, scores: tuple[np.ndarray, np.ndarray, list[str]]) -> pd.DataFrame:
        """Return the predictions table of posts whose :meth:`scores` are known."""
        found, shares, errors = scores
        known = ~np.isnan(found[:, 0])
        labels = np.full(len(posts), None, dtype=object)
        labels[known] = np.asarray([*self.run.task.decode(found[known]), None], dtype=object)[:-1]
        table: dict[str, Any] = {"id": posts["id"].to_numpy(), "label": labels}
        table |= dict(zip(self.run.task.columns(), found.T, strict=False))
        table |= {share_column(name): shares[:, i] for i, name in enumerate(self.field_names)}
        table["error"] = [error or None for error in errors]
        frame = pd.DataFrame(table, columns=self.columns())
        return frame if self.run.task.text_label else frame.astype({"label": float})

    def stream(self, chunks: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Yield the predictions of each chunk of posts; memory is bounded by the largest chunk."""
        for posts in chunks:
            yield self.frame(posts)


def share_column(field: str) -> str:
    """Return the name of the column that holds a field's share."""
    return f"{field}_share"


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
    """

    evaluation: Evaluation
    predictions: pd.DataFrame
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the predictions as plain values."""
        return {**self.evaluation.to_dict(), "left_out": self.left_out, "notes": self.notes}


def evaluate_posts(
    predictor: Predictor,
    chunks: Iterable[pd.DataFrame],
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> EvaluatedPosts:
    """Score labelled posts and compare.

    Posts without a label, with a label that the run does not know, or without a prediction are left out of
    the scores and counted. Who scores a run on the very posts it was trained on gets a note.

    Raises
    ------
    DataError
        If no post is left.
    """
    progress = progress or Progress()
    task = predictor.run.task
    tables: list[pd.DataFrame] = []
    scored_as: list[np.ndarray] = []
    unreadable, bad = RowErrorCount(), []
    seen = PostsHash(predictor.run.fields)
    for posts in progress.track(chunks, "posts (in chunks)", None):
        seen.update(posts)
        scores = predictor.scores(posts)
        table = predictor.frame_of(posts, scores)
        unreadable.add(posts)
        bad.append(has_row_error(posts))
        table.insert(1, "true", posts["label"].to_numpy())
        tables.append(table)
        scored_as.append(scores[0])
    if not tables:
        raise DataError("there are no posts to evaluate")
    notes = [SEEN_POSTS] if was_trained_on(predictor.run, seen) else []
    for note in notes:
        progress.say(f"note: {note}")
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
    if not used.any():
        counted = ", ".join(f"{n} with {reason}" for reason, n in left_out.items() if n)
        raise DataError(f"no post can be scored ({counted}); the run's task is {task.describe()}")
    targets = task.encode(predictions["true"][used].tolist())
    found = task.evaluate(targets, np.concatenate(scored_as)[used], n_bootstrap=n_bootstrap, seed=seed)
    if not task.text_label:
        predictions["true"] = pd.to_numeric(predictions["true"].where(known), errors="coerce")
    return EvaluatedPosts(found, predictions, left_out, notes)


def was_trained_on(run: Run, posts: PostsHash) -> bool:
    """Tell whether these are the very posts that the run was trained on."""
    return posts.hexdigest() == run.environment.get("data_hash")


def posts_from(x: Any, fields: tuple[Field, ...] = DEFAULT_FIELDS) -> pd.DataFrame:
    """Turn what a Python user passes (DataFrame, Arrow table, list of dicts, one dict) into posts.

    Raises
    ------
    DataError
        If it is none of these or lacks both `text` and `image`.
    """
    if isinstance(x, dict):
        x = [x]
    if not isinstance(x, pd.DataFrame) and not is_arrow(x):
        rows = list(x) if isinstance(x, list | tuple) else None
        if rows is None or not all(isinstance(row, dict) for row in rows):
            names = " and ".join(f"`{field.name}`" for field in fields)
            raise DataError(
                f"posts are a DataFrame or a list of dicts with {names}, or an Arrow table, not {type(x).__name__}"
            )
        x = pd.DataFrame({key: pd.Series([row.get(key) for row in rows], dtype=object) for key in _keys(rows)})
    if hasattr(x, "__len__") and not len(x):
        raise DataError("there are no posts")
    try:
        return read_posts(x, columns=ColumnNames(fields=fields))
    except CotuneError:
        raise
    except (TypeError, ValueError) as fault:
        raise DataError(f"the posts cannot be read: {fault}") from fault


def _keys(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))
