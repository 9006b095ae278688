"""Groups of duplicate posts, listed with their rows and labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.duplicates import Fingerprint, Groups, text_key
from cotune.data.images.sources import describe
from cotune.data.tables.cells import has_text


@dataclass(frozen=True)
class DuplicateGroup:
    """Posts that are the same or nearly so.

    Attributes
    ----------
    by : str
        What they share: "same text", "near text", "same image", "near image".
    rows : list of int
        Their rows.
    labels : list of str
        The different labels among them.
    sample : str
        The text or image of the first.
    """

    by: str
    rows: list[int]
    labels: list[str]
    sample: str


class DuplicateFinder:
    """Finds duplicates of all sorts among posts whose images have been read."""

    def __init__(self, posts: pd.DataFrame, marks: Sequence[Fingerprint | None], max_distance: int) -> None:
        self.rows = posts["row"].tolist()
        self.labels = posts["label"].tolist()
        self.texts = posts["text"].tolist()
        self.images = posts["image"].tolist()
        self.exact_text = [text if has_text(text) else None for text in self.texts]
        self.text = [text_key(text) or None for text in self.texts]
        self.exact_image = [None if mark is None else mark.key for mark in marks]
        self.marks = marks
        self.max_distance = max_distance

    def _joined(self, *keys: Sequence[object], looks: bool = False) -> np.ndarray[Any, Any]:
        groups = Groups(len(self.rows))
        for values in keys:
            groups.join_equal(values)
        if looks:
            groups.join_looks(self.marks, self.max_distance)
        return groups.numbers()

    def near(self) -> np.ndarray[Any, Any]:
        """Return group numbers when text and image both count."""
        return self._joined(self.text, self.exact_image, looks=True)

    def groups(self) -> list[DuplicateGroup]:
        """Return the groups of all four sorts; near ones only where they are not equal throughout."""
        exact_text, exact_image = self._joined(self.exact_text), self._joined(self.exact_image)
        return [
            *self._listed("same text", exact_text, self._first_text),
            *self._listed("near text", self._joined(self.text), self._first_text, exact_text),
            *self._listed("same image", exact_image, self._first_image),
            *self._listed(
                "near image",
                self._joined(self.exact_image, looks=True),
                self._first_image,
                exact_image,
            ),
        ]

    def contradictions(self) -> list[DuplicateGroup]:
        """Return posts that are the same in all they have, and yet labelled differently."""
        pictures = self._joined(self.exact_image, looks=True)
        whole = [
            (text, None if image is None else int(picture)) if text is not None or image is not None else None
            for text, image, picture in zip(self.text, self.exact_image, pictures, strict=True)
        ]
        found = self._listed("same text and image", self._joined(whole), self._first_text)
        return [group for group in found if len(group.labels) > 1]

    def _first_text(self, i: int) -> str:
        text = self.texts[i]
        return " ".join(text.split())[:60] if has_text(text) else self._first_image(i)

    def _first_image(self, i: int) -> str:
        name = describe(self.images[i])
        return "/".join(name.split("/")[-2:])

    def _listed(
        self,
        by: str,
        groups: np.ndarray[Any, Any],
        sample: Callable[[int], str],
        finer: np.ndarray[Any, Any] | None = None,
    ) -> list[DuplicateGroup]:
        sizes = Counter(groups.tolist())
        members: dict[int, list[int]] = defaultdict(list)
        for i, group in enumerate(groups.tolist()):
            if sizes[group] > 1:
                members[group].append(i)
        return [
            DuplicateGroup(
                by,
                [self.rows[i] for i in places],
                sorted({self.labels[i] for i in places if self.labels[i] is not None}),
                sample(places[0]),
            )
            for places in members.values()
            if finer is None or len({finer[i] for i in places}) > 1
        ]
