"""Images made ready for an encoder: every file is read once, and its pixels are kept.

The bytes of a file give its content key, the pixels that the encoder reads and, if asked for, what near-duplicates are
found by.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cotune.data.duplicates import Fingerprint
from cotune.data.images.load import ImageFault, ReadImage, read_image
from cotune.data.images.pixels import not_too_long
from cotune.data.images.sources import is_url, reading_threads
from cotune.data.store import ArrayStore, StoreFullError, evict
from cotune.data.tables.cells import has_image
from cotune.encoders.prepared import Prepared, ReadOptions
from cotune.encoders.preprocess import Preprocessor
from cotune.release_memory import releasing_memory
from cotune.report.numbers import plural

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 256


@dataclass(frozen=True)
class _Found:
    """What reading one image gave."""

    row: int
    key: str = ""
    pixels: np.ndarray | None = None
    fingerprint: Fingerprint | None = None
    fault: ImageFault | None = None


class PreparedImages(Prepared):
    """The images of some posts.

    Parameters
    ----------
    images : sequence
        What the posts name or hold; None for nothing.
    preprocessor : Preprocessor
        Makes the bytes that the encoder reads.
    options : ReadOptions
        How they are read.
    """

    def __init__(self, images: Sequence[Any], preprocessor: Preprocessor, options: ReadOptions) -> None:
        super().__init__(len(images))
        self.images, self.preprocessor, self.options = list(images), preprocessor, options
        self.decoded: dict[int, np.ndarray] = {}

    def read(self) -> PreparedImages:
        """Read all images, those of a cache folder into it."""
        options, progress = self.options, self.options.progress
        self.store = None if options.root is None else self._open_store()
        if options.looks:
            self.fingerprints = [None] * len(self.images)
        rows = [i for i, image in enumerate(self.images) if has_image(image)]
        if self.store is not None and rows:  # without a store it is one chunk of many
            progress.begin(f"reading {plural(len(rows), 'image')}")
        chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
        full = False
        with ThreadPoolExecutor(reading_threads(os.cpu_count() or 1, options.allow_remote)) as pool:
            for chunk in releasing_memory(progress.track(chunks, "images", len(chunks)), every=1):
                new = dict(self._note(found) for found in pool.map(self._read_one, chunk) if found.fault is None)
                kept = {key: pixels[None] for key, pixels in new.items() if pixels is not None}
                if self.store is not None and kept and not full:
                    full = not _keep(self.store, kept, options)
        for note in self.store.notes() if self.store is not None else ():
            progress.say(note)
        return self

    def _read_one(self, row: int) -> _Found:
        try:
            image = read_image(self.images[row], allow_remote=self.options.allow_remote)
            there = self.store is not None and image.key in self.store
            found = _Found(row, image.key, None if there else self._pixels(image))
        except ImageFault as fault:
            return self._unreadable(row, fault)
        if self.fingerprints is not None:
            self.fingerprints[row] = Fingerprint.of_read(image)
        return found

    def _unreadable(self, row: int, fault: ImageFault) -> _Found:
        image = self.images[row]
        if self.fingerprints is not None and isinstance(image, str) and is_url(image):
            self.fingerprints[row] = Fingerprint.of_address(image)
        self.faults[row] = fault
        return _Found(row, fault=fault)

    def _note(self, found: _Found) -> tuple[str, np.ndarray | None]:
        self.present[found.row] = True
        self.keys[found.row] = found.key
        if self.store is None and found.pixels is not None:
            self.decoded[found.row] = found.pixels
        return found.key, found.pixels

    def _pixels(self, image: ReadImage) -> np.ndarray:
        return pixels_of(image, self.preprocessor)

    def _open_store(self) -> ArrayStore:
        options = self.options
        assert options.root is not None
        settings = json.dumps(self.preprocessor.describe(), sort_keys=True, default=str)
        folder = options.root / f"pixels-{hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()}"
        shape = (3, *self.preprocessor.size)
        store = ArrayStore(folder, dtype="uint8", row_shape=shape, max_bytes=options.max_bytes)
        coming = max(0, sum(map(has_image, self.images)) - len(store)) * store.row_bytes
        options.in_use.append(folder)
        evict(options.root, max(0, options.max_bytes - coming), keep=options.in_use)
        return store

    def inputs(self, rows: np.ndarray) -> Mapping[str, Tensor]:
        """Return ``pixels``, bytes of shape (B, 3, H, W)."""
        import torch

        return {"pixels": torch.from_numpy(np.stack([self._image(i) for i in rows]))}

    def _image(self, row: int) -> np.ndarray:
        if row in self.decoded:
            return self.decoded[row]
        key = self.keys[row]
        if self.store is not None and key in self.store:
            pixels: np.ndarray = self.store.get(key)[0]
            return pixels
        return self._pixels(read_image(self.images[row], allow_remote=self.options.allow_remote))

    def subset(self, rows: np.ndarray) -> PreparedImages:
        """Return the images at `rows`; those in memory are shared."""
        found = PreparedImages([self.images[i] for i in rows], self.preprocessor, self.options)
        found._take(self, rows)
        found.decoded = {at: self.decoded[int(row)] for at, row in enumerate(rows) if int(row) in self.decoded}
        return found


def _keep(store: ArrayStore, new: Mapping[str, np.ndarray], options: ReadOptions) -> bool:
    """Store a chunk's pixels; false once the cache is full, and the rest is decoded each time it is needed."""
    try:
        store.add(list(new), list(new.values()))
    except StoreFullError as full:
        options.progress.say(f"note: {full}. The remaining images are decoded again in every epoch")
        return False
    return True


def pixels_of(image: ReadImage, preprocessor: Preprocessor) -> np.ndarray:
    """Return an image as the bytes that an encoder reads, shape (3, height, width)."""
    # The crop that follows may cut an eighth away on each side; twice its size keeps every detail.
    return preprocessor(not_too_long(image.decode(min_side=2 * max(preprocessor.size))))
