"""The second pass over a table: words and pixels of some posts, samples for what all posts have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cotune.data.kept_chunks import KeptChunks, read_kept
from cotune.data.posts import has_text
from cotune.errors import DataError
from cotune.explain.emap import additive_outputs, can_project
from cotune.explain.explainer import Explainer
from cotune.explain.explanation import Explanation
from cotune.explain.table.summary import TableSummary, TopWords
from cotune.files import to_json, write_text
from cotune.heads import Embeddings
from cotune.heads.base import concatenate
from cotune.ownership import EXPLANATIONS
from cotune.progress import Progress
from cotune.report.thumbnails import thumbnail

_SNIPPET = 200
#: Posts, at most, that have a thumbnail; some 5 kB each are held in memory.
_THUMBNAILS = 500


@dataclass(frozen=True)
class ExplainPlan:
    """What is to be explained of a table.

    Attributes
    ----------
    limit : int
        Posts whose words and pixels are explained, and the length of each list of posts.
    find : str or None
        The list that those posts are taken from (see :data:`~cotune.explain.table.summary.LISTS`); None takes
        some of each.
    words, pixels : bool
        Whether to explain words and pixels.
    emap : int
        Posts, at most, for the additive projection; their square is the number of passes through the head.
    word_posts : int
        Posts, at most, whose words the top words of each class are counted over.
    seed : int
        Of the drawing of those posts.
    """

    limit: int = 20
    find: str | None = None
    words: bool = True
    pixels: bool = True
    emap: int = 500
    word_posts: int = 200
    seed: int = 0


class Kept(KeptChunks):
    """Finished chunks and explanations of a run that may be stopped.

    Parameters
    ----------
    folder : Path
        Where they are kept.
    key : mapping
        What they depend on; what was kept under another key is removed.
    """

    files = (*KeptChunks.files, "post-*.json")

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        super().__init__(folder, key, EXPLANATIONS)

    def post(self, row: int) -> Path:
        """Return the file of a post's explanation."""
        return self.folder / f"post-{row:09}.json"


class SecondPass:
    """Visits every post that something more is wanted of.

    Parameters
    ----------
    explainer : Explainer
        The run.
    plan : ExplainPlan
        How much to explain.
    summary : TableSummary
        Of the first pass.
    lists : dict
        The lists of posts; each record gets the beginning of its text as ``snippet``.
    kept : Kept or None
        What is done already; None where no results are written, and then the lists are all that is wanted.
    tell : callable, optional
        Takes row and explanation of each chosen post.
    """

    def __init__(
        self,
        explainer: Explainer,
        plan: ExplainPlan,
        summary: TableSummary,
        lists: Mapping[str, list[dict[str, Any]]],
        kept: Kept | None,
        tell: Callable[[int, Explanation], None] | None,
    ) -> None:
        self.explainer, self.plan, self.kept, self.tell = explainer, plan, kept, tell
        written = kept is not None
        head, task = explainer.model.head, explainer.run.task
        self.texts = [name for name, kind in explainer.kinds.items() if kind == "text"]
        read = [name for name in self.texts if name in head.fields]
        self.word_field = read[0] if read and task.text_label else None
        self.chosen = set(summary.choose(plan.find, plan.limit)) if written or tell is not None else set()
        project = written and can_project(head) and task.text_label
        self.for_emap = set(summary.sample("both", plan.emap, plan.seed)) if project else set()
        count = written and plan.words and self.word_field is not None
        self.for_words = set(summary.sample(str(self.word_field), plan.word_posts, plan.seed)) if count else set()
        self.listed: dict[int, list[dict[str, Any]]] = {}
        for found in lists.values():
            for record in found:
                self.listed.setdefault(int(record["row"]), []).append(record)
        self.images = [name for name, kind in explainer.kinds.items() if kind == "image"]
        first = [int(record["row"]) for turn in zip_longest(*lists.values()) for record in turn if record is not None]
        shown = list(dict.fromkeys([*sorted(self.chosen), *first]))[:_THUMBNAILS]
        self.for_thumbnails = set(shown) if written and self.images else set()
        self.thumbnails: dict[int, str] = {}
        self.explained: dict[int, dict[str, Any]] = {}
        self.failed: dict[int, str] = {}
        self._words = TopWords()
        self._embedded: list[Embeddings] = []
        self._labels: list[str | None] = []

    def run(self, chunks: Iterable[pd.DataFrame], progress: Progress) -> None:
        """Do all that is wanted."""
        single = self.chosen | self.for_words | self.listed.keys() | self.for_thumbnails
        if not single and not self.for_emap:
            return
        for posts in progress.track(self._visits(chunks, single), "words and pixels", len(single)):
            row = int(posts["row"].iloc[0])
            for record in self.listed.get(row, []):
                texts = [posts[name].iloc[0] for name in self.texts if name in posts]
                words = " ".join(" ".join(text.split()) for text in texts if has_text(text))
                record["snippet"] = words[:_SNIPPET] or None
            if row in self.for_thumbnails:
                # Of the first image that can be read.
                small = (thumbnail(posts[name].iloc[0]) for name in self.images if name in posts)
                self.thumbnails[row] = next(filter(None, small), "")
            if row in self.chosen:
                self._explain(row, posts)
            if row not in self.for_words or self.word_field is None:
                continue
            if (found := self.explainer.word_effects(posts, self.word_field)) is not None:
                self._words.add(*found)

    def _visits(self, chunks: Iterable[pd.DataFrame], single: set[int]) -> Iterator[pd.DataFrame]:
        """Yield single posts; posts for the additive projection are embedded a chunk at a time on the way."""
        for posts in chunks:
            sample = posts[posts["row"].isin(self.for_emap)].reset_index(drop=True)
            found = self.explainer.complete_embeddings(sample) if len(sample) else None
            if found is not None:  # images may have gone since the first pass
                self._embedded.append(found[0])
                self._labels += sample["label"].iloc[found[1]].tolist()
            for at in np.flatnonzero(posts["row"].isin(single).to_numpy()):
                yield posts.iloc[[int(at)]].reset_index(drop=True)

    def _explain(self, row: int, post: pd.DataFrame) -> None:
        path = None if self.kept is None else self.kept.post(row)
        done = None if path is None else read_kept(path)
        if isinstance(done, dict) and done.get("row") == row:  # else it is not there, or damaged
            self.explained[row] = done
            return
        try:
            found = self.explainer.explain(post, words=self.plan.words, pixels=self.plan.pixels)
        except DataError as fault:  # the post was fine in the first pass, so its image has gone since
            self.failed[row] = str(fault)
            return
        if self.tell is not None:
            self.tell(row, found)
        self.explained[row] = {"row": row, **found.to_dict()}
        if path is not None:
            # Written after the page, so that what is noted as done has its page.
            write_text(path, to_json(self.explained[row], indent=None))

    def emap(self) -> dict[str, Any] | None:
        """Return what the additive projection of the model would say of the sampled posts; None without any."""
        if not self._embedded:
            return None
        head, task = self.explainer.model.head, self.explainer.run.task
        posts = concatenate(self._embedded)
        with torch.inference_mode():
            whole = head(posts).cpu().double()
        projected = torch.from_numpy(additive_outputs(head, posts))
        predicted, alone = (
            np.asarray(task.decode(task.predictions(part).numpy()), dtype=object) for part in (whole, projected)
        )
        labelled = np.asarray([label is not None and task.problem(label) is None for label in self._labels])
        true = np.asarray(self._labels, dtype=object)
        scores = {
            name: float((answers[labelled] == true[labelled]).mean()) if labelled.any() else None
            for name, answers in (("accuracy", predicted), ("additive_accuracy", alone))
        }
        # A constant added to all logits of a post changes nothing, so it is taken out before sizes are compared.
        logits, additive = ((part - part.mean(dim=1, keepdim=True)).numpy() for part in (whole, projected))
        centred, rest = logits - logits.mean(axis=0), logits - additive
        spread = float((centred**2).sum())
        return {
            "posts": len(logits),
            "same_label": float((predicted == alone).mean()),
            "interaction_variance": float((rest**2).sum()) / spread if spread > 0 else None,
            "labelled": int(labelled.sum()),
            **scores,
        }

    def top_words(self) -> dict[str, list[dict[str, Any]]]:
        """Return the words that support each class most, over the sampled posts."""
        return self._words.ranked(self.explainer.run.classes) if self.for_words else {}

    def word_posts(self) -> dict[str, int]:
        """Return how many posts of each predicted class the top words are counted over."""
        return dict(self._words.posts)
