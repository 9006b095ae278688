"""Predictions on new posts: in chunks of bounded memory, one row out for every row in.

What all that scores posts has in common, whatever runs the model. It imports no torch.
"""

from __future__ import annotations

import abc
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import pandas as pd

from cotune.data.duplicates import Fingerprint
from cotune.data.images.load import ImageFault
from cotune.data.kept_chunks import KeptChunks
from cotune.data.known_images import DISTANCE, KNOWN, KnownImages
from cotune.data.seen import SeenPosts
from cotune.data.tables.row_errors import RowError
from cotune.encoders.table_columns import Column
from cotune.errors import ConfigError
from cotune.fields import Field
from cotune.tasks import Task

BadImages = Literal["error", "text-only"]
Read = TypeVar("Read")
NO_NUMBER = "the model's answer for this post is not a number; train again with lower learning rates"


@dataclass(frozen=True)
class Scores:
    """What a model says of posts.

    Attributes
    ----------
    predictions : ndarray
        Probabilities or values, shape (N, n_predictions); NaN where there is no prediction.
    shares : ndarray
        Each field's share in the output that is explained, shape (N, F).
    errors : list of str
        What is wrong with each post; "" for nothing.
    contributions : ndarray
        What each field adds to each of the task's `outputs` on its scale, shape (N, F, len(outputs)); NaN where there
        is no prediction, and where the model does not tell, as exports of earlier versions.
    known : tuple or None
        Which known image each post shows, and its distance, as :meth:`KnownImages.find` tells; None if none are looked
        for.
    """

    predictions: np.ndarray
    shares: np.ndarray
    errors: list[str]
    contributions: np.ndarray
    known: tuple[list[str | None], np.ndarray] | None = None

    @classmethod
    def none(cls, task: Task, fields: Sequence[str], errors: list[str]) -> Scores:
        """Return those of posts without a prediction."""
        n = len(errors)
        return cls(
            np.full((n, task.n_predictions), np.nan),
            np.full((n, len(fields)), np.nan),
            errors,
            np.full((n, len(fields), len(task.outputs)), np.nan),
        )

    def copied(self, rows: np.ndarray, of: np.ndarray) -> None:
        """Give the posts at `rows` what those at `of` have, shapes (M,)."""
        for values in (self.predictions, self.shares, self.contributions):
            values[rows] = values[of]

    def without_nonsense(self, rows: np.ndarray) -> Scores:
        """Return these scores, with none and an error where those of the posts at `rows` are not numbers."""
        for row in rows[~np.isfinite(self.predictions[rows]).all(axis=1)]:
            self.predictions[row] = self.shares[row] = self.contributions[row] = np.nan
            self.errors[row] = NO_NUMBER
        return self


class Scorer(abc.ABC, Generic[Read]):
    """A trained model, ready to score posts.

    Scoring has two halves, so that posts can be read while others are in the model: :meth:`read` and :meth:`score`.

    Parameters
    ----------
    task : Task
        What its outputs mean.
    fields : tuple of Field
        What a post has.
    reads : tuple of str
        The fields that the model reads.
    data_hash : str or None
        Hash of the posts it was trained on.

    Attributes
    ----------
    seconds : dict
        Time that each step has taken so far; steps overlap.
    """

    bad_images: BadImages
    #: Whether errors may quote what a post holds; the owner of a table wants that, who sends posts elsewhere does not.
    quotes = True
    #: Images that are looked for in posts; see :meth:`look_for`.
    known: KnownImages | None = None

    def __init__(
        self, task: Task, fields: tuple[Field, ...], reads: tuple[str, ...], data_hash: str | None = None
    ) -> None:
        self.task, self.fields, self.reads, self.data_hash = task, fields, reads, data_hash
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the time that the block takes to the `seconds` of a step."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - started

    @property
    @abc.abstractmethod
    def engine_version(self) -> str:
        """What runs the model, with its version: equal ones give equal predictions."""

    @property
    def field_names(self) -> tuple[str, ...]:
        """The fields of a post, whether the model reads them or not."""
        return tuple(self.kinds)

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of every field."""
        return {field.name: field.kind for field in self.fields}

    @property
    def seen(self) -> SeenPosts | None:
        """The posts that the model was trained on, as hashes; None if it does not know."""
        return None

    @property
    @abc.abstractmethod
    def weights_hash(self) -> str:
        """A hash of the weights, the same for a run and its exports."""

    @abc.abstractmethod
    def table_columns(self) -> dict[str, tuple[Column, ...]]:
        """Return what the columns of each table field hold."""

    def text_columns(self) -> set[str]:
        """Return the columns of a predictions table that hold text; all others hold numbers."""
        return {"id", "error", KNOWN, *(self.task.label_columns() if self.task.text_label else ())}

    def columns(self) -> list[str]:
        """Return the columns of a predictions table."""
        shares = [share_column(name) for name in self.field_names]
        known = [] if self.known is None else [KNOWN, DISTANCE]
        return ["id", *self.task.label_columns(), *self.task.columns(), *shares, *known, "error"]

    def look_for(self, known: KnownImages) -> None:
        """Say of every post from now on whether its image is known.

        Raises
        ------
        ConfigError
            If the model reads no images.
        """
        if not any(self.kinds[name] == "image" for name in self.reads):
            raise ConfigError("known images are looked for among those that the model reads, and it reads none")
        self.known = known

    @abc.abstractmethod
    def read(self, posts: pd.DataFrame) -> Read:
        """Read posts: images decoded, texts tokenised. It may run in a thread beside :meth:`score`."""

    @abc.abstractmethod
    def score(self, read: Read) -> Scores:
        """Score posts that were read."""

    def fingerprints(self, read: Read) -> Mapping[str, Sequence[Fingerprint | None]]:
        """Return what images of posts that were read are known by, by field; nothing if none are looked for."""
        return {}

    def scores(self, posts: pd.DataFrame) -> Scores:
        """Score posts as :func:`~cotune.data.posts.read_posts` gives them."""
        return self._scores_of(self.read(posts), len(posts))

    def _scores_of(self, read: Read, n: int) -> Scores:
        """Score `n` posts that were read, and look for known images among theirs."""
        scores = self.score(read)
        return (
            scores
            if self.known is None
            else replace(scores, known=self.known.find(self.fingerprints(read).values(), n))
        )

    def errors_of(
        self, faults: Mapping[int, ImageFault], cells_of: Mapping[int, RowError], usable: np.ndarray
    ) -> list[str]:
        """Return what is wrong with each post, "" for nothing.

        Parameters
        ----------
        faults : mapping
            Position of a post to what is wrong with its image.
        cells_of : mapping
            Position of a post to what is wrong with its cells.
        usable : ndarray of bool
            Which posts can be scored, shape (N,).
        """
        errors = []
        rest = "its text alone" if self.field_names == ("text", "image") else "what else it has"
        for i in range(len(usable)):
            fault: object = faults.get(i)
            cells: object = cells_of.get(i)
            if not self.quotes:
                fault, cells = i in faults and faults[i].plain, i in cells_of and "a cell cannot be read"
            if cells:
                errors.append(f"{cells}; {fault}" if fault else str(cells))
            elif fault:
                errors.append(f"{fault}; scored by {rest}" if usable[i] else str(fault))
            elif not usable[i]:
                errors.append(f"the post has no {' and no '.join(self.reads)}")
            else:
                errors.append("")
        return errors

    def frame(self, posts: pd.DataFrame) -> pd.DataFrame:
        """Return one row for every post, in order: id, label, probabilities, shares, error."""
        return self.frame_of(posts, self.scores(posts))

    def frame_of(self, posts: pd.DataFrame, scores: Scores) -> pd.DataFrame:
        """Return the predictions table of posts whose :meth:`scores` are known."""
        frame = predictions_table(self.task, self.field_names, posts["id"], scores)
        if self.known is None:
            return frame
        names, distances = scores.known or ([None] * len(posts), np.full(len(posts), np.nan))
        frame[KNOWN], frame[DISTANCE] = pd.Series(names, dtype=object), distances
        return frame[self.columns()]

    def stream(self, chunks: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Yield the predictions of each chunk of posts; the next chunk is read while one is scored.

        Memory is bounded by the two largest chunks.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="read") as ahead:
            coming = None
            for posts in chain(chunks, [None]):
                following = None if posts is None else (posts, ahead.submit(self.read, posts))
                if coming is not None:
                    with self.timed("wait"):
                        read = coming[1].result()
                    yield self.frame_of(coming[0], self._scores_of(read, len(coming[0])))
                coming = following

    def resumed(
        self, chunks: Iterable[pd.DataFrame], kept: KeptChunks | None
    ) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
        """Yield each chunk of posts with its predictions; what is kept is not scored again, what is new is kept.

        Parameters
        ----------
        chunks : iterable of DataFrame
            The posts, cut as they were before.
        kept : KeptChunks or None
            What was done already; without it everything is scored, and nothing kept.
        """
        rest, done = iter(chunks), 0
        for posts in rest:
            frame = None if kept is None else kept.read(done, self.columns(), self.text_columns())
            if frame is None or len(frame) != len(posts):  # not done yet, or damaged
                rest = chain([posts], rest)
                break
            yield posts, frame
            done += 1
        waiting: deque[pd.DataFrame] = deque()  # posts that are read and not scored yet

        def noted() -> Iterator[pd.DataFrame]:
            for posts in rest:
                waiting.append(posts)
                yield posts

        for number, frame in enumerate(self.stream(noted()), done):
            if kept is not None:
                with self.timed("write"):
                    kept.write(number, frame, self.text_columns())
            yield waiting.popleft(), frame


def predictions_table(task: Task, fields: Sequence[str], ids: pd.Series, scores: Scores) -> pd.DataFrame:
    """Return one row for every post, in order: id, label, probabilities, shares, error.

    Parameters
    ----------
    task : Task
        What the predictions mean.
    fields : sequence of str
        The fields of a post.
    ids : Series
        The id of every post, shape (N,).
    scores : Scores
        What the model says of them.
    """
    found = scores.predictions
    known = ~np.isnan(found[:, 0])
    labels = np.full(len(ids), None, dtype=object)
    labels[known] = np.asarray([*task.decode(found[known]), None], dtype=object)[:-1]
    table: dict[str, Any] = {"id": ids.to_numpy(), "label": labels}
    for column, further in task.decode_fields(found[known]).items():
        table[column] = np.full(len(ids), None, dtype=object)
        table[column][known] = further
    table |= dict(zip(task.columns(), found.T, strict=False))
    table |= {share_column(name): scores.shares[:, i] for i, name in enumerate(fields)}
    table["error"] = [error or None for error in scores.errors]
    frame = pd.DataFrame(table)
    return frame if task.text_label else frame.astype({"label": float})


def distinct(keys: Sequence[Hashable], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the posts to score so that each content is scored once, and for each of `rows` the one to copy.

    Parameters
    ----------
    keys : sequence of hashable
        The content of every post.
    rows : ndarray of int
        Posts that are to be scored, shape (N,).
    """
    first: dict[Hashable, int] = {}
    of = np.asarray([first.setdefault(keys[row], row) for row in rows.tolist()], dtype=np.int64)
    return np.asarray(list(first.values()), dtype=np.int64), of


def share_column(field: str) -> str:
    """Return the name of the column that holds a field's share."""
    return f"{field}_share"
