"""What the model reads of a posts table, computed once: tokens, pixels, activations, embeddings.

All but the tokens lies in stores on disk, keyed by content and by the encoder's fingerprint, so that folds,
methods, seeds and later runs share it and equal pictures are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from cotune.data.batches import bucketed_batches
from cotune.data.images import ImageFault
from cotune.data.row_errors import RowError
from cotune.data.store import ArrayStore, evict
from cotune.encoders.base import Encoder, Modality
from cotune.encoders.image import ImageEncoder
from cotune.encoders.text import TextEncoder
from cotune.model import Batch
from cotune.progress import Progress
from cotune.training.pictures import decode
from cotune.training.release_memory import releasing_memory

#: Where a modality's inputs come from: ``raw``, ``hidden`` (activations) or ``pooled`` (embeddings); the latter two
#: with the depth of the cut they were made at, as in ``hidden:3``, or without for those computed last.
Source = str
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
    errors : dict
        Position of a post to what is wrong with its cells.
    pixels : ArrayStore, optional
        Decoded pictures on disk.
    decoded : dict
        Decoded pictures in memory, by position, where there is no cache folder.
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
    pixels: ArrayStore | None = None
    decoded: dict[int, np.ndarray] = field(default_factory=dict)
    errors: dict[int, RowError] = field(default_factory=dict)
    _stores: dict[tuple[str, str], ArrayStore] = field(default_factory=dict)

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
        if source.startswith("pooled"):
            return {"pooled": torch.from_numpy(np.stack([array[0] for array in arrays]))}
        if name == "image":
            return {"hidden": torch.from_numpy(np.stack([array[0] for array in arrays]))}
        words = self._raw("text", rows)
        hidden = np.zeros((len(arrays), words["input_ids"].shape[1], arrays[0].shape[1]), dtype=arrays[0].dtype)
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
        if row in self.decoded:
            return self.decoded[row]
        key = self.keys["image"][row]
        if self.pixels is not None and key in self.pixels:
            pixels: np.ndarray = self.pixels.get(key)[0]
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
            errors={},
        )

    # ---- what is computed once -----------------------------------------------------------------------

    def compute(self, name: Modality, kind: Literal["hidden", "pooled"], encoder: Encoder) -> Source:
        """Make sure that every post's activations or embedding by `encoder` are stored, and return their source.

        Embeddings are taken from stored activations where those are there, which spares the lower part.
        """
        column = MODALITIES.index(name)
        rows = np.flatnonzero(self.present[:, column])
        if self.root is None:
            raise ValueError("features without a cache folder keep no activations")
        hidden = f"hidden:{encoder.n_lower}"
        by_cut = bool(encoder.n_lower) and (kind == "hidden" or (name, hidden) in self._stores)
        source: Source = hidden if kind == "pooled" and by_cut else "raw"
        made = f"{kind}:{encoder.n_lower}" if by_cut else kind
        # Activations are kept in half precision, so that embeddings made from them are not quite the others.
        cut = f"-{encoder.n_lower}" if by_cut else ""
        folder = self.root / f"{kind}-{name}{cut}-{encoder.fingerprint()}"
        work = self._work(name, kind, encoder, source)
        shape = self._row_shape(name, kind, encoder)
        dtype = "float16" if kind == "hidden" else "float32"
        store = ArrayStore(folder, dtype=dtype, row_shape=shape, max_bytes=self.max_bytes)
        self._stores[name, made] = self._stores[name, kind] = store
        wanted = set(store.missing([self.keys[name][i] for i in rows]))
        first = {self.keys[name][i]: i for i in reversed(rows) if self.keys[name][i] in wanted}
        todo = np.asarray(sorted(first.values()), dtype=np.int64)
        if not len(todo):
            return made
        lengths = self.lengths()[todo] if name == "text" else np.zeros(len(todo))
        coming = int(lengths.sum() if name == "text" and kind == "hidden" else len(todo)) * store.row_bytes
        evict(self.root, max(0, self.max_bytes - coming), keep=[store.folder for store in self._open_stores()])
        batches = list(bucketed_batches(lengths, _EMBED[name], seed=None))
        what = f"{name} {'activations' if kind == 'hidden' else 'embeddings'}"
        self.progress.begin(f"computing {what} of {len(todo):,} posts")
        encoder.to(self.device).eval()
        for positions in releasing_memory(self.progress.track(batches, what, len(batches))):
            at = todo[positions]
            store.add([self.keys[name][i] for i in at], work(at))
        return made

    def _open_stores(self) -> list[ArrayStore]:
        return [*self._stores.values(), *([self.pixels] if self.pixels is not None else [])]

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
    for positions in releasing_memory(bucketed_batches(features.lengths()[rows], batch_size, seed=seed, epoch=epoch)):
        yield features.batch(rows[positions], source, labels)
