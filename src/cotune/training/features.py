"""Posts made ready for a model: every field prepared for its encoder, assembled into batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from cotune.data.batches import bucketed_batches
from cotune.data.duplicates import Fingerprint
from cotune.data.images.load import ImageFault
from cotune.data.tables.row_errors import RowError, row_errors
from cotune.encoders.base import Encoder
from cotune.encoders.frozen_engine import Part
from cotune.encoders.prepared import Prepared, ReadOptions
from cotune.errors import EncoderError
from cotune.model import Batch
from cotune.release_memory import releasing_memory
from cotune.training.kept import Kept, Source
from cotune.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Features:
    """The prepared posts.

    Attributes
    ----------
    encoders : mapping
        The pretrained encoders by field, which training leaves as they are.
    fields : dict
        Each field of the posts, by name.
    kept : Kept
        What is computed of them once.
    errors : dict
        Position of a post to what is wrong with its cells.
    n_posts : int
        How many posts there are.
    """

    encoders: Mapping[str, Encoder]
    fields: dict[str, Prepared]
    kept: Kept
    n_posts: int
    errors: dict[int, RowError] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.n_posts

    @property
    def device(self) -> torch.device:
        """Where embeddings are computed."""
        return self.kept.device

    @property
    def in_cache(self) -> bool:
        """Whether a cache folder keeps what is computed."""
        return self.kept.options.root is not None

    @property
    def present(self) -> np.ndarray:
        """Which posts have which field, boolean, shape (N, F), in the order of `fields`."""
        if not self.fields:
            return np.zeros((self.n_posts, 0), dtype=bool)
        return np.stack([posts.present for posts in self.fields.values()], axis=1)

    @property
    def faults(self) -> dict[int, ImageFault]:
        """Position of a post to what is wrong with its image; of several, with the first."""
        found: dict[int, ImageFault] = {}
        for posts in self.fields.values():
            found = {**posts.faults, **found}
        return dict(sorted(found.items()))

    def lengths(self) -> np.ndarray:
        """Return the length of every post, such as its number of tokens, for bucketing."""
        whole = np.zeros(self.n_posts, dtype=np.int64)
        for posts in self.fields.values():
            whole += posts.lengths
        return whole

    def fingerprints(self, rows: np.ndarray) -> dict[str, list[Fingerprint | None]]:
        """Return what near-duplicates among images are found by, of the posts at `rows`, by field."""
        known = {name: posts.fingerprints for name, posts in self.fields.items()}
        return {name: [marks[i] for i in rows] for name, marks in known.items() if marks is not None}

    def content(self, row: int) -> tuple[str, ...]:
        """Return what posts of equal content share."""
        return tuple(posts.keys[row] for posts in self.fields.values())

    def batch(self, rows: np.ndarray, source: Mapping[str, Source], targets: np.ndarray | None = None) -> Batch:
        """Assemble the posts at `rows` of the fields in `source`, each from what is named for it."""
        present = np.stack([self.fields[name].present[rows] for name in source], axis=1)
        inputs: dict[str, Mapping[str, torch.Tensor]] = {}
        places: dict[str, torch.Tensor] = {}
        for column, (name, kind) in enumerate(source.items()):
            at = np.flatnonzero(present[:, column])
            if len(at):
                inputs[name] = self.kept.inputs(name, self.fields[name], rows[at], kind, self.encoders[name].ragged)
            if 0 < len(at) < len(rows):
                places[name] = torch.from_numpy(at)
        wanted = None if targets is None else torch.from_numpy(targets[rows])
        here = torch.from_numpy(present)
        return Batch(here, tuple(source), inputs, wanted, torch.from_numpy(rows), places=places)

    def compute(self, name: str, kind: Part, encoder: Encoder) -> Source:
        """Make sure that a field's activations or embeddings by `encoder` are stored, and return their source."""
        return self.kept.compute(name, self.fields[name], kind, encoder)

    def subset(self, rows: np.ndarray) -> Features:
        """Return the posts at `rows` as features of their own; what is on disk is shared."""
        if not self.in_cache:
            raise ValueError("only features with a cache folder can be divided")
        fields = {name: posts.subset(rows) for name, posts in self.fields.items()}
        return replace(self, fields=fields, n_posts=len(rows), errors={})


def prepare(
    posts: pd.DataFrame,
    encoders: Mapping[str, Encoder],
    options: ReadOptions | None = None,
    *,
    device: torch.device | None = None,
) -> Features:
    """Make posts ready: tokenise every text, read every image once and keep its pixels.

    Parameters
    ----------
    posts : DataFrame
        As :func:`cotune.data.posts.read_posts` gives it.
    encoders : mapping
        The encoders by field; a field without one is not read at all.
    options : ReadOptions, optional
        How the posts are read; by default in memory, without a cache folder.
    device : torch.device, optional
        Where embeddings are to be computed; the CPU by default.

    Returns
    -------
    Features
        Posts whose image cannot be read are listed in ``faults`` and count as having none; those with a cell that
        cannot be read are listed in ``errors``, and have nothing if it is a cell that the encoders read.
    """
    options = options or ReadOptions()
    nothing = [None] * len(posts)
    fields = {
        name: encoder.prepare(list(posts[name]) if name in posts else nothing, options)
        for name, encoder in encoders.items()
    }
    for name, found in fields.items():
        if not len(found.present) == len(found.keys) == len(found.lengths) == len(posts):
            raise EncoderError(
                f"prepare() of the encoder of the field {name!r} ({type(encoders[name]).__name__}) returned "
                f"{len(found.present):,} posts and {len(found.keys):,} content keys for {len(posts):,} posts"
            )
    features = Features(encoders, fields, Kept(options, device or torch.device("cpu")), len(posts))
    problems: dict[int, list[str]] = {}
    for name, prepared in fields.items():
        for i, reason in prepared.problems.items():
            problems.setdefault(i, []).append(f"{name}: {reason}")
    features.errors.update({i: RowError((), "; ".join(found)) for i, found in problems.items()})
    for i, error in enumerate(row_errors(posts)):
        if error is not None:
            features.errors[i] = error
            if error.concerns(encoders):
                for prepared in fields.values():
                    prepared.present[i] = False
    return features


def iterate(
    features: Features,
    rows: np.ndarray,
    source: Mapping[str, Source],
    batch_size: int,
    *,
    targets: np.ndarray | None = None,
    seed: int | None = None,
    epoch: int = 0,
    own: Ranks = ALONE,
) -> Iterator[Batch]:
    """Yield the posts at `rows` in batches of like length; shuffled if a seed is given.

    With `own`, each batch holds this rank's part of it: of a batch that has too few posts for all, its first post.
    """
    for positions in releasing_memory(bucketed_batches(features.lengths()[rows], batch_size, seed=seed, epoch=epoch)):
        whole = rows[positions]
        if own.count == 1:
            yield features.batch(whole, source, targets)
            continue
        part = own.part(whole)
        batch = features.batch(part if len(part) else whole[:1], source, targets)
        batch.whole = torch.from_numpy(whole)
        yield batch
