"""Predictions on new posts: in chunks of bounded memory, one row out for every row in.

What all that scores posts has in common, whatever runs the model. It imports no torch.
"""

from __future__ import annotations

import abc
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import pandas as pd

from cotune.data.duplicates import fingerprints
from cotune.data.images.load import ImageFault
from cotune.data.kept_chunks import KeptChunks
from cotune.data.posts import PostsHash
from cotune.data.seen import NEAR, NEW, SAME, PostKeys, SeenPosts
from cotune.data.tables.cells import field_labels
from cotune.data.tables.row_errors import RowError, RowErrorCount, has_row_error
from cotune.encoders.table_columns import Column
from cotune.errors import DataError
from cotune.fields import Field
from cotune.metrics import Evaluation
from cotune.progress import Progress
from cotune.report.numbers import plural
from cotune.slices import score_slices, slice_values
from cotune.tasks import Task

BadImages = Literal["error", "text-only"]
Read = TypeVar("Read")
#: How notes end on posts that a run has seen before it was scored on them.
TOO_HIGH = "on new posts it will score lower"
SEEN_POSTS = f"these are the posts that the run was trained on; {TOO_HIGH}"
SeenChoice = Literal["keep", "leave-out"]
NO_NUMBER = "the model's answer for this post is not a number; train again with lower learning rates"


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
        return {"id", "error", *(self.task.label_columns() if self.task.text_label else ())}

    def columns(self) -> list[str]:
        """Return the columns of a predictions table."""
        shares = [share_column(name) for name in self.field_names]
        return ["id", *self.task.label_columns(), *self.task.columns(), *shares, "error"]

    @abc.abstractmethod
    def read(self, posts: pd.DataFrame) -> Read:
        """Read posts: images decoded, texts tokenised. It may run in a thread beside :meth:`score`."""

    @abc.abstractmethod
    def score(self, read: Read) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Score posts that were read; returns what :meth:`scores` does."""

    def scores(self, posts: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Score posts as :func:`~cotune.data.posts.read_posts` gives them.

        Returns
        -------
        predictions : ndarray
            Probabilities or values, shape (N, n_predictions); NaN where there is no prediction.
        shares : ndarray
            Each field's share, shape (N, F).
        errors : list of str
            What is wrong with each post; "" for nothing.
        """
        return self.score(self.read(posts))

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

    def frame_of(self, posts: pd.DataFrame, scores: tuple[np.ndarray, np.ndarray, list[str]]) -> pd.DataFrame:
        """Return the predictions table of posts whose :meth:`scores` are known."""
        return predictions_table(self.task, self.field_names, posts["id"], scores)

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
                    yield self.frame_of(coming[0], self.score(read))
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


def predictions_table(
    task: Task, fields: Sequence[str], ids: pd.Series, scores: tuple[np.ndarray, np.ndarray, list[str]]
) -> pd.DataFrame:
    """Return one row for every post, in order: id, label, probabilities, shares, error.

    Parameters
    ----------
    task : Task
        What the predictions mean.
    fields : sequence of str
        The fields of a post.
    ids : Series
        The id of every post, shape (N,).
    scores : tuple
        As :meth:`Scorer.scores` returns them.
    """
    found, shares, errors = scores
    known = ~np.isnan(found[:, 0])
    labels = np.full(len(ids), None, dtype=object)
    labels[known] = np.asarray([*task.decode(found[known]), None], dtype=object)[:-1]
    table: dict[str, Any] = {"id": ids.to_numpy(), "label": labels}
    for column, further in task.decode_fields(found[known]).items():
        table[column] = np.full(len(ids), None, dtype=object)
        table[column][known] = further
    table |= dict(zip(task.columns(), found.T, strict=False))
    table |= {share_column(name): shares[:, i] for i, name in enumerate(fields)}
    table["error"] = [error or None for error in errors]
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
    """

    evaluation: Evaluation
    predictions: pd.DataFrame
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    slices: dict[str, Any] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    unseen: Evaluation | None = None

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
        scored_as.append(scores[0])
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
        left_out["a post that was trained on"] = int(trained.sum())
        used = used & ~trained
    if not used.any():
        counted = ", ".join(f"{n} with {reason}" for reason, n in left_out.items() if n)
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
    return EvaluatedPosts(found, predictions, left_out, notes, slices, found_seen.counts(), unseen)


@dataclass(frozen=True)
class SeenFound:
    """What a model has seen of some posts.

    Attributes
    ----------
    whole : bool
        Whether they are the very table that it was trained on.
    found : ndarray or None
        What each post is, as :meth:`~cotune.data.seen.SeenPosts.compare` gives it, of all posts; None if unknown.
    watched : ndarray or None
        Which of them it was stopped by, or its thresholds chosen on.
    scored : ndarray of bool
        The posts that count.
    """

    whole: bool
    found: np.ndarray | None
    watched: np.ndarray | None
    scored: np.ndarray

    @property
    def trained(self) -> np.ndarray:
        """Which of all posts were trained on, or are near-duplicates of such posts."""
        return np.zeros(len(self.scored), dtype=bool) if self.found is None else self.found != NEW

    def counts(self) -> dict[str, int]:
        """Return how many of the scored posts are the same, near-duplicates, and watched; nothing if unknown."""
        if self.found is None or self.watched is None:
            return {}
        found = self.found[self.scored]
        return {"same": int((found == SAME).sum()), "near": int((found == NEAR).sum()),
                "watched": int(self.watched[self.scored].sum())}  # fmt: skip

    def notes(self, *, without: tuple[Task, Evaluation] | None = None, left_out: bool = False) -> list[str]:
        """Return what to tell.

        Parameters
        ----------
        without : (Task, Evaluation), optional
            The scores of the other posts.
        left_out : bool
            Whether posts that were trained on are not scored.
        """
        counts = self.counts()
        same, near = counts.get("same", 0), counts.get("near", 0)
        n, notes = int(self.scored.sum()), []
        if same + near or self.whole:
            told = f"{same + near:,} of {plural(n, 'post')} {'was' if same + near == 1 else 'were'} trained on"
            told += f" ({same:,} the same, {near:,} nearly the same)" if near else ""
            if left_out and same + near:
                notes.append(f"{told}, left out of the scores")
            elif same == n or not same + near:
                notes.append(SEEN_POSTS)
            else:
                task, rest = without or (None, None)
                score = None if task is None or rest is None else rest.scores.get(task.main_score)
                if task is not None and rest is not None and score is not None and np.isfinite(score.value):
                    told += f"; without them the {task.main_title} is {score.value:.3f} on {plural(rest.n, 'post')}"
                notes.append(f"{told}; {TOO_HIGH}")
        if watched := counts.get("watched"):
            notes.append(
                f"{watched:,} of {plural(n, 'post')} decided when training stopped or where labels are cut, so that "
                "their scores are a little too high"
            )
        return notes


class SeenCheck:
    """Finds out which of the posts that are fed to it a model was trained on.

    Parameters
    ----------
    predictor : Scorer
        The model. One without hashes of its posts tells only whether the whole table is that of its training.
    """

    def __init__(self, predictor: Scorer[Any]) -> None:
        self._predictor = predictor
        # An image that serves exports does without what near-duplicates are found by.
        able = find_spec("imagehash") is not None
        self._seen = predictor.seen if able else None
        self._fields = [f for f in predictor.fields if self._seen is not None and f.name in self._seen.fields]
        self._keys: list[PostKeys] = []
        self._known: dict[str, str] = {}
        self._hash = PostsHash(predictor.fields, self._known)

    def update(self, posts: pd.DataFrame) -> None:
        """Add the next posts."""
        self._known.clear()
        if self._seen is not None:
            marks = {f.name: fingerprints(posts[f.name]) for f in self._fields if f.kind == "image" and f.name in posts}
            self._keys.append(PostKeys.of(posts, self._fields, marks))
            for name, found in marks.items():  # so that no file is read again for its hash
                paths = zip(posts[name], found, strict=True)
                self._known.update({p: m.key for p, m in paths if isinstance(p, str) and m is not None and m.readable})
        self._hash.update(posts)

    def found(self, scored: np.ndarray | None = None) -> SeenFound:
        """Return what is known of all posts; `scored` says which of them count, by default all."""
        whole = self._hash.hexdigest() == self._predictor.data_hash
        if self._seen is None or not self._keys:
            return SeenFound(whole, None, None, np.zeros(0, dtype=bool) if scored is None else scored)
        keys = PostKeys.joined(self._keys)
        return SeenFound(whole, *self._seen.compare(keys), np.ones(len(keys), bool) if scored is None else scored)


def without_nonsense(
    rows: np.ndarray, found: np.ndarray, shares: np.ndarray, errors: list[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return scores in which predictions that are not numbers, of the posts at `rows`, are none and an error."""
    for row in rows[~np.isfinite(found[rows]).all(axis=1)]:
        found[row], shares[row], errors[row] = np.nan, np.nan, NO_NUMBER
    return found, shares, errors
