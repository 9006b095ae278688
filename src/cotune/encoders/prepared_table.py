"""Columns of numbers and categories made ready for an encoder: read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from cotune.encoders.prepared import Prepared

Collate = Callable[[Sequence[np.ndarray]], Mapping[str, Tensor]]


class PreparedTable(Prepared):
    """The cells of some posts.

    Parameters
    ----------
    cells : ndarray
        What a table encoder read, float32, NaN for missing, shape (N, n_columns).
    collate : callable
        Makes a batch of the cells of posts.
    """

    def __init__(self, cells: np.ndarray, collate: Collate) -> None:
        super().__init__(len(cells))
        self.cells, self.collate = cells, collate
        self.present = ~np.isnan(cells).all(axis=1)
        self.keys = [
            hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() if here else ""
            for row, here in zip(cells, self.present, strict=True)
        ]

    def inputs(self, rows: np.ndarray) -> Mapping[str, Tensor]:
        """Return the cells of the posts at `rows`."""
        return self.collate([self.cells[i] for i in rows])

    def subset(self, rows: np.ndarray) -> PreparedTable:
        """Return the posts at `rows`."""
        return PreparedTable(self.cells[rows], self.collate)
