"""What a whole table of explained posts has in common, gathered chunk by chunk in bounded memory."""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.predictions import records
from cotune.explain.words import Words
from cotune.tasks import Task

BINS = 10
ALL = "all posts"
_FEW = 2


def list_names(fields: Sequence[str]) -> tuple[str, ...]:
    """Return what the lists of posts are called."""
    return ("conflicts", *(f"{name}_driven" for name in reversed(fields)), "mistakes")


def kept_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns of contributions that lists of posts keep: all but those of single outputs."""
    return [
        name
        for name in columns
        if (":" not in name or name.startswith("interaction:")) and name not in ("base", "error")
    ]


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


class TableSummary:
    """Counts, shares and lists over all posts seen so far.

    Parameters
    ----------
    task : Task
        What the run predicts.
    fields : sequence of str
        What a post has.
    most : int
        Length of each list of posts.
    """

    def __init__(self, task: Task, fields: Sequence[str], most: int) -> None:
        self.task, self.fields, self.most = task, tuple(fields), most
        #: Predictions are counted by class where each post has one, else together.
        self.classes = task.outputs if task.target_type == "multiclass" else (ALL,)
        self.posts = self.scored = self.both = 0
        self.alone = dict.fromkeys(self.fields, 0)
        self.counts: dict[str, int] = defaultdict(int)
        self.base: dict[str, float] = {}
        self.best = {name: Best(most) for name in list_names(fields)}
        self._shares: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
        self._parts: dict[str, np.ndarray] = {name: np.zeros(len(self.fields) + 2) for name in self.classes}
        self._rows: dict[str, list[np.ndarray]] = defaultdict(list)
        self._first: list[int] = []

    def add(self, frame: pd.DataFrame) -> None:
        """Take in the contributions of the next posts."""
        self.posts += len(frame)
        scored = frame[frame["label"].notna()]
        self.scored += len(scored)
        if len(self._first) < self.most:
            self._first += scored["row"].head(self.most - len(self._first)).tolist()
        has = {name: scored[f"{name}_alone"].notna() for name in self.fields}
        there = sum((mask.astype(int) for mask in has.values()), start=pd.Series(0, index=scored.index))
        for name, mask in has.items():
            self.alone[name] += int((mask & (there == 1)).sum())
            self._rows[name].append(scored[mask]["row"].to_numpy(dtype=np.int64))
        wrong, how_wrong = self._mistakes(scored)
        both = scored[there >= _FEW]
        self._add_both(both)
        self._rows["both"].append(both["row"].to_numpy(dtype=np.int64))
        # A model that has learned from contradictions finds them far better than what pulls in opposite directions.
        if self.task.contradicts:
            self._offer("conflicts", both["contradiction"], both)
        else:
            self._offer("conflicts", both["conflict"], both[both["conflict"] > 0])
        for name in self.fields:
            self._offer(f"{name}_driven", both[f"{name}_share"], both[has[name].loc[both.index]])
        self._offer("mistakes", how_wrong, scored[wrong])

    def _mistakes(self, scored: pd.DataFrame) -> tuple[pd.Series[bool], pd.Series[Any]]:
        """Return which posts are predicted wrong, and what ranks them: confidence, or the error of a number."""
        if not self.task.text_label:
            known = scored["true"].notna()
            self.counts["labelled"] += int(known.sum())
            return known, (scored["label"].astype(float) - scored["true"].astype(float)).abs().rename("error_size")
        known = scored["true"].map(lambda label: label is not None and self.task.problem(label) is None).astype(bool)
        same = scored["true"] == scored["label"]
        if self.task.target_type != "multiclass":  # the same labels may stand in another order
            at = np.flatnonzero(known)
            pair = [self.task.encode(scored[column].iloc[at].tolist()) for column in ("true", "label")]
            if len(at):
                same.iloc[at] = (pair[0] == pair[1]).reshape(len(at), -1).all(axis=1).tolist()
        self.counts["labelled"] += int(known.sum())
        self.counts["right"] += int((known & same).sum())
        return known & ~same, scored["confidence"]

    def _add_both(self, both: pd.DataFrame) -> None:
        self.both += len(both)
        self.counts["pull_apart"] += int((both["conflict"] > 0).sum())
        if len(self.fields) == _FEW and self.task.text_label:
            self._add_pairs(both)
        of = both["label"] if self.task.target_type == "multiclass" else pd.Series(ALL, index=both.index)
        interaction = both["interaction"] if len(self.fields) == _FEW else pd.Series(0.0, index=both.index)
        for label, rows in both.groupby(of):
            for name in self.fields:
                self._shares[name, str(label)].append(rows[f"{name}_share"].to_numpy(dtype=np.float32))
            sums = [*(rows[name].sum() for name in self.fields), interaction.loc[rows.index].sum()]
            self._parts[str(label)] += np.asarray([*sums, interaction.loc[rows.index].abs().sum()])

    def _add_pairs(self, both: pd.DataFrame) -> None:
        """Count what two fields do together."""
        one, other = (both[f"{name}_alone"] != both["label"] for name in self.fields)
        self.counts[f"flips_without_{self.fields[1]}"] += int(one.sum())
        self.counts[f"flips_without_{self.fields[0]}"] += int(other.sum())
        self.counts["only_together"] += int((one & other).sum())
        self.counts["reinforce"] += int((both["interaction"] > 0).sum())

    def _offer(self, name: str, scores: pd.Series[Any], rows: pd.DataFrame) -> None:
        best = self.best[name]
        likely = rows[scores.loc[rows.index] > best.worst()] if self.most else rows.head(0)
        for at, record in zip(likely.index, records(likely[kept_columns(list(rows.columns))]), strict=True):
            best.offer(float(scores.loc[at]), record)

    def sample(self, kind: str, most: int, seed: int) -> list[int]:
        """Return the rows of some posts that have several fields ("both"), or one by name, sampled at random."""
        parts = self._rows[kind]
        rows = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        if len(rows) <= most:
            return [int(row) for row in rows]
        chosen = np.random.default_rng(seed).choice(rows, size=most, replace=False)
        return sorted(int(row) for row in chosen)

    def choose(self, find: str | None, limit: int) -> list[int]:
        """Return the rows of the posts worth a page: the list asked for, or some of every list in turn."""
        lists = [self.best[find].ranked()] if find else [best.ranked() for best in self.best.values()]
        rows = [record["row"] for turn in itertools.zip_longest(*lists) for record in turn if record is not None]
        if find is None:
            rows += self._first
        return list(dict.fromkeys(int(row) for row in rows))[:limit]

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain values."""
        both = max(self.both, 1)
        labelled = self.counts["labelled"]
        right = self.counts["right"] / labelled if labelled and self.task.text_label else None
        parts = ["pull_apart"]
        if len(self.fields) == _FEW and self.task.text_label:
            parts += [*(f"flips_without_{name}" for name in self.fields), "only_together", "reinforce"]
        return {
            "task": self.task.name,
            "fields": list(self.fields),
            "contradicts": self.task.contradicts,
            "posts": self.posts,
            "scored": self.scored,
            "errors": self.posts - self.scored,
            "with_both": self.both,
            **{f"{name}_alone": n for name, n in self.alone.items()},
            "labelled": labelled,
            "accuracy": right,
            "of_posts_with_both": {name: self.counts[name] / both if self.both else None for name in parts},
            **{
                f"{name}_share": _spread([part for label in self.classes for part in self._shares[name, label]])
                for name in self.fields
            },
            "classes": {name: self._of_class(name) for name in self.classes},
            "base": self.base,
        }

    def _of_class(self, name: str) -> dict[str, Any]:
        spread = {of: _spread(self._shares[of, name]) for of in self.fields}
        first = spread[self.fields[0]]
        means = self._parts[name] / max(first["posts"], 1)
        keys = (*(f"mean_{of}_part" for of in self.fields), "mean_interaction", "mean_interaction_size")
        return {
            **first,
            "mean_shares": {of: spread[of]["mean"] for of in self.fields},
            **{key: float(m) if first["posts"] else None for key, m in zip(keys, means, strict=True)},
        }


def _spread(shares: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return mean, quartiles and histogram of shares."""
    values = np.concatenate(shares) if shares else np.zeros(0, dtype=np.float32)
    histogram = np.histogram(values, bins=BINS, range=(0, 1))[0].tolist()
    quartiles = np.quantile(values.astype(float), [0.25, 0.5, 0.75]).tolist() if len(values) else [None] * 3
    mean = float(values.mean(dtype=float)) if len(values) else None
    low, middle, high = quartiles
    return {"posts": len(values), "mean": mean, "lower_quartile": low, "median": middle, "upper_quartile": high,
            "histogram": histogram}  # fmt: skip


class TopWords:
    """Which words support each class most, over some posts."""

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
