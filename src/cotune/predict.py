"""Predictions on new posts: in chunks of bounded memory, one row out for every row in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from cotune.data.posts import PostsHash, is_arrow, read_posts
from cotune.data.row_errors import RowErrorCount, has_row_error
from cotune.errors import CotuneError, DataError, listed
from cotune.fusion.contributions import modality_contributions
from cotune.metrics import Evaluation, evaluate
from cotune.progress import Progress
from cotune.run import Run, unknown_labels
from cotune.settings import make_config
from cotune.training.device import make_fabric
from cotune.training.features import Features, iterate
from cotune.training.prepare import prepare

BadImages = Literal["error", "text-only"]
SHARES = ("text_share", "image_share")
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
        What to do with a post whose picture cannot be read: no prediction, or one by its text alone. Either
        way the row says so in ``error``.
    allow_remote : bool
        Whether pictures may be fetched by URL.
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
        self.fabric = make_fabric(make_config({"device": device}))
        self.batch_size = batch_size
        self.bad_images: BadImages = bad_images
        self.allow_remote = allow_remote
        self.model = run.model.to(self.fabric.device).eval()

    def columns(self) -> list[str]:
        """Return the columns of a predictions table."""
        return ["id", "label", *(proba_column(label) for label in self.run.classes), *SHARES, "error"]

    def scores(self, posts: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Score posts as :func:`~cotune.data.posts.read_posts` gives them.

        Returns
        -------
        proba : ndarray
            Shape (N, n_classes); NaN where there is no prediction.
        shares : ndarray
            Shares of text and image, shape (N, 2).
        errors : list of str
            What is wrong with each post; "" for nothing.
        """
        features = prepare(
            posts,
            self.model.encoders,
            root=None,
            device=self.fabric.device,
            allow_remote=self.allow_remote,
        )
        errors = self._errors(features)
        usable = np.asarray(
            [bool(features.present[i].any()) and not self._refused(features, i) for i in range(len(posts))]
        )
        proba = np.full((len(posts), len(self.run.classes)), np.nan)
        shares = np.full((len(posts), 2), np.nan)
        rows = np.flatnonzero(usable)
        sources: dict[str, Any] = dict.fromkeys(self.model.encoders, "raw")
        with torch.inference_mode():
            for batch in iterate(features, rows, sources, self.batch_size) if len(rows) else ():
                moved = batch.to(self.fabric.device)
                text, image = self.model.embed(moved)
                parts = modality_contributions(self.model.head, text, image, moved.present)
                assert batch.rows is not None
                at = batch.rows.numpy()
                proba[at] = parts.proba.cpu().double().numpy()
                shares[at] = torch.stack(parts.shares(), dim=1).cpu().double().numpy()
        for row in rows[~np.isfinite(proba[rows]).all(axis=1)]:
            proba[row], shares[row], errors[row] = np.nan, np.nan, NO_NUMBER
        return proba, shares, errors

    def _refused(self, features: Features, row: int) -> bool:
        return self.bad_images == "error" and row in features.faults

    def _errors(self, features: Features) -> list[str]:
        uses = " and ".join(self.model.encoders)
        errors = []
        for i in range(len(features)):
            fault = features.faults.get(i)
            cells = features.errors.get(i)
            if cells is not None:
                errors.append(str(cells) if fault is None else f"{cells}; {fault}")
            elif fault is not None:
                tail = (
                    "" if self._refused(features, i) or not features.present[i].any() else "; scored by its text alone"
                )
                errors.append(f"{fault}{tail}")
            elif not features.present[i].any():
                errors.append(f"the post has no {uses.replace(' and ', ' and no ')}")
            else:
                errors.append("")
        return errors

    def frame(self, posts: pd.DataFrame) -> pd.DataFrame:
        """Return one row for every post, in order: id, label, probabilities, shares, error."""
        proba, shares, errors = self.scores(posts)
        known = ~np.isnan(proba[:, 0])
        best = np.where(known, np.nan_to_num(proba).argmax(axis=1), 0)
        labels = [self.run.classes[b] if ok else None for b, ok in zip(best, known, strict=True)]
        table: dict[str, Any] = {"id": posts["id"].to_numpy(), "label": labels}
        table |= {proba_column(label): proba[:, i] for i, label in enumerate(self.run.classes)}
        table |= {name: shares[:, i] for i, name in enumerate(SHARES)}
        table["error"] = [error or None for error in errors]
        return pd.DataFrame(table, columns=self.columns())

    def stream(self, chunks: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Yield the predictions of each chunk of posts; memory is bounded by the largest chunk."""
        for posts in chunks:
            yield self.frame(posts)


def proba_column(label: str) -> str:
    """Return the name of the column that holds a label's probability."""
    return f"p_{label}"


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
    the scores and counted. Who scores a run on the very posts it was trained on is told so.

    Raises
    ------
    DataError
        If no post is left.
    """
    progress = progress or Progress()
    classes = predictor.run.classes
    tables: list[pd.DataFrame] = []
    unknown: dict[str, None] = {}
    unreadable, bad = RowErrorCount(), []
    seen = PostsHash()
    for posts in progress.track(chunks, "posts (in chunks)", None):
        seen.update(posts)
        table = predictor.frame(posts)
        unreadable.add(posts)
        bad.append(has_row_error(posts))
        table.insert(1, "true", posts["label"].to_numpy())
        tables.append(table)
        unknown |= dict.fromkeys(unknown_labels(classes, list(posts["label"])))
    if not tables:
        raise DataError("there are no posts to evaluate")
    notes = [SEEN_POSTS] if was_trained_on(predictor.run, seen) else []
    for note in notes:
        progress.say(f"note: {note}")
    predictions = pd.concat(tables, ignore_index=True)
    readable = ~np.concatenate(bad)
    labelled = predictions["true"].notna() & readable
    known = predictions["true"].isin(list(classes)) & readable
    scored = predictions["label"].notna()
    for note in unreadable.notes():
        progress.say(note)
    left_out = {
        **({"an unreadable cell": unreadable.count} if unreadable.count else {}),
        "no label": int((readable & ~labelled).sum()),
        "unknown label": int((labelled & ~known).sum()),
        "no prediction": int((known & ~scored).sum()),
    }
    if unknown:
        shown = listed(unknown, quote=True)
        n = left_out["unknown label"]
        progress.say(
            f"note: {n:,} post{'s have a label' if n > 1 else ' has a label'} that the run does not know ({shown}), "
            f"left out; it knows {listed(classes)}"
        )
    used = predictions[known & scored]
    if used.empty:
        counted = ", ".join(f"{n} with {reason}" for reason, n in left_out.items() if n)
        raise DataError(f"no post can be scored ({counted}); the run knows the labels {listed(classes)}")
    y = used["true"].map({label: i for i, label in enumerate(classes)}).to_numpy(dtype=np.int64)
    proba = used[[proba_column(label) for label in classes]].to_numpy()
    found = evaluate(y, proba, classes, n_bootstrap=n_bootstrap, seed=seed)
    return EvaluatedPosts(found, predictions, left_out, notes)


def was_trained_on(run: Run, posts: PostsHash) -> bool:
    """Tell whether these are the very posts that the run was trained on."""
    return posts.hexdigest() == run.environment.get("data_hash")


def posts_from(x: Any) -> pd.DataFrame:
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
            raise DataError(
                "posts are a DataFrame or a list of dicts with `text` and `image`, or an Arrow table, not "
                f"{type(x).__name__}"
            )
        x = pd.DataFrame({key: pd.Series([row.get(key) for row in rows], dtype=object) for key in _keys(rows)})
    if hasattr(x, "__len__") and not len(x):
        raise DataError("there are no posts")
    try:
        return read_posts(x)
    except CotuneError:
        raise
    except (TypeError, ValueError) as fault:
        raise DataError(f"the posts cannot be read: {fault}") from fault


def _keys(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))
