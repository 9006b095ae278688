"""One field of some posts, made ready for an encoder: what every kind of encoder prepares alike."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from cotune.data.duplicates import Fingerprint
from cotune.data.images.load import ImageFault
from cotune.data.store import ArrayStore
from cotune.engines.sessions import Engine
from cotune.progress import Progress


@dataclass(frozen=True)
class ReadOptions:
    """How posts are read.

    Attributes
    ----------
    root : Path or None
        Cache folder. None keeps what is read in memory, which suits a chunk of new posts.
    max_bytes : int
        Limit for each store in it and for all of them together.
    allow_remote : bool
        Whether images may be fetched by URL.
    looks : bool
        Whether near-duplicates among images will be looked for, so that what it takes is read in the same pass.
    engine : {"auto", "torch", "onnx", "openvino"}
        What runs frozen encoders over posts; see :mod:`cotune.encoders.frozen_engine`.
    progress : Progress
        Progress reporter.
    in_use : list of Path
        Stores of the cache folder that posts read this way are in, which never make room for others.
    """

    root: Path | None = None
    max_bytes: int = 0
    allow_remote: bool = False
    looks: bool = False
    engine: Engine = "torch"
    progress: Progress = field(default_factory=Progress)
    in_use: list[Path] = field(default_factory=list, compare=False)


class Prepared(abc.ABC):
    """One field of some posts.

    Attributes
    ----------
    present : ndarray of bool
        Which posts have the field, shape (N,).
    keys : list of str
        A content key for every post; "" where the field is absent.
    lengths : ndarray of int
        Length of every post by which batches are bucketed, such as its number of tokens; zeros if all are alike.
    faults : dict
        Position of a post to what is wrong with its image.
    problems : dict
        Position of a post to what of it could not be read and counts as missing.
    store : ArrayStore or None
        What of it is kept on disk.
    fingerprints : list or None
        Of images, what near-duplicates are found by, if it was asked for.
    """

    def __init__(self, n: int) -> None:
        self.present = np.zeros(n, dtype=bool)
        self.keys = [""] * n
        self.lengths = np.zeros(n, dtype=np.int64)
        self.faults: dict[int, ImageFault] = {}
        self.problems: dict[int, str] = {}
        self.store: ArrayStore | None = None
        self.fingerprints: list[Fingerprint | None] | None = None

    @abc.abstractmethod
    def inputs(self, rows: np.ndarray) -> Mapping[str, Tensor]:
        """Return the encoder's raw inputs for the posts at `rows`, all of which have the field."""

    @abc.abstractmethod
    def subset(self, rows: np.ndarray) -> Prepared:
        """Return the posts at `rows`; what is on disk is shared."""

    def _take(self, other: Prepared, rows: np.ndarray) -> None:
        """Take over from `other` what all kinds have, for the posts at `rows`."""
        self.present = other.present[rows]
        self.keys = [other.keys[i] for i in rows]
        self.lengths = other.lengths[rows]
        self.store = other.store
