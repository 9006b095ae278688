"""Modalities that are missing in one class more than in the others, so that their absence tells the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cotune.errors import clip

_FEWEST = 5  # posts of a class; with fewer, chance alone does it
_DIFFERENCE = 0.5


def class_gaps(present: Mapping[str, Sequence[bool] | np.ndarray], labels: Sequence[str | None]) -> list[str]:
    """Return a line for each modality that is missing in one class far more often than in all others.

    Parameters
    ----------
    present : mapping
        For each modality, which posts have it.
    labels : sequence of str or None
        Their labels; posts without one do not count.
    """
    found = []
    names = np.asarray([label for label in labels if label is not None], dtype=object)
    labelled = np.asarray([label is not None for label in labels], dtype=bool)
    for modality, has in present.items():
        missing = ~np.asarray(has, dtype=bool)[labelled]
        worst: tuple[float, str, float, float] | None = None
        for name in dict.fromkeys(names):
            mine = names == name
            if min(int(mine.sum()), int((~mine).sum())) < _FEWEST:
                continue
            share, others = float(missing[mine].mean()), float(missing[~mine].mean())
            if share - others >= _DIFFERENCE and (worst is None or share - others > worst[0]):
                worst = share - others, name, share, others
        if worst is not None:
            _, name, share, others = worst
            found.append(
                f"the {modality} is missing in {share:.0%} of the posts labelled {clip(name, 60)!r} and in "
                f"{others:.0%} of the others: a model learns from its absence alone; find the missing ones, or leave "
                "such posts out"
            )
    return found
