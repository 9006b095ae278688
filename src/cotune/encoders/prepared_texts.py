"""Texts made ready for an encoder: tokenised once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from cotune.encoders.prepared import Prepared

Collate = Callable[[Sequence[np.ndarray]], Mapping[str, Tensor]]


class PreparedTexts(Prepared):
    """The texts of some posts.

    Parameters
    ----------
    tokens : list of ndarray
        Token ids of every post.
    present : ndarray of bool
        Which posts have a text.
    collate : callable
        Makes a batch of token ids.
    """

    def __init__(self, tokens: list[np.ndarray], present: np.ndarray, collate: Collate) -> None:
        super().__init__(len(tokens))
        self.tokens, self.collate = tokens, collate
        self.present = present
        self.lengths = np.fromiter((len(row) for row in tokens), dtype=np.int64, count=len(tokens))
        self.keys = [
            hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() if here else ""
            for row, here in zip(tokens, present, strict=True)
        ]

    def inputs(self, rows: np.ndarray) -> Mapping[str, Tensor]:
        """Return padded token ids and their mask."""
        return self.collate([self.tokens[i] for i in rows])

    def subset(self, rows: np.ndarray) -> PreparedTexts:
        """Return the texts at `rows`."""
        return PreparedTexts([self.tokens[i] for i in rows], self.present[rows], self.collate)
