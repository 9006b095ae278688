"""What is computed of posts once and kept on disk: activations of frozen layers, and embeddings.

All lies in stores keyed by content and by the encoder's fingerprint, so that folds, methods, seeds and later runs share
it and equal images are computed once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cotune.data.batches import bucketed_batches
from cotune.data.store import ArrayStore, evict
from cotune.encoders.base import Encoder
from cotune.encoders.frozen_engine import FrozenEngine, FrozenEngines, Part
from cotune.encoders.prepared import Prepared, ReadOptions
from cotune.release_memory import releasing_memory
from cotune.report.numbers import plural
from cotune.training.ranks import ranks

#: Where a field's inputs come from: ``raw``, ``hidden`` (activations) or ``pooled`` (embeddings); the latter two with
#: the depth of the cut they were made at, as in ``hidden:3``, or without for those computed last.
Source = str


@dataclass
class Kept:
    """The stores of some posts.

    Attributes
    ----------
    options : ReadOptions
        Cache folder and its size.
    device : torch.device
        Where embeddings are computed.
    """

    options: ReadOptions
    device: torch.device
    _stores: dict[tuple[str, Source], ArrayStore] = field(default_factory=dict)

    def inputs(
        self, name: str, posts: Prepared, rows: np.ndarray, source: Source, ragged: bool
    ) -> Mapping[str, Tensor]:
        """Return the encoder's inputs of a field for the posts at `rows`, all of which have it."""
        if source == "raw":
            return posts.inputs(rows)
        store = self._stores[name, source]
        arrays = [store.get(posts.keys[i]) for i in rows]
        if source.startswith("pooled"):
            return {"pooled": torch.from_numpy(np.stack([array[0] for array in arrays]))}
        if not ragged:
            return {"hidden": torch.from_numpy(np.stack([array[0] for array in arrays]))}
        raw = posts.inputs(rows)
        longest = next(iter(raw.values())).shape[1]
        hidden = np.zeros((len(arrays), longest, arrays[0].shape[1]), dtype=arrays[0].dtype)
        for i, array in enumerate(arrays):
            hidden[i, : array.shape[0]] = array
        return {"hidden": torch.from_numpy(hidden), **raw}

    def compute(self, name: str, posts: Prepared, kind: Part, encoder: Encoder) -> Source:
        """Make sure that every post's activations or embedding by `encoder` are stored, and return their source.

        Embeddings are taken from stored activations where those are there, which spares the lower part.
        """
        root = self.options.root
        if root is None:
            raise ValueError("posts without a cache folder keep no activations")
        hidden = f"hidden:{encoder.n_lower}"
        by_cut = bool(encoder.n_lower) and (kind == "hidden" or (name, hidden) in self._stores)
        source: Source = hidden if kind == "pooled" and by_cut else "raw"
        made = f"{kind}:{encoder.n_lower}" if by_cut else kind
        # Activations are kept in half precision, so that embeddings made from them are not quite the others.
        cut = f"-{encoder.n_lower}" if by_cut else ""
        store = ArrayStore(
            root / f"{kind}-{encoder.modality}{cut}-{encoder.fingerprint()}",
            dtype="float16" if kind == "hidden" else "float32",
            row_shape=self._row_shape(kind, encoder),
            max_bytes=self.options.max_bytes,
        )
        self._stores[name, made] = self._stores[name, kind] = store
        own = ranks()
        # Until all is there, as other programs may be at it too; the ranks look before any of them begins to add.
        while int(own.sum(torch.tensor(len(todo := _missing(store, posts))))):
            self._tell_damage(store)
            mine = own.part(todo)
            if len(mine):
                self._fill(store, name, posts, mine, kind=kind, encoder=encoder, source=source)
            own.wait()
            store.refresh()
        return made

    def _tell_damage(self, store: ArrayStore) -> None:
        for note in store.notes():
            self.options.progress.say(note)

    def _fill(
        self, store: ArrayStore, name: str, posts: Prepared, todo: np.ndarray, *, kind: Part, encoder: Encoder,
        source: Source,
    ) -> None:  # fmt: skip
        """Compute what is missing in a store."""
        options = self.options
        ragged = encoder.ragged and kind == "hidden"
        lengths = posts.lengths[todo]
        coming = int(lengths.sum() if ragged else len(todo)) * store.row_bytes
        keep = [*options.in_use, *(other.folder for other in self._stores.values())]
        assert options.root is not None
        evict(options.root, max(0, options.max_bytes - coming), keep=keep)
        engines = FrozenEngines(options.root, options.engine, options.progress)
        engine = engines.open(encoder, kind, len(todo)) if source == "raw" else None
        work = partial(_activations if kind == "hidden" else _embeddings, encoder, engine)
        batches = list(bucketed_batches(lengths, encoder.embed_batch, seed=None))
        what = f"{name} {'activations' if kind == 'hidden' else 'embeddings'}"
        options.progress.begin(f"computing {what} of {plural(len(todo), 'post')}")
        encoder.to(self.device).eval()
        for positions in releasing_memory(options.progress.track(batches, what, len(batches))):
            at = todo[positions]
            given = self.inputs(name, posts, at, source, encoder.ragged)
            inputs = {key: value.to(self.device) for key, value in given.items()}
            with torch.inference_mode():
                found = work(inputs)
            rows = [found[i, : posts.lengths[row]] if ragged else found[i : i + 1] for i, row in enumerate(at)]
            store.add([posts.keys[i] for i in at], rows)

    def _row_shape(self, kind: str, encoder: Encoder) -> tuple[int, ...]:
        if kind == "pooled":
            return (encoder.dim,)
        encoder.to(self.device).eval()
        with torch.inference_mode():
            trial = encoder.lower({key: value.to(self.device) for key, value in encoder.dummy_inputs().items()})
        return tuple(trial.shape[2:] if encoder.ragged else trial.shape[1:])


def _missing(store: ArrayStore, posts: Prepared) -> np.ndarray:
    """Return the positions of the posts whose content is not in a store yet, each content once."""
    rows = np.flatnonzero(posts.present)
    wanted = set(store.missing([posts.keys[i] for i in rows]))
    first = {posts.keys[i]: i for i in reversed(rows) if posts.keys[i] in wanted}
    return np.asarray(sorted(first.values()), dtype=np.int64)


def _embeddings(encoder: Encoder, engine: FrozenEngine | None, inputs: Mapping[str, Tensor]) -> np.ndarray:
    pooled = encoder(inputs).pooled if engine is None else engine(inputs)
    found: np.ndarray = pooled.float().cpu().numpy()
    return found


def _activations(encoder: Encoder, engine: FrozenEngine | None, inputs: Mapping[str, Tensor]) -> np.ndarray:
    hidden = encoder.lower(inputs) if engine is None else engine(inputs)
    half: np.ndarray = hidden.float().cpu().clamp(-65504, 65504).to(torch.float16).numpy()
    return half
