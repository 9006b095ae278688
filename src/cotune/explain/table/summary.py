"""What a whole table of explained posts has in common, gathered chunk by chunk in bounded memory."""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from cotune.data.predictions import records
from cotune.explain.words import Words

BINS = 10
#: What the lists of posts are called, and by what they are sorted, the largest first.
LISTS = ("conflicts", "image_driven", "text_driven", "mistakes")
KEPT = (
    "id", "row", "label", "true", "confidence", "text_share", "image_share", "text", "image", "interaction",
    "text_alone", "image_alone", "conflict",
)  # fmt: skip


class Best:
    """The few records with the highest scores among any number; the earlier one wins a tie."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._heap: list[tuple[float, int, dict[str, Any]]] = []
        self._count = itertools.count()

    def offer(self, score: float, record: dict[str, Any]) -> None:
        """Take `record` in if its score is among the highest."""
        item = (score, -next(self._count), record)
        if len(self._heap) < self.most:
            heapq.heappush(self._heap, item)
        elif self.most and item > self._heap[0]:
            heapq.heapreplace(self._heap, item)

    def worst(self) -> float:
        """Return the score that a record must beat."""
        return -np.inf if len(self._heap) < self.most else self._heap[0][0] if self._heap else np.inf

    def ranked(self) -> list[dict[str, Any]]:
        """Return the records, the best first."""
        return [record for _, _, record in sorted(self._heap, key=lambda item: item[:2], reverse=True)]


@dataclass
class TableSummary:
    """Counts, shares and lists over all posts seen so far.

    Parameters
    ----------
    classes : sequence of str
        The run's labels.
    most : int
        Length of each list of posts.
    """

    classes: Sequence[str]
    most: int
    posts: int = 0
    scored: int = 0
    alone: dict[str, int] = field(default_factory=lambda: {"text": 0, "image": 0})
    both: int = 0
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    base: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.best = {name: Best(self.most) for name in LISTS}
        self._shares: dict[str, list[np.ndarray]] = {name: [] for name in self.classes}
        self._parts: dict[str, np.ndarray] = {name: np.zeros(4) for name in self.classes}
        self._rows: dict[str, list[np.ndarray]] = {"both": [], "text": []}
        self._first: list[int] = []

    def add(self, frame: pd.DataFrame) -> None:
        """Take in the modality numbers of the next posts."""
        self.posts += len(frame)
        scored = frame[frame["label"].notna()]
        self.scored += len(scored)
        if len(self._first) < self.most:
            self._first += scored["row"].head(self.most - len(self._first)).tolist()
        has_text, has_image = scored["text_alone"].notna(), scored["image_alone"].notna()
        self.alone["text"] += int((has_text & ~has_image).sum())
        self.alone["image"] += int((has_image & ~has_text).sum())
        known = scored["true"].isin(list(self.classes))
        self.counts["labelled"] += int(known.sum())
        self.counts["right"] += int((known & (scored["true"] == scored["label"])).sum())
        both = scored[has_text & has_image]
        self._add_both(both)
        for name, rows in (("both", both), ("text", scored[has_text])):
            self._rows[name].append(rows["row"].to_numpy(dtype=np.int64))
        for name, scores, rows in (
            ("conflicts", both["conflict"], both[both["conflict"] > 0]),
            ("image_driven", both["image_share"], both),
            ("text_driven", both["text_share"], both),
            ("mistakes", scored["confidence"], scored[known & (scored["true"] != scored["label"])]),
        ):
            self._offer(name, scores, rows)

    def _add_both(self, both: pd.DataFrame) -> None:
        self.both += len(both)
        text, image = both["text"].to_numpy(), both["image"].to_numpy()
        self.counts["pull_apart"] += int((text * image < 0).sum())
        self.counts["flips_without_image"] += int((both["text_alone"] != both["label"]).sum())
        self.counts["flips_without_text"] += int((both["image_alone"] != both["label"]).sum())
        neither = (both["text_alone"] != both["label"]) & (both["image_alone"] != both["label"])
        self.counts["only_together"] += int(neither.sum())
        self.counts["reinforce"] += int((both["interaction"] > 0).sum())
        for name, rows in both.groupby("label"):
            self._shares[str(name)].append(rows["text_share"].to_numpy(dtype=np.float32))
            sums = [rows[part].sum() for part in ("text", "image", "interaction")]
            self._parts[str(name)] += np.asarray([*sums, rows["interaction"].abs().sum()])

    def _offer(self, name: str, scores: pd.Series[Any], rows: pd.DataFrame) -> None:
        best = self.best[name]
        likely = rows[scores.loc[rows.index] > best.worst()] if self.most else rows.head(0)
        for record in records(likely[list(KEPT)]):
            best.offer(record[str(scores.name)], record)

    def sample(self, kind: Literal["both", "text"], most: int, seed: int) -> list[int]:
        """Return the rows of some posts that have both modalities, or a text, drawn by lot, in order."""
        parts = self._rows[kind]
        rows = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        if len(rows) <= most:
            return [int(row) for row in rows]
        chosen = np.random.default_rng(seed).choice(rows, size=most, replace=False)
        return sorted(int(row) for row in chosen)

    def choose(self, find: str | None, limit: int) -> list[int]:
        """Return the rows of the posts worth a page: the list asked for, or some of every list in turn."""
        lists = [self.best[find].ranked()] if find else [self.best[name].ranked() for name in LISTS]
        rows = [record["row"] for turn in itertools.zip_longest(*lists) for record in turn if record is not None]
        if find is None:
            rows += self._first
        return list(dict.fromkeys(int(row) for row in rows))[:limit]

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain values."""
        both = max(self.both, 1)
        parts = ("pull_apart", "flips_without_text", "flips_without_image", "only_together", "reinforce")
        labelled = self.counts["labelled"]
        return {
            "posts": self.posts,
            "scored": self.scored,
            "errors": self.posts - self.scored,
            "with_both": self.both,
            "text_alone": self.alone["text"],
            "image_alone": self.alone["image"],
            "labelled": labelled,
            "accuracy": self.counts["right"] / labelled if labelled else None,
            "of_posts_with_both": {name: self.counts[name] / both if self.both else None for name in parts},
            "text_share": _spread([part for parts in self._shares.values() for part in parts]),
            "classes": {name: self._of_class(name) for name in self.classes},
            "base": self.base,
        }

    def _of_class(self, name: str) -> dict[str, Any]:
        spread = _spread(self._shares[name])
        means = self._parts[name] / max(spread["posts"], 1)
        keys = ("mean_text_part", "mean_image_part", "mean_interaction", "mean_interaction_size")
        return {**spread, **{key: float(m) if spread["posts"] else None for key, m in zip(keys, means, strict=True)}}


def _spread(shares: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return mean, quartiles and histogram of text shares."""
    values = np.concatenate(shares) if shares else np.zeros(0, dtype=np.float32)
    histogram = np.histogram(values, bins=BINS, range=(0, 1))[0].tolist()
    quartiles = np.quantile(values.astype(float), [0.25, 0.5, 0.75]).tolist() if len(values) else [None] * 3
    mean = float(values.mean(dtype=float)) if len(values) else None
    low, middle, high = quartiles
    return {"posts": len(values), "mean": mean, "lower_quartile": low, "median": middle, "upper_quartile": high,
            "histogram": histogram}  # fmt: skip


class TopWords:
    """Which words spoke most for each class, over some posts."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, np.ndarray]] = defaultdict(lambda: defaultdict(lambda: np.zeros(2)))
        self.posts: dict[str, int] = defaultdict(int)

    def add(self, label: str, words: Words) -> None:
        """Take in what the words of a post did to the class that it was taken for; a word counts once a post.

        Links and punctuation are left out.
        """
        self.posts[label] += 1
        once: dict[str, float] = defaultdict(float)
        for word in words.words:
            form = word.text.casefold()
            link = form.startswith(("http://", "https://", "www."))
            if not link and any(char.isalnum() or ord(char) > 0x2000 for char in form):
                once[form] += word.gradient
        for form, value in once.items():
            self._sums[label][form] += (1, value)

    def ranked(self, classes: Iterable[str], most: int = 15) -> dict[str, list[dict[str, Any]]]:
        """Return for each class its words by mean effect times the root of their number of posts.

        The root keeps a word that was seen once from leading. Words of a single post count only where hardly
        any word recurs.
        """
        return {name: self._of(self._sums.get(name, {}), most) for name in classes}

    @staticmethod
    def _of(sums: Mapping[str, np.ndarray], most: int) -> list[dict[str, Any]]:
        rows = [(form, int(n), float(total / n)) for form, (n, total) in sums.items()]
        often = [row for row in rows if row[1] > 1]
        rows = [row for row in (often if len(often) >= most else rows) if row[2] > 0]
        rows.sort(key=lambda row: (-row[2] * row[1] ** 0.5, row[0]))
        return [{"word": form, "posts": n, "mean": mean} for form, n, mean in rows[:most]]
