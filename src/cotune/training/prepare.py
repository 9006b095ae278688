"""A posts table made ready for encoders: every text tokenised, every picture read once and its pixels kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch

from cotune.data.images import ImageFault, image_key
from cotune.data.posts import has_image, has_text
from cotune.data.row_errors import row_errors
from cotune.data.store import ArrayStore, StoreFullError, evict
from cotune.encoders.base import Encoder
from cotune.encoders.image import ImageEncoder
from cotune.encoders.text import TextEncoder
from cotune.progress import Progress
from cotune.training.features import Features
from cotune.training.pictures import decode
from cotune.training.release_memory import releasing_memory

_CHUNK = 256


def prepare(
    posts: pd.DataFrame,
    encoders: Mapping[str, Encoder],
    *,
    root: Path | None,
    max_bytes: int = 0,
    device: torch.device | None = None,
    allow_remote: bool = False,
    progress: Progress | None = None,
) -> Features:
    """Tokenise every text, read every picture once, and keep its pixels.

    Parameters
    ----------
    posts : DataFrame
        As :func:`cotune.data.posts.read_posts` gives it.
    encoders : mapping
        The encoders by modality; a modality without one is not read at all.
    root : Path or None
        Cache folder. None keeps the decoded pictures in memory instead, which suits a chunk of new posts.
    max_bytes : int
        Limit for each store and for all of them together.
    device : torch.device, optional
        Where embeddings are to be computed; the CPU by default.
    allow_remote : bool
        Whether pictures may be fetched by URL.
    progress : Progress, optional
        Whom to tell.

    Returns
    -------
    Features
        Posts whose picture cannot be read are listed in ``faults`` and count as having none; those with a cell that
        cannot be read are listed in ``errors``, and have nothing if it is a cell that the encoders read.
    """
    progress = progress or Progress()
    n = len(posts)
    present = np.zeros((n, 2), dtype=bool)
    keys: dict[str, list[str]] = {"text": [""] * n, "image": [""] * n}
    tokens: list[np.ndarray] = [np.zeros(0, dtype=np.int32)] * n
    images = list(posts["image"]) if "image" in posts else [None] * n
    faults: dict[int, ImageFault] = {}
    text, image = encoders.get("text"), encoders.get("image")
    features = Features(
        encoders,
        root,
        max_bytes,
        present,
        tokens,
        keys,
        images,
        faults,
        allow_remote,
        device or torch.device("cpu"),
        progress,
    )
    if text is not None:
        texts = list(posts["text"])
        tokens[:] = cast(TextEncoder, text).tokenize(texts)
        for i, words in enumerate(texts):
            if has_text(words):
                present[i, 0] = True
                keys["text"][i] = hashlib.blake2b(tokens[i].tobytes(), digest_size=16).hexdigest()
    if image is not None:
        _read_pictures(features, cast(ImageEncoder, image))
    for i, error in enumerate(row_errors(posts)):
        if error is not None:
            features.errors[i] = error
            if error.concerns(encoders):
                present[i] = False
    return features


def _read_pictures(features: Features, encoder: ImageEncoder) -> None:
    store = None if features.root is None else _pixel_store(features, encoder)
    features.pixels = store
    full = False

    def read(row: int) -> tuple[int, str, np.ndarray | None, ImageFault | None]:
        try:
            if store is None:
                return row, "", decode(features.images[row], encoder, features.allow_remote), None
            key = image_key(features.images[row], allow_remote=features.allow_remote)
            if key in store:
                return row, key, None, None
            return row, key, decode(features.images[row], encoder, features.allow_remote), None
        except ImageFault as fault:
            return row, "", None, fault

    rows = [i for i, picture in enumerate(features.images) if has_image(picture)]
    if store is not None and rows:  # without a store it is one chunk of many
        features.progress.begin(f"reading {len(rows):,} images")
    chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for chunk in releasing_memory(features.progress.track(chunks, "pictures", len(chunks)), every=1):
            new: dict[str, np.ndarray] = {}
            for row, key, pixels, fault in pool.map(read, chunk):
                if fault is not None:
                    features.faults[row] = fault
                    continue
                features.present[row, 1] = True
                features.keys["image"][row] = key
                if store is None and pixels is not None:
                    features.decoded[row] = pixels
                elif pixels is not None:
                    new[key] = pixels[None]
            if store is not None and new and not full:
                full = not _keep(store, new, features.progress)


def _pixel_store(features: Features, encoder: ImageEncoder) -> ArrayStore:
    assert features.root is not None
    settings = json.dumps(encoder.preprocessor.describe(), sort_keys=True, default=str)
    folder = features.root / f"pixels-{hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()}"
    store = ArrayStore(folder, dtype="uint8", row_shape=(3, *encoder.preprocessor.size), max_bytes=features.max_bytes)
    coming = max(0, sum(map(has_image, features.images)) - len(store)) * store.row_bytes
    evict(features.root, max(0, features.max_bytes - coming), keep=[folder])
    return store


def _keep(store: ArrayStore, new: Mapping[str, np.ndarray], progress: Progress) -> bool:
    """Store a chunk's pixels; false once the cache is full, and the rest is decoded each time it is needed."""
    try:
        store.add(list(new), list(new.values()))
    except StoreFullError as full:
        progress.say(f"note: {full}. The remaining pictures are decoded anew in every epoch")
        return False
    return True
