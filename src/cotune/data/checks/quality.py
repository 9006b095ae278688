"""Checks of a posts table: what is missing, broken, duplicated or imbalanced, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.checks.advice import advise
from cotune.data.checks.duplicate_listing import DuplicateFinder, DuplicateGroup
from cotune.data.checks.gaps import class_gaps
from cotune.data.checks.images import ImageTrouble, OddSize, image_counts, image_troubles, look_at_all, odd_sizes
from cotune.data.checks.texts import TextSummary, summarise_texts
from cotune.data.checks.token_counts import TokenCounts
from cotune.data.duplicates import Progress, large_group_note
from cotune.data.kinds import FIELD_KINDS
from cotune.data.posts import count_labels
from cotune.data.tables.cells import LABEL_SEPARATOR, field_labels
from cotune.data.tables.row_errors import row_errors
from cotune.fields import DEFAULT_FIELDS, Field
from cotune.report.notices import Notice

MAX_TEXT_CHARS = 2_000
"""Longer texts are reported: 512 tokens, where most encoders stop reading, are about as many characters."""


@dataclass(frozen=True)
class CheckLimits:
    """From where on something is reported.

    Attributes
    ----------
    max_text_chars : int
        Texts with more characters are reported.
    max_distance : int
        How many of the 64 bits of two images' perceptual hashes may differ in near-duplicates.
    """

    max_text_chars: int = MAX_TEXT_CHARS
    max_distance: int = 4


@dataclass(frozen=True)
class LabelCounts:
    """What the labels are, as a task reads them.

    Attributes
    ----------
    task : str
        "single-label", "multi-label", "regression", or a plugin's.
    counts : dict
        Posts for each label, or in each range of values.
    """

    task: str
    counts: dict[str, int]


@dataclass(frozen=True)
class RowTrouble:
    """A row with a cell that cannot be read.

    Attributes
    ----------
    row : int
        Row of the post, counted from 1.
    id : str
        The post.
    reason : str
        What exactly is wrong.
    """

    row: int
    id: str
    reason: str


@dataclass(frozen=True)
class GroupCounts:
    """What the column of groups holds.

    Attributes
    ----------
    groups, posts : int
        How many groups there are, and posts in them.
    largest : str or None
        The group with most posts.
    largest_posts : int
        How many those are.
    """

    groups: int
    posts: int
    largest: str | None
    largest_posts: int


@dataclass
class QualityReport:
    """What :func:`check_posts` found.

    Attributes
    ----------
    posts : int
        Number of posts.
    labels : dict
        Posts for each label.
    unlabelled : list of int
        Rows without a label.
    imbalance : float or None
        How many times the most common label outnumbers the rarest.
    without_text, without_image, without_both : list of int
        Rows that lack their text, their image (not named at all) or both.
    long_texts : list of (int, int)
        Row and number of characters of over-long texts.
    max_text_chars : int
        The limit used for them.
    images : dict
        "posts" with an image, "different" ones, "sound" ones, median "width" and "height" of the sound ones.
    image_troubles : list of ImageTrouble
        Images that cannot be used.
    mislabelled : list of ImageTrouble
        Images whose extension promises another format than they hold; they can be used.
    duplicates : list of DuplicateGroup
        Groups of posts that are the same or nearly so.
    contradictions : list of DuplicateGroup
        Posts with the same text and image, as far as they have them, but different labels.
    near_groups : int
        How many groups of near-duplicates there are when text and image both count.
    near_posts : int
        How many posts lie in them.
    advice : list of Notice
        What to do, the gravest first.
    row_errors : list of RowTrouble
        Rows with a cell that cannot be read; they count as posts, but lack that cell.
    tokens : TokenCounts or None
        How a text encoder's tokenizer reads the texts, if that was asked.
    gaps : list of str
        Modalities that are missing in one class far more often than in the others.
    large_group : str or None
        A line about a group of near-duplicates that holds more than a tenth of the posts.
    task : str
        How the labels are read.
    fields : dict
        The kind of each field.
    filled : dict
        How many posts have each field.
    odd_sizes : list of OddSize
        Images that are tiny, huge or very long.
    texts : list of TextSummary
        Lengths, scripts and languages of each field of texts.
    groups : GroupCounts or None
        What the column of groups holds.
    field_labels : dict
        By field that has labels of its own, how many annotators gave each.
    """

    posts: int
    labels: dict[str, int]
    unlabelled: list[int]
    imbalance: float | None
    without_text: list[int]
    without_image: list[int]
    without_both: list[int]
    long_texts: list[tuple[int, int]]
    max_text_chars: int
    images: dict[str, int]
    image_troubles: list[ImageTrouble]
    mislabelled: list[ImageTrouble]
    duplicates: list[DuplicateGroup]
    contradictions: list[DuplicateGroup]
    near_groups: int
    near_posts: int
    advice: list[Notice] = field(default_factory=list)
    row_errors: list[RowTrouble] = field(default_factory=list)
    tokens: TokenCounts | None = None
    gaps: list[str] = field(default_factory=list)
    large_group: str | None = None
    task: str = "single-label"
    fields: dict[str, str] = field(default_factory=dict)
    filled: dict[str, int] = field(default_factory=dict)
    odd_sizes: list[OddSize] = field(default_factory=list)
    texts: list[TextSummary] = field(default_factory=list)
    groups: GroupCounts | None = None
    field_labels: dict[str, dict[str, int]] = field(default_factory=dict)

    def count(self, kind: str) -> int:
        """Return how many images have the trouble `kind`."""
        return sum(trouble.kind == kind for trouble in [*self.image_troubles, *self.mislabelled])

    def of(self, by: str) -> list[DuplicateGroup]:
        """Return the duplicate groups of one sort, as "same text"."""
        return [group for group in self.duplicates if group.by == by]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)


def check_posts(
    posts: pd.DataFrame,
    fields: Sequence[Field] = DEFAULT_FIELDS,
    *,
    limits: CheckLimits | None = None,
    labels: LabelCounts | None = None,
    tokens: TokenCounts | None = None,
    allow_remote: bool = False,
    progress: Progress | None = None,
) -> QualityReport:
    """Look at every post and every image and report what is wrong.

    Each image is read and decoded once, in full, so that truncated files are found.

    Parameters
    ----------
    posts : pandas.DataFrame
        As from :func:`cotune.data.posts.read_posts`.
    fields : sequence of Field
        What a post has.
    limits : CheckLimits, optional
        From where on something is reported.
    labels : LabelCounts, optional
        How a task reads the labels; by default each label is a class.
    tokens : TokenCounts, optional
        How a text encoder's tokenizer reads the texts; goes into the report.
    allow_remote : bool
        Fetch images given by URL.
    progress : callable, optional
        Called with the number of images done and of all.
    """
    limits = limits or CheckLimits()
    labels = labels or LabelCounts("single-label", count_labels(posts))
    rows = [int(row) for row in posts["row"]]
    kinds = {field.name: field.kind for field in fields if field.name in posts}
    named = {name: [FIELD_KINDS[kind].has(value) for value in posts[name]] for name, kind in kinds.items()}
    looks = {
        name: look_at_all(posts[name].tolist(), allow_remote=allow_remote, progress=progress)
        for name, kind in kinds.items()
        if kind == "image"
    }
    text_fields = [name for name, kind in kinds.items() if kind == "text"]
    with_text, with_image = (
        [any(named[name][i] for name, of in kinds.items() if of == kind) for i in range(len(posts))]
        for kind in ("text", "image")
    )
    anything = [any(has[i] for has in named.values()) for i in range(len(posts))]
    troubles, mislabelled = image_troubles(posts, looks)
    marks = {name: [None if look is None else look.mark for look in found] for name, found in looks.items()}
    finder = DuplicateFinder(posts, fields, marks, limits.max_distance)
    groups = finder.near()
    near = np.bincount(groups)
    counts = labels.counts
    readable = {name: [look is not None and look.sound for look in found] for name, found in looks.items()}
    report = QualityReport(
        posts=len(posts),
        labels=counts,
        unlabelled=[row for row, label in zip(rows, posts["label"], strict=True) if label is None],
        imbalance=round(max(counts.values()) / min(counts.values()), 3) if _comparable(labels) else None,
        without_text=[] if not text_fields else _lacking(rows, with_text, anything),
        without_image=[] if not looks else _lacking(rows, with_image, anything),
        without_both=[row for row, there in zip(rows, anything, strict=True) if not there],
        long_texts=[
            (row, len(text))
            for name in text_fields
            for row, text in zip(rows, posts[name], strict=True)
            if text and len(text) > limits.max_text_chars
        ],
        max_text_chars=limits.max_text_chars,
        images=image_counts(looks),
        image_troubles=troubles,
        mislabelled=mislabelled,
        duplicates=finder.groups(),
        contradictions=finder.contradictions(),
        near_groups=int((near > 1).sum()),
        near_posts=int(near[near > 1].sum()),
        row_errors=[
            RowTrouble(row, identity, str(error))
            for row, identity, error in zip(rows, posts["id"], row_errors(posts), strict=True)
            if error is not None
        ],
        tokens=tokens,
        large_group=large_group_note(groups),
        gaps=[] if labels.task != "single-label" else class_gaps({**named, **readable}, posts["label"].tolist()),
        task=labels.task,
        fields=kinds,
        filled={name: sum(has) for name, has in named.items()},
        odd_sizes=odd_sizes(posts, looks),
        texts=[summarise_texts(name, posts[name].tolist()) for name in text_fields],
        groups=_groups(posts),
        field_labels={field: _votes(posts[column].tolist()) for field, column in field_labels(posts).items()},
    )
    report.advice = advise(report)
    return report


def _lacking(rows: Sequence[int], there: Sequence[bool], anything: Sequence[bool]) -> list[int]:
    """Return the rows that lack one kind of field but have another."""
    return [row for row, mine, some in zip(rows, there, anything, strict=True) if some and not mine]


def _comparable(labels: LabelCounts) -> bool:
    """Tell whether it means something that one label is rarer than another."""
    return labels.task != "regression" and min(labels.counts.values(), default=0) > 0


def _votes(cells: Sequence[str | None]) -> dict[str, int]:
    """Return how many annotators gave each label, in the labels' sorted order."""
    return dict(sorted(Counter(vote for cell in cells if cell for vote in cell.split(LABEL_SEPARATOR)).items()))


def _groups(posts: pd.DataFrame) -> GroupCounts:
    sizes = posts["group"].dropna().value_counts()
    largest = str(sizes.index[0]) if len(sizes) else None
    return GroupCounts(len(sizes), int(sizes.sum()), largest, int(sizes.iloc[0]) if len(sizes) else 0)
