"""What the model reads of a posts table, computed once: tokens, pixels, activations, embeddings.

All but the tokens lies in stores on disk, keyed by content and by the encoder's fingerprint, so that folds,
methods, seeds and later runs share it and equal pictures are computed once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from cotune.data.batches import bucketed_batches
from cotune.data.images import ImageFault, image_key, load_image
from cotune.data.posts import has_image, has_text
from cotune.data.store import ArrayStore, StoreFullError, evict
from cotune.encoders.base import Encoder, Modality
from cotune.encoders.image import ImageEncoder
from cotune.encoders.text import TextEncoder
from cotune.model import Batch
from cotune.progress import Progress

Source = Literal["raw", "hidden", "pooled"]
_CHUNK = 256
# Posts in a pass that embeds: the first feature maps of 64 pictures alone take most of a gigabyte.
_EMBED = {"text": 64, "image": 32}
MODALITIES: tuple[Modality, Modality] = ("text", "image")


@dataclass
class Features:
    """The prepared posts.

    Attributes
    ----------
    present : ndarray of bool
        Shape (N, 2): which posts have a text and a readable image.
    tokens : list of ndarray
        Token ids of every post; empty arrays when no text encoder is used.
    keys : dict
        For each modality one content key per post; "" where the modality is absent.
    faults : dict
        Position of a post to what is wrong with its image.
    """

    encoders: Mapping[str, Encoder]
    root: Path | None
    max_bytes: int
    present: np.ndarray
    tokens: list[np.ndarray]
    keys: dict[str, list[str]]
    images: list[Any]
    faults: dict[int, ImageFault]
    allow_remote: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = field(default_factory=Progress)
    _stores: dict[tuple[str, str], ArrayStore] = field(default_factory=dict)
    _pixels: ArrayStore | None = None
    _decoded: dict[int, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.present)

    def lengths(self) -> np.ndarray:
        """Return the number of tokens of every post, for bucketing."""
        return np.fromiter((len(row) for row in self.tokens), dtype=np.int64, count=len(self.tokens))

    # ---- batches -------------------------------------------------------------------------------------

    def batch(self, rows: np.ndarray, source: Mapping[str, Source], labels: np.ndarray | None = None) -> Batch:
        """Assemble the posts at `rows`, each modality from the source that is named for it."""
        present = torch.from_numpy(self.present[rows])
        inputs: dict[str, Mapping[str, Tensor]] = {}
        for column, name in enumerate(MODALITIES):
            here = rows[self.present[rows, column]]
            if name in source and len(here):
                inputs[name] = self._inputs(name, here, source[name])
        target = None if labels is None else torch.from_numpy(labels[rows].astype(np.int64))
        return Batch(present, inputs, target, torch.from_numpy(rows))

    def _inputs(self, name: Modality, rows: np.ndarray, source: Source) -> Mapping[str, Tensor]:
        if source == "raw":
            return self._raw(name, rows)
        store = self._stores[name, source]
        arrays = [store.get(self.keys[name][i]) for i in rows]
        if source == "pooled":
            return {"pooled": torch.from_numpy(np.stack([array[0] for array in arrays]))}
        if name == "image":
            return {"hidden": torch.from_numpy(np.stack([array[0] for array in arrays]))}
        words = self._raw("text", rows)
        longest = max(array.shape[0] for array in arrays)
        hidden = np.zeros((len(arrays), longest, arrays[0].shape[1]), dtype=arrays[0].dtype)
        for i, array in enumerate(arrays):
            hidden[i, : array.shape[0]] = array
        return {"hidden": torch.from_numpy(hidden), **words}

    def _raw(self, name: Modality, rows: np.ndarray) -> Mapping[str, Tensor]:
        if name == "text":
            return self._text_encoder.collate([self.tokens[i] for i in rows])
        return self._image_encoder.collate([self._picture(i) for i in rows])

    @property
    def _text_encoder(self) -> TextEncoder:
        return cast(TextEncoder, self.encoders["text"])

    @property
    def _image_encoder(self) -> ImageEncoder:
        return cast(ImageEncoder, self.encoders["image"])

    def _picture(self, row: int) -> np.ndarray:
        if row in self._decoded:
            return self._decoded[row]
        key = self.keys["image"][row]
        if self._pixels is not None and key in self._pixels:
            pixels: np.ndarray = self._pixels.get(key)[0]
            return pixels
        return decode(self.images[row], self._image_encoder, self.allow_remote)

    def subset(self, rows: np.ndarray) -> Features:
        """Return the posts at `rows` as features of their own; stores are shared."""
        if self.root is None:
            raise ValueError("only features with a cache folder can be divided")
        return replace(
            self,
            present=self.present[rows],
            tokens=[self.tokens[i] for i in rows],
            keys={name: [keys[i] for i in rows] for name, keys in self.keys.items()},
            images=[self.images[i] for i in rows],
            faults={},
        )

    # ---- what is computed once -----------------------------------------------------------------------

    def compute(self, name: Modality, kind: Literal["hidden", "pooled"], encoder: Encoder) -> None:
        """Make sure that every post's activations or embedding by `encoder` are stored.

        Embeddings are taken from stored activations where those are there, which spares the lower part.
        """
        column = MODALITIES.index(name)
        rows = np.flatnonzero(self.present[:, column])
        if self.root is None:
            raise ValueError("features without a cache folder keep no activations")
        by_cut = bool(encoder.n_lower) and (kind == "hidden" or (name, "hidden") in self._stores)
        source: Source = "hidden" if kind == "pooled" and by_cut else "raw"
        # Activations are kept in half precision, so that embeddings made from them are not quite the others.
        cut = f"-{encoder.n_lower}" if by_cut else ""
        folder = self.root / f"{kind}-{name}{cut}-{encoder.fingerprint()}"
        work = self._work(name, kind, encoder, source)
        shape = self._row_shape(name, kind, encoder)
        dtype = "float16" if kind == "hidden" else "float32"
        store = ArrayStore(folder, dtype=dtype, row_shape=shape, max_bytes=self.max_bytes)
        self._stores[name, kind] = store
        wanted = set(store.missing([self.keys[name][i] for i in rows]))
        first = {self.keys[name][i]: i for i in reversed(rows) if self.keys[name][i] in wanted}
        todo = np.asarray(sorted(first.values()), dtype=np.int64)
        if not len(todo):
            return
        lengths = self.lengths()[todo] if name == "text" else np.zeros(len(todo))
        coming = int(lengths.sum() if name == "text" and kind == "hidden" else len(todo)) * store.row_bytes
        evict(self.root, max(0, self.max_bytes - coming), keep=[store.folder for store in self._open_stores()])
        batches = list(bucketed_batches(lengths, _EMBED[name], seed=None))
        what = f"{name} {'activations' if kind == 'hidden' else 'embeddings'}"
        encoder.to(self.device).eval()
        for positions in self.progress.track(batches, what, len(batches)):
            at = todo[positions]
            store.add([self.keys[name][i] for i in at], work(at))

    def _open_stores(self) -> list[ArrayStore]:
        return [*self._stores.values(), *([self._pixels] if self._pixels is not None else [])]

    def _work(
        self, name: Modality, kind: str, encoder: Encoder, source: Source
    ) -> Callable[[np.ndarray], list[np.ndarray]]:
        def run(rows: np.ndarray) -> list[np.ndarray]:
            inputs = {key: value.to(self.device) for key, value in self._inputs(name, rows, source).items()}
            with torch.inference_mode():
                if kind == "pooled":
                    return [row[None] for row in encoder(inputs).pooled.float().cpu().numpy()]
                hidden = encoder.lower(inputs).float().cpu()
            half = hidden.clamp(-65504, 65504).to(torch.float16).numpy()
            if name == "text":
                return [half[i, : len(self.tokens[row])] for i, row in enumerate(rows)]
            return [row[None] for row in half]

        return run

    def _row_shape(self, name: Modality, kind: str, encoder: Encoder) -> tuple[int, ...]:
        if kind == "pooled":
            return (encoder.dim,)
        encoder.to(self.device).eval()
        with torch.inference_mode():
            trial = encoder.lower({key: value.to(self.device) for key, value in encoder.dummy_inputs().items()})
        return tuple(trial.shape[2:] if name == "text" else trial.shape[1:])


def decode(image: object, encoder: ImageEncoder, allow_remote: bool) -> np.ndarray:
    """Return a picture as the bytes that `encoder` reads, shape (3, height, width)."""
    # The crop that follows may cut an eighth away on each side; twice its size keeps every detail.
    side = 2 * max(encoder.preprocessor.size)
    return encoder.preprocessor(not_too_long(load_image(cast(Any, image), allow_remote=allow_remote, min_side=side)))


def not_too_long(picture: Image.Image, most: int = 50) -> Image.Image:
    """Cut the ends off a picture whose long side is over `most` times its short one.

    Resizing such a picture by its short side would make it so large that it fills the memory.
    """
    width, height = picture.size
    limit = most * min(width, height)
    if max(width, height) <= limit:
        return picture
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return picture.crop((left, top, min(width, left + limit), min(height, top + limit)))


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
        Posts whose picture cannot be read are listed in ``faults`` and count as having none.
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
    return features


def _read_pictures(features: Features, encoder: ImageEncoder) -> None:
    store = None if features.root is None else _pixel_store(features, encoder)
    features._pixels = store
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
    chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for chunk in features.progress.track(chunks, "pictures", len(chunks)):
            new: dict[str, np.ndarray] = {}
            for row, key, pixels, fault in pool.map(read, chunk):
                if fault is not None:
                    features.faults[row] = fault
                    continue
                features.present[row, 1] = True
                features.keys["image"][row] = key
                if store is None and pixels is not None:
                    features._decoded[row] = pixels
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


def iterate(
    features: Features,
    rows: np.ndarray,
    source: Mapping[str, Source],
    batch_size: int,
    *,
    labels: np.ndarray | None = None,
    seed: int | None = None,
    epoch: int = 0,
) -> Iterator[Batch]:
    """Yield the posts at `rows` in batches of like length; shuffled if a seed is given."""
    for positions in bucketed_batches(features.lengths()[rows], batch_size, seed=seed, epoch=epoch):
        yield features.batch(rows[positions], source, labels)
