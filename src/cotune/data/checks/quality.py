"""Checks of a posts table: what is missing, broken, duplicated or imbalanced, and what to do about it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from cotune.data.checks.duplicate_listing import DuplicateFinder, DuplicateGroup
from cotune.data.checks.gaps import class_gaps
from cotune.data.checks.token_counts import TokenCounts
from cotune.data.duplicates import NO_HASH, Fingerprint, Progress, fingerprint, large_group_note, workers
from cotune.data.images.load import MAX_PIXELS, ImageInfo, verify_bytes, verify_image
from cotune.data.images.sources import ImageFault, bytes_key, describe, read_bytes
from cotune.data.posts import count_labels, has_image, has_text
from cotune.data.tables.row_errors import row_errors

if TYPE_CHECKING:
    pass

MAX_TEXT_CHARS = 2_000
"""Longer texts are reported: 512 tokens, where most encoders stop reading, are about as many characters."""


@dataclass(frozen=True)
class ImageTrouble:
    """An image that cannot be used, or whose name is wrong.

    Attributes
    ----------
    row : int
        Row of the post, counted from 1.
    id : str
        The post.
    image : str
        The image's path or description.
    kind : str
        As in :class:`cotune.data.images.load.ImageFault`, or "mislabelled extension".
    reason : str
        What exactly is wrong.
    """

    row: int
    id: str
    image: str
    kind: str
    reason: str


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
    advice : list of str
        What to do, in the order of urgency.
    row_errors : list of RowTrouble
        Rows with a cell that cannot be read; they count as posts, but lack that cell.
    tokens : TokenCounts or None
        How a text encoder's tokenizer reads the texts, if that was asked.
    gaps : list of str
        Modalities that are missing in one class far more often than in the others.
    large_group : str or None
        A line about a group of near-duplicates that holds more than a tenth of the posts.
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
    advice: list[str] = field(default_factory=list)
    row_errors: list[RowTrouble] = field(default_factory=list)
    tokens: TokenCounts | None = None
    gaps: list[str] = field(default_factory=list)
    large_group: str | None = None

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
    *,
    max_text_chars: int = MAX_TEXT_CHARS,
    max_pixels: int = MAX_PIXELS,
    max_distance: int = 4,
    allow_remote: bool = False,
    tokens: TokenCounts | None = None,
    progress: Progress | None = None,
) -> QualityReport:
    """Look at every post and every image and report what is wrong.

    Each image is read and decoded once, in full, so that truncated files are found.

    Parameters
    ----------
    posts : pandas.DataFrame
        As from :func:`cotune.data.posts.read_posts`.
    max_text_chars : int
        Texts with more characters are reported.
    max_pixels : int
        Images with more pixels are too large.
    max_distance : int
        How many of the 64 bits of two images' perceptual hashes may differ in near-duplicates.
    allow_remote : bool
        Fetch images given by URL.
    tokens : TokenCounts, optional
        How a text encoder's tokenizer reads the texts; goes into the report.
    progress : callable, optional
        Called with the number of images done and of all.
    """
    from cotune.data.checks.advice import advise

    looks = _look_at_all(posts["image"].tolist(), max_pixels, allow_remote, progress)
    texts, rows = posts["text"].tolist(), posts["row"].tolist()
    with_text, shown = [has_text(text) for text in texts], [has_image(image) for image in posts["image"]]
    labels = count_labels(posts)
    troubles, mislabelled = _image_troubles(posts, looks)
    marks = [None if look is None else look.mark for look in looks]
    finder = DuplicateFinder(posts, marks, max_distance)
    sizes = [(look.info.width, look.info.height) for look in looks if look is not None and not look.info.faults]
    groups = finder.near()
    near = np.bincount(groups)
    report = QualityReport(
        posts=len(posts),
        labels=labels,
        unlabelled=[row for row, label in zip(rows, posts["label"], strict=True) if label is None],
        imbalance=round(max(labels.values()) / min(labels.values()), 3) if labels else None,
        without_text=[row for row, text, image in zip(rows, with_text, shown, strict=True) if image and not text],
        without_image=[row for row, text, image in zip(rows, with_text, shown, strict=True) if text and not image],
        without_both=[row for row, text, image in zip(rows, with_text, shown, strict=True) if not text and not image],
        long_texts=[
            (row, len(text)) for row, text in zip(rows, texts, strict=True) if text and len(text) > max_text_chars
        ],
        max_text_chars=max_text_chars,
        images={
            "posts": sum(shown),
            "different": len({mark.key for mark in marks if mark is not None}),
            "sound": len(sizes),
            "width": int(np.median([width for width, _ in sizes])) if sizes else 0,
            "height": int(np.median([height for _, height in sizes])) if sizes else 0,
        },
        image_troubles=troubles,
        mislabelled=mislabelled,
        duplicates=finder.groups(),
        contradictions=finder.contradictions(),
        near_groups=int((near > 1).sum()),
        near_posts=int(near[near > 1].sum()),
        row_errors=[
            RowTrouble(int(row), identity, str(error))
            for row, identity, error in zip(rows, posts["id"], row_errors(posts), strict=True)
            if error is not None
        ],
        tokens=tokens,
        large_group=large_group_note(groups),
        gaps=class_gaps(
            {"text": with_text, "image": [look is not None and not look.info.faults for look in looks]},
            posts["label"].tolist(),
        ),
    )
    report.advice = advise(report)
    return report


@dataclass(frozen=True)
class _Look:
    """What one reading of an image gave."""

    info: ImageInfo
    mark: Fingerprint | None


def _look_at_all(
    sources: Sequence[Any], max_pixels: int, allow_remote: bool, progress: Progress | None
) -> list[_Look | None]:
    """Look at each image once, in threads, however many posts name it."""
    slots: dict[Any, list[int]] = {}
    for i, source in enumerate(sources):
        if has_image(source):
            slots.setdefault(source if isinstance(source, str | bytes) else ("object", i), []).append(i)
    looks: list[_Look | None] = [None] * len(sources)
    places = list(slots.values())
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=workers()) as pool:
        warnings.simplefilter("ignore")  # Pillow's own remarks; what matters is reported with its row
        results = pool.map(lambda spots: _look(sources[spots[0]], max_pixels, allow_remote), places)
        for done, (spots, look) in enumerate(zip(places, results, strict=True), start=1):
            for i in spots:
                looks[i] = look
            if progress is not None:
                progress(done, len(places))
    return looks


def _look(source: Any, max_pixels: int, allow_remote: bool) -> _Look:
    if isinstance(source, np.ndarray | Image.Image):
        info = verify_image(source, max_pixels=max_pixels)
        return _Look(info, None if info.faults else fingerprint(source))
    try:
        data = read_bytes(source, allow_remote=allow_remote)
    except ImageFault as fault:
        return _Look(ImageInfo(0, 0, None, True, [fault]), None)
    info, image = verify_bytes(data, source, max_pixels=max_pixels)
    key = bytes_key(data)
    return _Look(info, Fingerprint(key, NO_HASH) if image is None else Fingerprint.of(key, image))


def _image_troubles(
    posts: pd.DataFrame, looks: Sequence[_Look | None]
) -> tuple[list[ImageTrouble], list[ImageTrouble]]:
    troubles, mislabelled = [], []
    for row, identity, image, look in zip(posts["row"], posts["id"], posts["image"], looks, strict=True):
        if look is None:
            continue
        name = describe(image)
        for fault in look.info.faults:
            reason = str(fault).removeprefix(f"{name}: ")
            troubles.append(ImageTrouble(int(row), identity, name, fault.kind, reason))
        if not look.info.extension_ok:
            reason = f"holds {look.info.format}"
            mislabelled.append(ImageTrouble(int(row), identity, name, "mislabelled extension", reason))
    return troubles, mislabelled
