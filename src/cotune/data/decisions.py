"""Decisions on labels, as the review of a check saves them: read from a table, and applied to posts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from cotune.data.kinds import BadCellError
from cotune.data.tables.cells import LABEL_SEPARATOR, label_name, plain_cell
from cotune.data.tables.read import join_chunks, read_chunks
from cotune.errors import DataError, clip, did_you_mean, listed
from cotune.report.numbers import plural

COLUMNS = ("id", "row", "label", "decision", "given")
"""The columns of a decisions file; `label` and one of `id` and `row` are needed."""

Word = Literal["keep", "change", "exclude"]
_WORDS: tuple[Word, ...] = get_args(Word)
_ALL = 2**62


@dataclass(frozen=True)
class Decision:
    """What a reviewer decided about the label of one post.

    Attributes
    ----------
    line : int
        Row of the decisions file, counted from 1.
    key : str
        The post's id, or its row.
    word : {"keep", "change", "exclude"}
        What was decided.
    label : str or None
        The new label of a post whose label is changed.
    given : str or None
        The label that the post had; None if that is not known.
    """

    line: int
    key: str
    word: Word
    label: str | None
    given: str | None


@dataclass(frozen=True)
class Decisions:
    """What :func:`read_decisions` read.

    Attributes
    ----------
    file : str
        Name of the file.
    by : {"id", "row"}
        By what posts are found.
    decisions : tuple of Decision
        One for each reviewed post.
    """

    file: str
    by: Literal["id", "row"]
    decisions: tuple[Decision, ...]


def read_decisions(path: str | Path) -> Decisions:
    """Read a decisions file: columns `id`, `row`, `label`, `decision` and `given`.

    Posts are found by their ids if every decision has one and none occurs twice, else by their rows.

    Parameters
    ----------
    path : path
        Any table that can hold posts; ``decisions.csv`` of the review page. Without a column `decision`, a row with a
        label changes it; without `given`, nothing is compared with the posts' labels.

    Raises
    ------
    DataError
        If it cannot be read, a decision is not known or lacks its label, or two are about one post.
    """
    path = Path(path)
    chunk = join_chunks(list(read_chunks(path, list(COLUMNS), _ALL)))
    if "label" not in chunk.columns or not {"id", "row"} & set(chunk.columns):
        raise DataError(
            f"{path} holds no decisions on labels: it needs the columns label and id (or row), as the file that "
            f"review.html of `cotune check --run` saves; it has: {listed(chunk.columns) or 'none'}"
        )
    rows = [{name: chunk.values.get(name, [None] * chunk.rows)[i] for name in COLUMNS} for i in range(chunk.rows)]
    cells = [_cells(row, line, path) for line, row in enumerate(rows, start=1)]
    by: Literal["id", "row"] = "id" if _tell_apart(cells, "id") or not _tell_apart(cells, "row") else "row"
    counts = Counter(row[by] for row in cells)
    for line, row in enumerate(cells, start=1):
        key = row[by]
        if key is None:
            raise DataError(f"row {line} of {path} has no {by}, so that its post cannot be found; fill it in")
        if counts[key] > 1:
            raise DataError(f"{path} has {counts[key]} decisions on the post {by} {clip(key)!r}; keep one of them")
    found = [_decision(row, line, path, str(row[by])) for line, row in enumerate(cells, start=1)]
    return Decisions(path.name, by, tuple(found))


def apply_decisions(posts: pd.DataFrame, decisions: Decisions, *, partial: bool = False) -> tuple[pd.DataFrame, str]:
    """Return the posts with labels changed and posts left out as was decided, and a note on what was done.

    The frame's ``attrs["labels_from"]`` has the file's name and the counts, which a run trained on it records.

    Parameters
    ----------
    posts : DataFrame
        As :func:`cotune.data.posts.read_posts` gives it.
    decisions : Decisions
        What was decided.
    partial : bool
        Whether the posts are a part of those that were reviewed, so that decisions on others are left aside.

    Raises
    ------
    DataError
        If a decision is about a post that is not there or that had another label, or gives a label that no post has.
    """
    file, by = decisions.file, decisions.by
    places = {str(key): at for at, key in enumerate(posts[by])}
    unknown = [decision for decision in decisions.decisions if decision.key not in places]
    if unknown and (not partial or len(unknown) == len(decisions.decisions)):
        first = unknown[0]
        raise DataError(
            f"row {first.line} of {file}: there is no post with the {by} {clip(first.key)!r} in the posts table"
            f"{did_you_mean(first.key, places) if by == 'id' else ''} ({len(unknown):,} of "
            f"{len(decisions.decisions):,} decisions are about posts that are not there); give the posts "
            "that were reviewed"
        )
    labels = posts["label"].tolist()
    known = _Known(label for label in labels if label is not None)
    keep = [True] * len(labels)
    done: Counter[str] = Counter()
    for decision in decisions.decisions:
        at = places.get(decision.key)
        if at is None:
            continue
        _refuse_other_post(decision, labels[at], file, by)
        done[decision.word] += 1
        if decision.word == "exclude":
            keep[at] = False
        elif decision.label is not None:
            known.refuse_unknown(decision, file)
            labels[at] = decision.label
    found = posts.assign(label=pd.Series(labels, index=posts.index, dtype=object))[keep].reset_index(drop=True)
    found.attrs["labels_from"] = {"file": file, "matched_by": by, **{word: done[word] for word in _WORDS}}
    elsewhere = f"; {plural(len(unknown), 'decision')} on posts that are not used here" if unknown else ""
    note = (
        f"note: labels from {file}, matched by {by}: {done['change']:,} changed, {plural(done['exclude'], 'post')} "
        f"left out, {done['keep']:,} kept{elsewhere}"
    )
    return found, note


def _cells(row: dict[str, Any], line: int, path: Path) -> dict[str, str | None]:
    try:
        cells = {
            name: plain_cell(value, "label" if name in ("label", "given") else "id") for name, value in row.items()
        }
    except BadCellError as error:
        raise DataError(f"row {line} of {path}: {error}") from None
    return {
        name: label_name(value) if value is not None and name in ("label", "given", "row") else value
        for name, value in cells.items()
    }


def _tell_apart(cells: list[dict[str, str | None]], name: str) -> bool:
    values = [row[name] for row in cells]
    return None not in values and len(set(values)) == len(values)


def _decision(row: dict[str, str | None], line: int, path: Path, key: str) -> Decision:
    label = row["label"]
    word = (row["decision"] or ("change" if label is not None else "")).lower()
    if word not in _WORDS:
        raise DataError(
            f"row {line} of {path}: the decision {clip(word)!r} is not known{did_you_mean(word, _WORDS)}; it is one of "
            f"{', '.join(_WORDS)}"
        )
    if word == "change" and label is None:
        raise DataError(f"row {line} of {path}: a label is to be changed, but the new one is missing; fill it in")
    return Decision(line, key, word, label if word == "change" else None, row["given"])


def _refuse_other_post(decision: Decision, label: str | None, file: str, by: str) -> None:
    """Refuse a post whose label was another one when it was reviewed, unless it has the new label already."""
    if decision.given is None or decision.given == (label or "") or (label is not None and decision.label == label):
        return
    raise DataError(
        f"row {decision.line} of {file}: the post with the {by} {clip(decision.key)!r} had the label "
        f"{clip(decision.given)!r} when it was reviewed, but has {clip(label or '')!r} here; the decisions are about "
        "another table, or it was changed since: review it again"
    )


class _Known:
    """The labels that posts have: names, or numbers."""

    def __init__(self, labels: Iterable[str]) -> None:
        self.labels = set(labels)
        several = any(LABEL_SEPARATOR in label for label in self.labels)
        self.names = {name for label in self.labels for name in _names(label)} if several else self.labels
        self.several = several
        self.amounts = _numbers(self.labels) and any(not float(label).is_integer() for label in self.labels)

    def refuse_unknown(self, decision: Decision, file: str) -> None:
        """Refuse a label that no post has."""
        label = str(decision.label)
        if self.amounts and _numbers([label]):
            return
        wrong = [name for name in (_names(label) if self.several else [label]) if name not in self.names]
        if wrong:
            raise DataError(
                f"row {decision.line} of {file}: no post has the label {clip(wrong[0])!r}"
                f"{did_you_mean(wrong[0], self.names)}; there are: {listed(sorted(self.names))}"
            )


def _names(label: str) -> list[str]:
    return [name for name in label.split(LABEL_SEPARATOR) if name]


def _numbers(labels: Collection[str]) -> bool:
    try:
        return all(float(label) == float(label) for label in labels)
    except ValueError:
        return False
