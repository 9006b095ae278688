"""A page to look through scored posts: filtered by label, error, confidence and share, in one file without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.tables.cells import LABEL_SEPARATOR, has_image
from cotune.fields import Field
from cotune.report.pages import render
from cotune.report.post_cards import texts_of
from cotune.report.thumbnails import thumbnail, thumbnails
from cotune.scoring import share_column
from cotune.tasks import Task

#: Most posts that a page holds; of more, a random sample.
LIMIT = 5000
_TEXT, _OUTPUTS = 400, 5
#: Longest side of the thumbnails, by the number of posts: all together stay within their budget.
_SIDES = ((400, 160), (1500, 96), (LIMIT, 64))


@dataclass
class _Post:
    row: int
    id: str
    true: Any
    label: Any
    outputs: np.ndarray
    shares: list[float]
    texts: list[str]
    image: Any

    @property
    def wrong(self) -> bool:
        return self.true is not None and self.true != self.label


@dataclass
class ShownPosts:
    """Scored posts that a page will show, collected chunk by chunk: all of them, or a random sample of `LIMIT`.

    Parameters
    ----------
    task : Task
        What the predictions mean.
    fields : sequence of Field
        What a post has.
    limit : int
        Most posts that are kept.
    """

    task: Task
    fields: Sequence[Field]
    limit: int = LIMIT
    seen: int = 0
    _kept: list[_Post] = field(default_factory=list)
    _random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, posts: pd.DataFrame, predictions: pd.DataFrame) -> None:
        """Add posts with their predictions, row by row alike; those without a prediction are left out.

        Parameters
        ----------
        posts : DataFrame
            As :func:`~cotune.data.posts.read_posts` gives them.
        predictions : DataFrame
            As :meth:`cotune.scoring.Scorer.frame_of` gives them.
        """
        outputs = self.task.of_classes(predictions[self.task.columns()].to_numpy(dtype=float))
        for i in np.flatnonzero(predictions["label"].notna().to_numpy()):
            self.seen += 1
            at = len(self._kept)
            if at == self.limit:  # algorithm R of Vitter (1985), "Random sampling with a reservoir"
                at = int(self._random.integers(self.seen))
                if at >= self.limit:
                    continue
            post = self._post(posts.iloc[i], predictions.iloc[i], outputs[i])
            self._kept[at : at + 1] = [post]

    def _post(self, post: pd.Series, predicted: pd.Series, outputs: np.ndarray) -> _Post:
        shares = [_number(predicted.get(share_column(one.name))) for one in self.fields]
        labelled = "label" in post and not pd.isna(post["label"])
        true: Any = None
        if labelled and self.task.problem(str(post["label"])) is None:
            true = str(post["label"]) if self.task.text_label else float(post["label"])
        label = predicted["label"] if self.task.text_label else float(predicted["label"])
        if self.task.target_type == "multilabel-indicator":
            true, label = None if true is None else _names(true), _names(str(label))
        texts, image = self._content(post)
        return _Post(int(post["row"]), str(post["id"]), true, label, outputs, shares, texts, image)

    def _content(self, post: pd.Series) -> tuple[list[str], Any]:
        """Return the texts of a post, and its first image; one that is no path is made small at once."""
        there = [one for one in self.fields if one.name in post]
        named = texts_of(post, there, _TEXT)
        texts = [text if len(named) == 1 else f"{name}: {text}" for name, text in named]
        for one in there:
            if one.kind == "image" and has_image(post[one.name]):
                image = post[one.name]
                small = isinstance(image, str) and len(image) < 4096
                return texts, image if small else {"thumbnail": thumbnail(image, _side(self.limit))}
        return texts, None

    def posts(self) -> list[_Post]:
        """Return the posts that are kept, in their order in the table."""
        return sorted(self._kept, key=lambda post: post.row)


def posts_page(shown: ShownPosts, *, title: str, report: str = "report.html") -> str:
    """Return the page.

    Parameters
    ----------
    shown : ShownPosts
        The posts.
    title : str
        What to call them.
    report : str
        Address of the report that the page belongs to.
    """
    posts, task = shown.posts(), shown.task
    small = _thumbnails(posts)
    return render(
        "posts.html",
        script="posts.js",
        title=title,
        report=report,
        several=task.target_type == "multilabel-indicator",
        continuous=task.target_type == "continuous",
        labels=list(task.outputs) if task.target_type != "continuous" else [],
        fields=[one.name for one in shown.fields],
        shares=any(np.isfinite(post.shares).any() for post in posts),
        n=len(posts),
        seen=shown.seen,
        pictures=sum(map(bool, small)),
        images=sum(post.image is not None for post in posts),
        data=_data(posts, small, shown),
    )


def _data(posts: Sequence[_Post], small: Sequence[str], shown: ShownPosts) -> Mapping[str, Any]:
    """Return what the page's script reads."""
    rows = []
    for post, uri in zip(posts, small, strict=True):
        best = np.argsort(-post.outputs, kind="stable")[:_OUTPUTS]
        rows.append({
            "row": post.row, "id": post.id, "true": post.true, "label": post.label,
            "outputs": [[int(i), round(float(post.outputs[i]), 4)] for i in best],
            "shares": [None if np.isnan(share) else round(share, 4) for share in post.shares],
            "texts": post.texts, "image": uri,
        })  # fmt: skip
    return {
        "outputs": list(shown.task.outputs), "kind": shown.task.target_type, "posts": rows,
        "fields": [one.name for one in shown.fields], "shares": any(np.isfinite(post.shares).any() for post in posts),
    }  # fmt: skip


def _thumbnails(posts: Sequence[_Post]) -> list[str]:
    """Return the thumbnail of every post; where not all fit, the most confident errors have theirs first."""
    order = sorted(range(len(posts)), key=lambda i: (not posts[i].wrong, -posts[i].outputs.max(initial=0)))
    order = [i for i in order if posts[i].image is not None]
    made = thumbnails([posts[i].image for i in order], side=_side(len(posts)))
    found = dict(zip(order, made, strict=True))
    return [found.get(i, "") for i in range(len(posts))]


def _side(n: int) -> int:
    return next(side for most, side in _SIDES if n <= most or most == LIMIT)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _names(label: str) -> list[str]:
    return [name for name in label.split(LABEL_SEPARATOR) if name]
