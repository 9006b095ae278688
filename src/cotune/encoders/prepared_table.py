"""Columns of numbers and categories made ready for an encoder: read once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from cotune.encoders.prepared import Prepared


class PreparedTable(Prepared):
    """The cells of some posts.

    Parameters
    ----------
    cells : ndarray
        What a table encoder read, float32, NaN for missing, shape (N, n_columns). A post whose cells are all missing
        does not have the field.
    problems : mapping
        Position of a post to what is wrong with one of its cells, in one line.
    """

    def __init__(self, cells: np.ndarray, problems: Mapping[int, str]) -> None:
        super().__init__(len(cells))
        self.cells = cells
        self.problems = dict(problems)
        self.present = ~np.isnan(cells).all(axis=1)
        self.keys = [
            hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() if here else ""
            for row, here in zip(cells, self.present, strict=True)
        ]

    def inputs(self, rows: np.ndarray) -> Mapping[str, Tensor]:
        """Return ``cells`` of the posts at `rows`, shape (B, n_columns)."""
        return {"cells": torch.from_numpy(self.cells[rows])}

    def subset(self, rows: np.ndarray) -> PreparedTable:
        """Return the posts at `rows`."""
        problems = {new: self.problems[int(old)] for new, old in enumerate(rows) if int(old) in self.problems}
        found = PreparedTable(self.cells[rows], problems)
        found.present = self.present[rows]
        return found
