"""Posts that are the same or nearly so: by their words, by the look of their images, by a given group."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.hash_index import HashIndex, bands, popcount
from cotune.data.images.appearance import NO_HASH, Appearance
from cotune.data.images.flat import Detail, Details
from cotune.data.images.load import ImageSource, ReadImage, read_image
from cotune.data.images.sources import ImageFault, is_url
from cotune.data.normal_forms import normalized
from cotune.data.posts import has_image, has_text
from cotune.errors import ConfigError
from cotune.fields import DEFAULT_FIELDS, Field

Progress = Callable[[int, int], None]

_NOISE = re.compile(
    r"https?\s*://\s*\S+|\bwww\.\S+|\bpic\.twitter\.com/\S+|\bt\.co/\S+|(?<![\w.])[@＠]\w+:?", re.IGNORECASE
)
_RETWEET = re.compile(r"^\W*rt\b[:\s]*", re.IGNORECASE)
_EDGES_AT_ONCE = 1_000_000
_LARGE = 5  # posts; in a small table a pair is a tenth


def text_key(text: str | None) -> str:
    """Return what two texts must share to count as the same; empty when nothing distinctive is left.

    Letter case, compatibility forms, white space, links, @mentions and a leading "RT" do not count.
    """
    if not text or not has_text(text):
        return ""
    plain = _NOISE.sub(" ", normalized(text, "NFKC"))
    plain = normalized(_RETWEET.sub("", plain).casefold(), "NFKC")
    return " ".join(plain.split())


@dataclass(frozen=True)
class Fingerprint:
    """What tells images apart.

    Attributes
    ----------
    key : str
        Hash of the content.
    look : int
        Hash of the look.
    readable : bool
        Whether the image was read at all.
    detail : Detail or None
        A finer look at an image that is mostly of one shade, whose hash says little.
    """

    key: str
    look: int
    readable: bool = True
    detail: Detail | None = None

    @classmethod
    def of(cls, key: str, found: Appearance) -> Fingerprint:
        """Return the fingerprint of an image of this content that looks like this."""
        return cls(key, found.hash, detail=found.detail)

    @classmethod
    def of_address(cls, url: str) -> Fingerprint:
        """Return the fingerprint of a remote image that may not be fetched: the same as any of the same address."""
        return cls(url, NO_HASH, readable=False)

    @classmethod
    def of_read(cls, image: ReadImage) -> Fingerprint:
        """Return the fingerprint of an image that has been read, decoded no larger than is needed."""
        return cls.of(image.key, image.appearance(min_side=256))


def fingerprint(image: ImageSource, *, allow_remote: bool = False) -> Fingerprint | None:
    """Return the fingerprint of one image, None when it cannot be read."""
    try:
        return Fingerprint.of_read(read_image(image, allow_remote=allow_remote))
    except ImageFault:
        return Fingerprint.of_address(image) if isinstance(image, str) and is_url(image) else None


def fingerprints(
    images: Iterable[Any], *, allow_remote: bool = False, progress: Progress | None = None
) -> list[Fingerprint | None]:
    """Return a fingerprint for each image, read in threads; None where there is no readable image.

    A path that occurs many times is read once.
    """
    sources = list(images)
    slots: dict[Any, list[int]] = {}
    for i, image in enumerate(sources):
        if has_image(image):
            slots.setdefault(image if isinstance(image, str | bytes) else ("object", i), []).append(i)
    found: list[Fingerprint | None] = [None] * len(sources)

    def read(places: list[int]) -> Fingerprint | None:
        return fingerprint(sources[places[0]], allow_remote=allow_remote)

    with ThreadPoolExecutor(max_workers=workers()) as pool:
        places = list(slots.values())
        for done, (spots, result) in enumerate(zip(places, pool.map(read, places), strict=True), start=1):
            for i in spots:
                found[i] = result
            if progress is not None:
                progress(done, len(places))
    return found


def workers() -> int:
    """Return how many threads decode images at the same time."""
    return max(2, min(8, os.cpu_count() or 1))


def near_duplicate_groups(
    posts: pd.DataFrame,
    *,
    by: Collection[str] = ("text", "image"),
    max_distance: int = 4,
    progress: Progress | None = None,
    hashes: Sequence[Fingerprint | None] | None = None,
    allow_remote: bool = False,
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return a group number for each post; posts that are nearly the same, directly or by a chain, share one.

    Posts with the same value in the column `group` always share one.

    Parameters
    ----------
    posts : pandas.DataFrame
        As from :func:`cotune.data.posts.read_posts`.
    by : collection of {"text", "image"}
        What makes two posts the same: equal :func:`text_key`, or images that are equal or look alike. Images that
        are mostly of one shade, such as words on white, also have to agree in what stands out of it.
    max_distance : int
        How many of the 64 bits of two perceptual hashes may differ.
    progress : callable, optional
        Called with the number of images done and of all.
    hashes : sequence of Fingerprint or None, optional
        The images' fingerprints if they are known already.
    allow_remote : bool
        Fetch images given by URL.
    """
    unknown = set(by) - {"text", "image"}
    if unknown:
        raise ConfigError(f"near duplicates are found by 'text' and 'image', not by {sorted(unknown)[0]!r}")
    fields = [field for field in DEFAULT_FIELDS if field.kind in by]
    known = {} if hashes is None else {"image": hashes}
    return near_duplicates(
        posts, fields, known, max_distance=max_distance, progress=progress, allow_remote=allow_remote
    )


def near_duplicates(
    posts: pd.DataFrame,
    fields: Sequence[Field],
    known: Mapping[str, Sequence[Fingerprint | None]] | None = None,
    *,
    max_distance: int = 4,
    progress: Progress | None = None,
    allow_remote: bool = False,
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return a group number for each post, as :func:`near_duplicate_groups` does, by any fields.

    Posts are the same if all their texts are, or if one of their images is or looks alike.

    Parameters
    ----------
    posts : pandas.DataFrame
        As from :func:`cotune.data.posts.read_posts`.
    fields : sequence of Field
        What the posts have.
    known : mapping, optional
        Fingerprints of images that are known already, by field.
    max_distance, progress, allow_remote
        As in :func:`near_duplicate_groups`.
    """
    joined = Groups(len(posts))
    if "group" in posts:
        joined.join_equal(posts["group"].tolist())
    texts = [map(text_key, posts[field.name]) for field in fields if field.kind == "text" and field.name in posts]
    if texts:
        joined.join_equal([key if any(key) else None for key in zip(*texts, strict=True)])
    for name in (field.name for field in fields if field.kind == "image" and field.name in posts):
        marks = (known or {}).get(name)
        if marks is None:
            marks = fingerprints(posts[name], allow_remote=allow_remote, progress=progress)
        joined.join_equal([None if mark is None else mark.key for mark in marks])
        joined.join_looks(marks, max_distance)
    return joined.numbers()


def looks_like(
    looks: np.ndarray[Any, Any], among: np.ndarray[Any, Any], *, max_distance: int = 4
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which of some perceptual hashes differ from one of `among` in at most `max_distance` bits, shape (N,).

    :data:`NO_HASH` resembles nothing.
    """
    found = np.zeros(len(looks), dtype=bool)
    there = looks != NO_HASH
    found[there] = HashIndex(np.unique(among[among != NO_HASH]), max_distance).nearest(looks[there])[0] >= 0
    return found


def large_group_note(groups: np.ndarray[Any, Any]) -> str | None:
    """Return a line about a group that holds more than a tenth of all posts, None where there is none."""
    if not len(groups):
        return None
    largest = int(np.bincount(pd.factorize(groups)[0]).max())
    if largest < _LARGE or largest <= len(groups) / 10:
        return None
    return (
        f"one group of near-duplicates holds {largest:,} of {len(groups):,} posts ({largest / len(groups):.0%}), which "
        "all stay on one side of a cut: look at it with `cotune check`, and if they are not the same, group by text or "
        "by image alone (--group-by) or by a column of your own (--folds-group group)"
    )


class Groups:
    """Things `0..size-1` joined into groups.

    Parameters
    ----------
    size : int
        How many things there are.
    """

    def __init__(self, size: int) -> None:
        self._group = np.arange(size, dtype=np.int64)
        self._edges: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        self._waiting = 0

    def join(self, left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> None:
        """Join `left[i]` with `right[i]` for every i."""
        if len(left):
            self._edges.append((left, right))
            self._waiting += len(left)
        if self._waiting > _EDGES_AT_ONCE:
            self._merge()

    def join_equal(self, keys: Sequence[object]) -> None:
        """Join all things whose keys are equal; a key of None joins nothing."""
        codes, _ = pd.factorize(pd.Series(list(keys), dtype=object))
        places = np.flatnonzero(codes >= 0)
        _, first, inverse = np.unique(codes[places], return_index=True, return_inverse=True)
        self.join(places[first][inverse], places)

    def join_looks(self, marks: Sequence[Fingerprint | None], max_distance: int) -> None:
        """Join all images that look alike."""
        looks = [NO_HASH if mark is None else mark.look for mark in marks]
        self.join_alike(looks, max_distance, Details([None if mark is None else mark.detail for mark in marks]))

    def join_alike(self, looks: Sequence[int], max_distance: int, details: Details | None = None) -> None:
        """Join all things whose 64-bit hashes differ in at most `max_distance` bits, and whose details agree."""
        hashes = np.array(looks, dtype=np.uint64)
        flat = details.known if details is not None else np.zeros(len(hashes), dtype=bool)
        places = np.flatnonzero((hashes != NO_HASH) & ~flat)
        values, first, inverse = np.unique(hashes[places], return_index=True, return_inverse=True)
        first = places[first]
        self.join(first[inverse], places)
        # Flat ones stand for themselves alone: equal hashes say little about them.
        alone = np.flatnonzero((hashes != NO_HASH) & flat)
        values, first = np.concatenate([values, hashes[alone]]), np.concatenate([first, alone])
        parts = bands(values, min(max_distance + 1, 64))
        for number, whole in enumerate(parts):
            order = np.argsort(whole, kind="stable")
            band, ordered = whole[order], values[order]
            here = np.arange(len(order) - 1)
            step = 1
            while len(here):  # compare each with the step-th after it, as long as both lie in one bucket
                here = here[here + step < len(order)]
                here = here[band[here] == band[here + step]]
                near = here[popcount(ordered[here] ^ ordered[here + step]) <= max_distance]
                left, right = order[near], order[near + step]
                if details is not None and len(left):
                    # Each pair once: an earlier band that is equal too has brought it.
                    new = ~np.any([other[left] == other[right] for other in parts[:number]], axis=0)
                    new = np.broadcast_to(new, left.shape)
                    left, right = left[new], right[new]
                    fits = details.agree(first[left], first[right])
                    left, right = left[fits], right[fits]
                self.join(first[left], first[right])
                step += 1

    def numbers(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the group of each thing, numbered by first appearance."""
        self._merge()
        return pd.factorize(self._group)[0].astype(np.int64)

    def _merge(self) -> None:
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        if self._edges:
            left = self._group[np.concatenate([pair[0] for pair in self._edges])]
            right = self._group[np.concatenate([pair[1] for pair in self._edges])]
            size = len(self._group)
            graph = coo_matrix((np.ones(len(left), dtype=np.int8), (left, right)), shape=(size, size))
            self._group = connected_components(graph, directed=False)[1].astype(np.int64)[self._group]
            self._edges, self._waiting = [], 0
