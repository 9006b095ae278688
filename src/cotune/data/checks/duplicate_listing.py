"""Groups of duplicate posts, listed with their rows and labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.duplicates import Fingerprint, Groups, text_key
from cotune.data.images.sources import describe
from cotune.data.kinds import FIELD_KINDS
from cotune.data.tables.cells import has_image, has_text
from cotune.fields import Field


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

    def __init__(
        self,
        posts: pd.DataFrame,
        fields: Sequence[Field],
        marks: Mapping[str, Sequence[Fingerprint | None]],
        max_distance: int,
    ) -> None:
        self.rows = [int(row) for row in posts["row"]]
        self.labels = posts["label"].tolist()
        self.posts = posts
        self.text_fields = [field.name for field in fields if field.kind == "text" and field.name in posts]
        self.marks = marks
        self.max_distance = max_distance
        texts = [posts[name].tolist() for name in self.text_fields]
        self.exact_text = _together([[text if has_text(text) else None for text in column] for column in texts])
        self.text = _together([[text_key(text) or None for text in column] for column in texts])
        self.exact_image = {name: [None if m is None else m.key for m in found] for name, found in marks.items()}
        others = [field for field in fields if field.kind not in ("text", "image") and field.name in posts]
        self.other = _together([[FIELD_KINDS[f.kind].hashed(value) for value in posts[f.name]] for f in others])

    def _joined(self, *keys: Sequence[object], looks: Sequence[str] = ()) -> np.ndarray[Any, Any]:
        groups = Groups(len(self.rows))
        for values in keys:
            if len(values):
                groups.join_equal(values)
        for name in looks:
            groups.join_looks(self.marks[name], self.max_distance)
        return groups.numbers()

    def near(self) -> np.ndarray[Any, Any]:
        """Return group numbers when texts and images all count."""
        return self._joined(self.text, *self.exact_image.values(), looks=list(self.marks))

    def groups(self) -> list[DuplicateGroup]:
        """Return the groups of all sorts; near ones only where they are not equal throughout."""
        exact_text = self._joined(self.exact_text)
        found = [
            *self._listed("same text", exact_text, self._first_text),
            *self._listed("near text", self._joined(self.text), self._first_text, exact_text),
        ]
        for name, keys in self.exact_image.items():
            exact, near = self._joined(keys), self._joined(keys, looks=[name])
            what = "image" if len(self.marks) == 1 else f"image ({name})"
            sample = partial(self._first_image, name)
            found += [
                *self._listed(f"same {what}", exact, sample),
                *self._listed(f"near {what}", near, sample, exact),
            ]
        return found

    def contradictions(self) -> list[DuplicateGroup]:
        """Return posts that are the same in all they have, and yet labelled differently."""
        parts: list[Sequence[object]] = [column for column in (self.text, self.other) if len(column)]
        for name, keys in self.exact_image.items():
            looks = self._joined(keys, looks=[name])
            parts.append([None if key is None else int(look) for key, look in zip(keys, looks, strict=True)])
        whole = _together(parts)
        what = " and ".join(
            [*(["text"] if self.text else []), *(["image"] if self.marks else []), *(["columns"] if self.other else [])]
        )
        found = self._listed(f"same {what}", self._joined(whole), self._first_text)
        return [group for group in found if len(group.labels) > 1]

    def _first_text(self, i: int) -> str:
        for name in self.text_fields:
            text = self.posts[name].iloc[i]
            if has_text(text):
                return " ".join(text.split())[:60]
        shown = [name for name in self.marks if has_image(self.posts[name].iloc[i])]
        return self._first_image(shown[0], i) if shown else ""

    def _first_image(self, name: str, i: int) -> str:
        return "/".join(describe(self.posts[name].iloc[i]).split("/")[-2:])

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


def _together(columns: Sequence[Sequence[object]]) -> list[object]:
    """Return what posts have in several columns as one key each; None where they have nothing in any."""
    if len(columns) < 2:
        return list(columns[0]) if columns else []
    return [key if any(part is not None for part in key) else None for key in zip(*columns, strict=True)]
