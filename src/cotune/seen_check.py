"""Whether posts that are scored were seen in training, and what to tell of them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.duplicates import fingerprints
from cotune.data.posts import PostsHash
from cotune.data.seen import NEAR, NEW, SAME, PostKeys
from cotune.metrics import Evaluation
from cotune.report.numbers import plural
from cotune.scoring import Scorer
from cotune.tasks import Task

#: How notes end on posts that a run has seen before it was scored on them.
TOO_HIGH = "on new posts it will score lower"
SEEN_POSTS = f"these are the posts that the run was trained on; {TOO_HIGH}"


@dataclass(frozen=True)
class SeenFound:
    """What a model has seen of some posts.

    Attributes
    ----------
    whole : bool
        Whether they are the very table that it was trained on.
    found : ndarray or None
        What each post is, as :meth:`~cotune.data.seen.SeenPosts.compare` gives it, of all posts; None if unknown.
    watched : ndarray or None
        Which of them it was stopped by, or its thresholds chosen on.
    scored : ndarray of bool
        The posts that count.
    """

    whole: bool
    found: np.ndarray | None
    watched: np.ndarray | None
    scored: np.ndarray

    @property
    def trained(self) -> np.ndarray:
        """Which of all posts were trained on, or are near-duplicates of such posts."""
        return np.zeros(len(self.scored), dtype=bool) if self.found is None else self.found != NEW

    def counts(self) -> dict[str, int]:
        """Return how many of the scored posts are the same, near-duplicates, and watched; nothing if unknown."""
        if self.found is None or self.watched is None:
            return {}
        found = self.found[self.scored]
        return {"same": int((found == SAME).sum()), "near": int((found == NEAR).sum()),
                "watched": int(self.watched[self.scored].sum())}  # fmt: skip

    def notes(self, *, without: tuple[Task, Evaluation] | None = None, left_out: bool = False) -> list[str]:
        """Return what to tell.

        Parameters
        ----------
        without : (Task, Evaluation), optional
            The scores of the other posts.
        left_out : bool
            Whether posts that were trained on are not scored.
        """
        counts = self.counts()
        same, near = counts.get("same", 0), counts.get("near", 0)
        n, notes = int(self.scored.sum()), []
        if same + near or self.whole:
            told = f"{same + near:,} of {plural(n, 'post')} {'was' if same + near == 1 else 'were'} trained on"
            told += f" ({same:,} the same, {near:,} nearly the same)" if near else ""
            if left_out and same + near:
                notes.append(f"{told}, left out of the scores")
            elif same == n or not same + near:
                notes.append(SEEN_POSTS)
            else:
                task, rest = without or (None, None)
                score = None if task is None or rest is None else rest.scores.get(task.main_score)
                if task is not None and rest is not None and score is not None and np.isfinite(score.value):
                    told += f"; without them the {task.main_title} is {score.value:.3f} on {plural(rest.n, 'post')}"
                notes.append(f"{told}; {TOO_HIGH}")
        if watched := counts.get("watched"):
            notes.append(
                f"{watched:,} of {plural(n, 'post')} decided when training stopped or where labels are cut, so that "
                "their scores are a little too high"
            )
        return notes


class SeenCheck:
    """Finds out which of the posts that are fed to it a model was trained on.

    Parameters
    ----------
    predictor : Scorer
        The model. One without hashes of its posts tells only whether the whole table is that of its training.
    """

    def __init__(self, predictor: Scorer[Any]) -> None:
        self._predictor = predictor
        # An image that serves exports does without what near-duplicates are found by.
        able = find_spec("imagehash") is not None
        self._seen = predictor.seen if able else None
        self._fields = [f for f in predictor.fields if self._seen is not None and f.name in self._seen.fields]
        self._keys: list[PostKeys] = []
        self._known: dict[str, str] = {}
        self._hash = PostsHash(predictor.fields, self._known)

    def update(self, posts: pd.DataFrame) -> None:
        """Add the next posts."""
        self._known.clear()
        if self._seen is not None:
            marks = {f.name: fingerprints(posts[f.name]) for f in self._fields if f.kind == "image" and f.name in posts}
            self._keys.append(PostKeys.of(posts, self._fields, marks))
            for name, found in marks.items():  # so that no file is read again for its hash
                paths = zip(posts[name], found, strict=True)
                self._known.update({p: m.key for p, m in paths if isinstance(p, str) and m is not None and m.readable})
        self._hash.update(posts)

    def found(self, scored: np.ndarray | None = None) -> SeenFound:
        """Return what is known of all posts; `scored` says which of them count, by default all."""
        whole = self._hash.hexdigest() == self._predictor.data_hash
        if self._seen is None or not self._keys:
            return SeenFound(whole, None, None, np.zeros(0, dtype=bool) if scored is None else scored)
        keys = PostKeys.joined(self._keys)
        return SeenFound(whole, *self._seen.compare(keys), np.ones(len(keys), bool) if scored is None else scored)
