"""Prepared posts for `levers.py`: opened once in a process, held in the device's memory, seen in several views.

What lies in cotune's cache (activations of the frozen layers, embeddings) is read from it once and stays on the device
as one tensor, so that a batch is an index into it: on a GPU nothing is copied, and nothing waited for, in a step.
Numbers are those that :class:`~cotune.training.features.Features` gives.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from cotune.data.store import ArrayStore
from cotune.encoders.base import Encoder
from cotune.encoders.frozen_engine import Part
from cotune.encoders.image import ImageEncoder
from cotune.encoders.prepared import Prepared
from cotune.encoders.prepared_images import PreparedImages
from cotune.encoders.preprocess import Preprocessor
from cotune.encoders.resolve import open_encoder
from cotune.fields import Field
from cotune.model import Batch
from cotune.settings import FitConfig
from cotune.training.build import cache_root, read_options
from cotune.training.device import training_device
from cotune.training.encoder_check import check_encoder
from cotune.training.features import Features
from cotune.training.kept import Kept, Source

#: Ways to see an image: as the encoder was pretrained, squeezed whole into its frame, and the mirror image of either.
VIEWS = ("crop", "whole", "flip", "whole-flip")


class Flipped(Preprocessor):
    """Another preprocessor's image, mirrored."""

    def __init__(self, inner: Preprocessor) -> None:
        self.inner, self.size, self.scale, self.shift = inner, inner.size, inner.scale, inner.shift

    def __call__(self, image: Image.Image) -> np.ndarray:
        return np.ascontiguousarray(self.inner(image)[..., ::-1])

    def whole(self) -> Flipped:
        return Flipped(self.inner.whole())

    def save(self, folder: Path) -> None:
        self.inner.save(folder)

    def describe(self) -> dict[str, Any]:
        return {**self.inner.describe(), "flipped": True}


def seen_as(encoder: Encoder, view: str) -> Encoder:
    """Return an image encoder that sees its images in another way."""
    if view == VIEWS[0]:
        return encoder
    assert isinstance(encoder, ImageEncoder)
    found = copy.deepcopy(encoder)
    if view.startswith("whole"):
        found.preprocessor = found.preprocessor.whole()
    if view.endswith("flip"):
        found.preprocessor = Flipped(found.preprocessor)
    found.weights_changed()  # the same weights, but other embeddings
    return found


class OnDevice(Batch):
    """A batch of which parts are on the device already."""

    def pin_memory(self) -> Batch:
        return self._each(lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory())


class Held(Kept):
    """Stores of which everything is held in the device's memory; tensors of equal content are shared by all."""

    _tensors: ClassVar[dict[tuple[str, str], Tensor]] = {}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._found: dict[tuple[str, str, int], Source] = {}
        self._of: dict[tuple[str, Source], ArrayStore] = {}

    def compute(self, name: str, posts: Prepared, kind: Part, encoder: Encoder) -> Source:
        key = (name, kind, encoder.n_lower)
        if key not in self._found:
            with locked(self.options.root):  # other workers wait, then find it there
                self._found[key] = self._computed(name, posts, kind, encoder)
        return self._found[key]

    def _computed(self, name: str, posts: Prepared, kind: Part, encoder: Encoder) -> Source:
        source = super().compute(name, posts, kind, encoder)
        self._of[name, source] = self._stores[name, source]  # which a cut at another depth may replace
        return source

    def inputs(
        self, name: str, posts: Prepared, rows: np.ndarray, source: Source, ragged: bool
    ) -> Mapping[str, Tensor]:
        if source == "raw":
            return posts.inputs(rows)
        ragged = ragged and not source.startswith("pooled")
        table, at = self._tensor(name, posts, source, ragged), self._at(rows)
        if source.startswith("pooled"):
            return {"pooled": table[at]}
        if not ragged:
            return {"hidden": table[at]}
        raw = posts.inputs(rows)
        return {"hidden": table[:, : next(iter(raw.values())).shape[1]][at], **raw}

    def _at(self, rows: np.ndarray) -> Tensor:
        at = torch.from_numpy(rows)
        return at.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else at

    def _tensor(self, name: str, posts: Prepared, source: Source, ragged: bool) -> Tensor:
        """Return all that a store has of these posts, a row for each; zeros where there is nothing."""
        store = self._of[name, source]
        key = (str(store.folder), hashlib.blake2b("\0".join(posts.keys).encode()).hexdigest())
        if key not in self._tensors:
            n = len(posts.keys)
            shape = (n, int(posts.lengths.max()), *store.row_shape) if ragged else (n, *store.row_shape)
            held = torch.zeros(shape, dtype=getattr(torch, store.dtype.name))
            for i in np.flatnonzero(posts.present):
                array = torch.from_numpy(store.get(posts.keys[i]))
                if ragged:
                    held[i, : len(array)] = array
                else:
                    held[i] = array[0]
            self._tensors[key] = held.to(self.device)
        return self._tensors[key]


class Viewed(Held):
    """Images in several views, of which each post of a batch shows one.

    Attributes
    ----------
    views : sequence of Features
        The posts in each view.
    show : int, or (Generator, list of int)
        Which view is shown; or what draws it, and from which.
    """

    def __init__(self, views: Sequence[Features]) -> None:
        super().__init__(views[0].kept.options, views[0].kept.device)
        self.views = views
        self.show: int | tuple[np.random.Generator, list[int]] = 0

    def _computed(self, name: str, posts: Prepared, kind: Part, encoder: Encoder) -> Source:
        if encoder.modality != "image":
            return self.views[0].kept._computed(name, posts, kind, encoder)
        for features in self.views:
            own = features.encoders[name]
            own.cut_at(encoder.n_lower)
            try:
                source = features.kept._computed(name, features.fields[name], kind, own)
            finally:
                own.cut_at(0)
        return source

    def inputs(
        self, name: str, posts: Prepared, rows: np.ndarray, source: Source, ragged: bool
    ) -> Mapping[str, Tensor]:
        first = self.views[0]
        if first.encoders[name].modality != "image":
            return first.kept.inputs(name, first.fields[name], rows, source, ragged)
        shown = np.full(len(rows), self.show) if isinstance(self.show, int) else self._drawn(*self.show, len(rows))
        order, parts = [], []
        for view in np.unique(shown):
            order.append(np.flatnonzero(shown == view))
            features = self.views[view]
            parts.append(features.kept.inputs(name, features.fields[name], rows[order[-1]], source, ragged))
        back = self._at(np.argsort(np.concatenate(order)))
        whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        return {key: tensor[back.to(tensor.device)] for key, tensor in whole.items()}

    @staticmethod
    def _drawn(random: np.random.Generator, among: list[int], n: int) -> np.ndarray:
        return np.asarray(among)[random.integers(0, len(among), n)]


@dataclass(frozen=True)
class HeldFeatures(Features):
    """Posts whose batches are on the device already."""

    def batch(self, rows: np.ndarray, source: Mapping[str, Source], targets: np.ndarray | None = None) -> Batch:
        return OnDevice(**vars(super().batch(rows, source, targets)))


@dataclass
class Opened:
    """The posts of a benchmark in one process: encoders, fields and views, each opened when it is first needed.

    Attributes
    ----------
    posts : DataFrame
        The posts, with every column that a lever may read.
    config : FitConfig
        Names encoders, cache and device.
    """

    posts: pd.DataFrame
    config: FitConfig
    _encoders: dict[Any, Encoder] = field(default_factory=dict)
    _prepared: dict[Any, Prepared] = field(default_factory=dict)
    _features: dict[Any, Features] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._options, self._device = read_options(self.config), training_device(self.config)

    def features(self, fields: Sequence[Field], views: Sequence[str]) -> Features:
        """Return the posts' fields, the images of which are seen in `views`; ``kept.show`` says in which."""
        key = (tuple(fields), tuple(views))
        if key not in self._features:
            parts = [self._seen(fields, view) for view in views]
            kept = parts[0].kept if len(parts) == 1 else Viewed(parts)
            self._features[key] = HeldFeatures(parts[0].encoders, parts[0].fields, kept, len(self.posts))
        return self._features[key]

    def _seen(self, fields: Sequence[Field], view: str) -> Features:
        encoders = {one.name: self._encoder(one, fields, view) for one in fields}
        prepared = {one.name: self._prepare(one, encoders[one.name], view) for one in fields}
        return Features(encoders, prepared, Held(self._options, self._device), len(self.posts))

    def _encoder(self, one: Field, fields: Sequence[Field], view: str) -> Encoder:
        """Open a field's encoder; texts in other columns share theirs, in which training changes nothing."""
        if one.shared is not None:
            return self._encoder(next(other for other in fields if other.name == one.shared), fields, view)
        key = (one.kind, one.encoder, one.columns if one.kind == "table" else (), view if one.kind == "image" else "")
        if key not in self._encoders:
            plain = key[:3]
            if plain not in self._encoders:
                opened = open_encoder(one, self.config, list(self.posts[one.name]), self.posts["row"].tolist())
                with locked(self._options.root):
                    check_encoder(opened, self.config, cache_root(self.config))
                self._encoders[plain] = opened
            self._encoders[key] = seen_as(self._encoders[plain], view) if one.kind == "image" else self._encoders[plain]
        return self._encoders[key]

    def _prepare(self, one: Field, encoder: Encoder, view: str) -> Prepared:
        column = one.columns[0] if one.kind == "text" else one.name
        key = (column, view if one.kind == "image" else "")
        if key not in self._prepared:
            if one.kind == "image" and view != VIEWS[0]:
                first = self._prepare(one, self._encoder(one, (one,), VIEWS[0]), VIEWS[0])
                self._prepared[key] = self._seen_again(first, encoder)
            else:
                with locked(self._options.root) if one.kind == "image" else nullcontext():
                    self._prepared[key] = encoder.prepare(list(self.posts[column]), self._options)
        return self._prepared[key]

    def _seen_again(self, first: Prepared, encoder: Encoder) -> Prepared:
        """Prepare images in another view; files whose pixels are in the cache are not read a second time."""
        assert isinstance(first, PreparedImages)
        assert isinstance(encoder, ImageEncoder)
        found = PreparedImages(first.images, encoder.preprocessor, self._options)
        with locked(self._options.root):
            store = found._open_store()
            if store.missing([key for key in first.keys if key]):
                return found.read()
        found._take(first, np.arange(len(first.keys)))
        found.faults, found.store = first.faults, store
        return found


def locked(root: Path | None) -> FileLock:
    """Return what keeps other workers from computing the same meanwhile."""
    assert root is not None
    root.mkdir(parents=True, exist_ok=True)
    return FileLock(str(root / "levers.lock"))
