"""What is wrong with the images of a table: broken, mislabelled, or of an odd size."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cotune.data.duplicates import Fingerprint, Progress, fingerprint, workers
from cotune.data.images.appearance import NO_HASH
from cotune.data.images.load import ImageInfo, verify_bytes, verify_image
from cotune.data.images.sources import ImageFault, bytes_key, describe, read_bytes
from cotune.data.posts import has_image

TINY = 64
"""Pixels of the shorter side under which an image is tiny: encoders read 224 and more."""
HUGE = 25_000_000
"""Pixels above which an image is huge: reading it takes long, and encoders shrink it a hundredfold."""
STRETCHED = 4.0
"""How many times longer the longer side is in an extreme aspect ratio: a crop keeps a quarter of it at most."""


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
    field : str
        The field that the image is read from.
    """

    row: int
    id: str
    image: str
    kind: str
    reason: str
    field: str = "image"


@dataclass(frozen=True)
class OddSize:
    """An image that can be read, but is tiny, huge or very long.

    Attributes
    ----------
    row : int
        Row of the post, counted from 1.
    id : str
        The post.
    field : str
        The field that the image is read from.
    width, height : int
        Its size in pixels.
    kinds : list of str
        "tiny", "huge", "extreme aspect ratio".
    """

    row: int
    id: str
    field: str
    width: int
    height: int
    kinds: list[str]


@dataclass(frozen=True)
class Look:
    """What one reading of an image gave.

    Attributes
    ----------
    info : ImageInfo
        Size, format and faults.
    mark : Fingerprint or None
        What tells it apart; None where it could not be read.
    """

    info: ImageInfo
    mark: Fingerprint | None

    @property
    def sound(self) -> bool:
        """Whether the image can be used."""
        return not self.info.faults


#: What was seen of the images of each field, post by post; None where a post has none.
Looks = Mapping[str, Sequence[Look | None]]


def look_at_all(
    sources: Sequence[Any], *, allow_remote: bool = False, progress: Progress | None = None
) -> list[Look | None]:
    """Look at each image once, in threads, however many posts name it."""
    slots: dict[Any, list[int]] = {}
    for i, source in enumerate(sources):
        if has_image(source):
            slots.setdefault(source if isinstance(source, str | bytes) else ("object", i), []).append(i)
    looks: list[Look | None] = [None] * len(sources)
    places = list(slots.values())
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=workers()) as pool:
        warnings.simplefilter("ignore")  # Pillow's own remarks; what matters is reported with its row
        results = pool.map(lambda spots: _look(sources[spots[0]], allow_remote), places)
        for done, (spots, look) in enumerate(zip(places, results, strict=True), start=1):
            for i in spots:
                looks[i] = look
            if progress is not None:
                progress(done, len(places))
    return looks


def _look(source: Any, allow_remote: bool) -> Look:
    if isinstance(source, np.ndarray | Image.Image):
        info = verify_image(source)
        return Look(info, None if info.faults else fingerprint(source))
    try:
        data = read_bytes(source, allow_remote=allow_remote)
    except ImageFault as fault:
        return Look(ImageInfo(0, 0, None, True, [fault]), None)
    info, appearance = verify_bytes(data, source)
    key = bytes_key(data)
    return Look(info, Fingerprint(key, NO_HASH) if appearance is None else Fingerprint.of(key, appearance))


def image_troubles(posts: pd.DataFrame, looks: Looks) -> tuple[list[ImageTrouble], list[ImageTrouble]]:
    """Return the images that cannot be used, and those whose extension promises another format."""
    troubles, mislabelled = [], []
    for name, found in looks.items():
        for row, identity, image, look in zip(posts["row"], posts["id"], posts[name], found, strict=True):
            if look is None:
                continue
            shown = describe(image)
            for fault in look.info.faults:
                reason = str(fault).removeprefix(f"{shown}: ")
                troubles.append(ImageTrouble(int(row), identity, shown, fault.kind, reason, name))
            if not look.info.extension_ok:
                reason = f"holds {look.info.format}"
                mislabelled.append(ImageTrouble(int(row), identity, shown, "mislabelled extension", reason, name))
    by_row = [sorted(found, key=lambda item: item.row) for found in (troubles, mislabelled)]
    return by_row[0], by_row[1]


def odd_sizes(posts: pd.DataFrame, looks: Looks) -> list[OddSize]:
    """Return the readable images that are tiny, huge or very long, in the order of their rows."""
    found = []
    for name, seen in looks.items():
        for row, identity, look in zip(posts["row"], posts["id"], seen, strict=True):
            if look is None or not look.sound:
                continue
            width, height = look.info.width, look.info.height
            short, long = sorted((width, height))
            kinds = [
                *(["tiny"] if short < TINY else []),
                *(["huge"] if width * height > HUGE else []),
                *(["extreme aspect ratio"] if long > STRETCHED * short else []),
            ]
            if kinds:
                found.append(OddSize(int(row), identity, name, width, height, kinds))
    return sorted(found, key=lambda item: item.row)


def image_counts(looks: Looks) -> dict[str, int]:
    """Return "posts" with an image, "different" ones, "sound" ones, median "width" and "height" of the sound ones."""
    seen = [look for found in looks.values() for look in found if look is not None]
    sizes = [(look.info.width, look.info.height) for look in seen if look.sound]
    here = [
        any(found[i] is not None for found in looks.values()) for i in range(max(map(len, looks.values()), default=0))
    ]
    return {
        "posts": sum(here),
        "different": len({look.mark.key for look in seen if look.mark is not None}),
        "sound": len(sizes),
        "width": int(np.median([width for width, _ in sizes])) if sizes else 0,
        "height": int(np.median([height for _, height in sizes])) if sizes else 0,
    }
