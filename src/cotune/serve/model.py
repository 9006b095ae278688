"""One model that is served: what it says of posts, and why."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cotune.data.tables.cells import FIELD_LABEL, LABEL_SEPARATOR
from cotune.errors import CotuneError, DataError
from cotune.scoring import Scorer, Scores
from cotune.serve.limits import Limits, RefusedError
from cotune.serve.posts import PostReader, ReadPost, posts_frame
from cotune.serve.schemas import Model, ModelField, Prediction, Word

if TYPE_CHECKING:
    from cotune.explain.explainer import Explainer
    from cotune.explain.explanation import Explanation

_NOT_SCORED = "the post cannot be scored"
#: Categories beyond this many are not listed.
_LISTED = 200


class ServedModel:
    """A model with a name.

    Parameters
    ----------
    name : str
        What requests call it.
    scorer : Scorer
        Scores its posts.
    limits : Limits
        What a client may send.
    explainer : callable, optional
        Opens what explains its posts; it is called once, when the first explanation is asked for.
    tell : callable, optional
        Takes an exception that nobody foresaw.
    """

    def __init__(
        self,
        name: str,
        scorer: Scorer[Any],
        limits: Limits,
        *,
        explainer: Callable[[], Explainer] | None = None,
        tell: Callable[[Exception], None] | None = None,
    ) -> None:
        scorer.quotes = False
        self.name, self.scorer, self.task = name, scorer, scorer.task
        self.engine = getattr(scorer, "engine", "torch")
        self.run = scorer.weights_hash
        self.columns = scorer.table_columns()
        self.reader = PostReader(scorer.fields, self.columns, limits)
        self._open, self._tell = explainer, tell
        self._explainer: Explainer | None = None
        self._opening = Lock()

    @property
    def explains(self) -> bool:
        """Whether it can say why."""
        return self._open is not None

    def describe(self) -> Model:
        """Return what clients need to know to use it."""
        labels = list(self.task.outputs) if self.task.text_label else None
        cuts = getattr(self.task, "thresholds", None)
        categories = {
            name: {c.name: list(c.values) for c in columns if c.kind == "category" and len(c.values) <= _LISTED}
            for name, columns in self.columns.items()
        }
        return Model(
            name=self.name,
            task=self.task.name,
            labels=labels,
            thresholds=None if cuts is None else dict(zip(self.task.outputs, map(float, cuts), strict=True)),
            fields=[
                ModelField(
                    name=each.name,
                    kind=each.kind,
                    columns=list(each.columns) if each.kind == "table" else [],
                    categories=categories.get(each.name, {}),
                )
                for each in self.scorer.fields
            ],
            run=self.run,
            engine=self.engine,
            explains=self.explains,
        )

    def sample(self) -> dict[str, Any]:
        """Return the fields of a post that has all that the model reads, as a JSON request has them."""
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), (120, 160, 200)).save(buffer, "PNG")
        plain = {"text": "what a lovely day", "image": base64.b64encode(buffer.getvalue()).decode()}
        return {
            name: plain.get(each.kind)
            or {column.name: column.values[0] if column.values else 1 for column in self.columns.get(name, ())}
            for name, each in self.reader.fields.items()
        }

    def warm_up(self) -> None:
        """Score a post, so that the first client does not wait for what is set up then.

        Raises
        ------
        CotuneError
            If there is no prediction.
        """
        (found,) = self.score([self.reader.read(self.sample(), "fields")])
        if found.label is None:
            raise CotuneError(f"the model {self.name} gives no prediction: {found.error}")

    # ---- predictions -----------------------------------------------------------------------------------

    def score(self, posts: Sequence[ReadPost]) -> list[Prediction]:
        """Return a prediction for every post, in order.

        A post that nobody foresaw spoils no other: where a batch fails, its posts are scored one by one.
        """
        try:
            return self._score(posts)
        except Exception as error:
            if len(posts) > 1:
                return [found for post in posts for found in self.score([post])]
            self._note(error)
            posts[0].fault = posts[0].fault or _NOT_SCORED
            return [self._nothing(posts[0])]

    def _note(self, error: Exception) -> None:
        if self._tell is not None:
            self._tell(error)

    def _score(self, posts: Sequence[ReadPost]) -> list[Prediction]:
        usable = [i for i, post in enumerate(posts) if post.fault is None]
        answers: list[Prediction | None] = [None] * len(posts)
        if usable:
            frame = posts_frame([posts[i] for i in usable], self.scorer.fields)
            scores = self.scorer.scores(frame)
            found, shares, errors = scores.predictions, scores.shares, scores.errors
            known = ~np.isnan(found[:, 0])
            labels = iter(self.task.decode(found[known]))
            for at, i in enumerate(usable):
                if known[at]:
                    named = dict(zip(self.scorer.field_names, map(float, shares[at]), strict=True))
                    answers[i] = self._prediction(posts[i], next(labels), found[at], named, errors[at])
                else:
                    posts[i].fault = errors[at] or _NOT_SCORED
                    answers[i] = self._nothing(posts[i])
            _note_known([answers[i] for i in usable], scores)
        return [self._nothing(post) if found is None else found for post, found in zip(posts, answers, strict=True)]

    def _prediction(
        self, post: ReadPost, label: Any, outputs: Sequence[float], shares: Mapping[str, float], error: str
    ) -> Prediction:
        text = self.task.text_label
        several = self.task.target_type == "multilabel-indicator"
        return Prediction(
            id=post.id,
            label=_labels(label) if several else label if text else float(label),
            probabilities=dict(zip(self.task.outputs, map(float, outputs), strict=False)) if text else None,
            value=None if text else float(label),
            **self._further(outputs),
            shares={name: share if math.isfinite(share) else 0.0 for name, share in shares.items()},
            error="; ".join(filter(None, [*post.notes, error])) or None,
        )

    def _further(self, outputs: Sequence[float]) -> dict[str, Any]:
        """Return what there is of fields, where the predictions hold more than the outputs."""
        names = self.task.columns()[len(self.task.outputs) :]
        rest = outputs[len(self.task.outputs) :]
        if not names or not len(rest):
            return {}
        labels = self.task.decode_fields(np.asarray(outputs)[None])
        fields = {column.removeprefix(FIELD_LABEL): found[0] for column, found in labels.items()}
        return {"field_labels": fields, "further": dict(zip(names, map(float, rest), strict=True))}

    def _nothing(self, post: ReadPost) -> Prediction:
        error = "; ".join(filter(None, [*post.notes, post.fault]))
        return Prediction(id=post.id, label=None, probabilities=None, value=None, shares={}, error=error)

    # ---- explanations ----------------------------------------------------------------------------------

    def explain(self, posts: Sequence[ReadPost]) -> list[dict[str, Any]]:
        """Return why one post is predicted as it is, as :class:`~cotune.serve.schemas.ExplainAnswer` has it.

        Raises
        ------
        RefusedError
            If the post cannot be scored, or the model explains nothing.
        """
        (post,) = posts
        found = self._explained(post)
        shares = {name: float(share) for name, share in found.shares.items()}
        outputs = [*(found.predictions[name] for name in self.task.outputs), *found.further.values()]
        return [{
            "prediction": self._prediction(post, found.label, outputs, shares, ""),
            "explained": found.explained,
            "scale": found.scale,
            "base": found.base[found.explained],
            "contributions": {name: part[found.explained] for name, part in found.parts.items()},
            "words": {
                name: [Word(word=w.text, start=w.start, end=w.end, value=w.gradient) for w in words.words]
                for name, words in found.words.items()
            },
            "overlays": _overlays(found),
        }]  # fmt: skip

    def _explained(self, post: ReadPost) -> Explanation:
        if post.fault is not None:
            raise RefusedError(post.fault_status, "unusable_post", post.fault)
        with self._opening:
            if self._explainer is None:
                assert self._open is not None
                self._explainer = self._open()
                self._explainer.quotes = False
        try:
            words = find_spec("captum") is not None
            return self._explainer.explain(posts_frame([post], self.scorer.fields), words=words)
        except DataError as error:
            raise RefusedError(422, "unusable_post", str(error)) from error
        except Exception as error:
            self._note(error)
            raise RefusedError(422, "unusable_post", "the post cannot be explained") from error


def _labels(label: str) -> list[str]:
    return [] if label == LABEL_SEPARATOR else label.split(LABEL_SEPARATOR)


def _overlays(found: Explanation) -> dict[str, str]:
    from cotune.report.overlay import overlay
    from cotune.report.thumbnails import data_url

    return {
        name: data_url(overlay(part.image, part.pixels.map, part.pixels.patches, part.frame), kind="PNG")
        for name, part in found.images.items()
        if part.pixels is not None
    }


def _note_known(answers: Sequence[Prediction | None], scores: Scores) -> None:
    """Say which known images posts show, if any are looked for."""
    for answer, name, distance in zip(answers, *(scores.known or ((), ())), strict=False):
        if answer is not None and name is not None:
            answer.known, answer.known_distance = name, int(distance)
