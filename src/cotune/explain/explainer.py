"""A run, ready to explain: modality numbers of many posts, words and pixels of single ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from cotune.data.images import ImageFault, load_image
from cotune.data.posts import has_text
from cotune.encoders.crop_geometry import CropGeometry, measure_crop
from cotune.encoders.image import ImageEncoder
from cotune.errors import DataError
from cotune.explain.explanation import Explanation
from cotune.explain.pixels import Pixels, explain_pixels
from cotune.explain.target import Target
from cotune.explain.words import Words, explain_words
from cotune.fusion.contributions import ModalityContributions, modality_contributions, removed_state
from cotune.model import Batch
from cotune.predict import NO_NUMBER, Predictor
from cotune.report.overlay import LONGEST
from cotune.training.features import Features, iterate
from cotune.training.pictures import not_too_long
from cotune.training.prepare import prepare


@dataclass(frozen=True)
class Embedded:
    """Embeddings of posts: shapes (N, text_dim), (N, image_dim) and (N, 2); and which of the given posts they are."""

    text: Tensor
    image: Tensor
    present: Tensor
    positions: np.ndarray


class Explainer(Predictor):
    """A run, ready to explain posts; it takes what :class:`~cotune.predict.Predictor` takes."""

    def modality_columns(self) -> list[str]:
        """Return the columns of a modality table; those of parts are about the predicted class."""
        classes = self.run.classes
        return [
            *("id", "row", "label", "true", "confidence", "text_share", "image_share", "base", "text", "image"),
            *("interaction", "text_alone", "image_alone", "conflict"),
            *(f"text:{name}" for name in classes),
            *(f"image:{name}" for name in classes),
            "error",
        ]

    def modality_frame(self, posts: pd.DataFrame) -> pd.DataFrame:
        """Return one row for every post, in order; posts that cannot be scored have an error and no numbers."""
        features, rows, errors = self._features(posts)
        table: dict[str, np.ndarray] = {
            name: np.full(len(posts), None if name in WORDS else np.nan, dtype=object if name in WORDS else float)
            for name in self.modality_columns()
        }
        for at, parts in self._contributions(features, rows):
            known = parts.proba.isfinite().all(dim=1).cpu().numpy()
            for row in at[~known]:
                errors[int(row)] = NO_NUMBER
            for name, values in self._cells(parts).items():
                table[name][at[known]] = values[known]
        table["id"] = posts["id"].to_numpy()
        table["row"] = posts["row"].to_numpy(dtype=np.int64)
        table["true"] = posts["label"].to_numpy()
        table["error"] = np.asarray([error or None for error in errors], dtype=object)
        return pd.DataFrame(table, columns=self.modality_columns())

    def _cells(self, parts: ModalityContributions) -> dict[str, Any]:
        classes = np.asarray(self.run.classes, dtype=object)
        top = parts.predicted()
        of_top = {"base": parts.base, "interaction": parts.interaction}
        text, image = parts.of_predicted()
        shares = parts.shares()
        numbers = {
            "confidence": parts.proba.amax(dim=1), "text_share": shares[0], "image_share": shares[1],
            "text": text, "image": image, "conflict": parts.conflict(),
            **{name: values.gather(1, top.unsqueeze(1)).squeeze(1) for name, values in of_top.items()},
        }  # fmt: skip
        for kind, values in (("text", parts.text), ("image", parts.image)):
            numbers |= {f"{kind}:{name}": values[:, i] for i, name in enumerate(self.run.classes)}
        cells: dict[str, Any] = {name: values.cpu().double().numpy() for name, values in numbers.items()}
        here = parts.present.cpu().numpy()
        alone = {"text_alone": parts.text_alone(), "image_alone": parts.image_alone()}
        for column, (name, values) in enumerate(alone.items()):
            labels = classes[values.argmax(dim=1).cpu().numpy()]
            cells[name] = np.where(here[:, column], labels, None)
        return {**cells, "label": classes[top.cpu().numpy()]}

    def embeddings(self, posts: pd.DataFrame) -> Embedded | None:
        """Return both embeddings of those posts that have text and picture, in their order; None if none has."""
        features, rows, _ = self._features(posts)
        order: list[int] = []
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for batch, text, image in self._passes(features, rows):
            order += cast(Tensor, batch.rows).tolist()
            found.append((text, image, batch.present))
        if not found:
            return None
        text, image, present = (torch.cat(parts) for parts in zip(*found, strict=True))
        both = present.all(dim=1).cpu().numpy()
        back = np.argsort(order)
        back = back[both[back]]
        if not len(back):
            return None
        at = torch.from_numpy(back).to(self.fabric.device)
        return Embedded(text[at], image[at], present[at], np.asarray(order)[back])

    def explain(
        self, post: pd.DataFrame, *, words: bool = True, pixels: bool = True, steps: int | None = None
    ) -> Explanation:
        """Explain one post.

        Parameters
        ----------
        post : DataFrame
            One row, as :func:`cotune.data.posts.read_posts` gives it.
        words, pixels : bool
            Whether to ask what each word and each part of the picture did.
        steps : int, optional
            Points on the line of integrated gradients over words; by default as many as it takes.

        Raises
        ------
        DataError
            If the post cannot be scored.
        CotuneError
            If a method needs captum and it is not installed.
        """
        if len(post) != 1:
            raise DataError(f"one post is explained at a time, not {len(post)}; `cotune explain` takes whole tables")
        features, rows, errors = self._features(post)
        if not len(rows):
            raise DataError(f"the post cannot be explained: {errors[0]}")
        parts = next(self._contributions(features, rows))[1]
        if not bool(parts.proba.isfinite().all()):
            raise DataError(f"the post cannot be explained: {NO_NUMBER}")
        given = post.iloc[0]
        target, batch = self._target(features, parts)
        drove: Words | None = None
        if words and bool(parts.present[0, 0]):
            drove = explain_words(target, given["text"], steps=steps)
        seen: Pixels | None = None
        picture, frame = self._picture(given["image"]) if "image" in batch.inputs else (None, None)
        if pixels and bool(parts.present[0, 1]):
            seen = explain_pixels(target, batch.inputs["image"]["pixels"])
        return self._result(given, parts, errors[0], words=drove, pixels=seen, picture=picture, frame=frame)

    def word_effects(self, post: pd.DataFrame, *, steps: int = 16) -> tuple[str, Words] | None:
        """Return the predicted label of one post and, by a few steps of gradients alone, what its words did to it.

        None for a post without a text or without a prediction.
        """
        features, rows, _ = self._features(post)
        if not len(rows) or not bool(features.present[0, 0]):
            return None
        target, _ = self._target(features, None)
        words = explain_words(target, post["text"].iloc[0], steps=steps, leave_out=False)
        return self.run.classes[target.index], words

    def target(self, post: pd.DataFrame) -> tuple[Target, Batch]:
        """Return the target of word and pixel explanations for one post that can be scored, and its inputs."""
        features, rows, errors = self._features(post)
        if not len(rows):
            raise DataError(f"the post cannot be explained: {errors[0]}")
        return self._target(features, None)

    def _target(self, features: Features, parts: ModalityContributions | None) -> tuple[Target, Batch]:
        raw: Any = dict.fromkeys(self.model.encoders, "raw")
        batch = features.batch(np.zeros(1, dtype=np.int64), raw).to(self.fabric.device)
        index = None if parts is None else int(parts.predicted()[0])
        return Target(self.model, batch, index, batch_size=min(32, self.batch_size)), batch

    def _result(
        self, given: Any, parts: ModalityContributions, error: str, *, words: Words | None, pixels: Pixels | None,
        picture: Image.Image | None, frame: CropGeometry | None,
    ) -> Explanation:  # fmt: skip
        cells = self._cells(parts)

        def by_class(values: Tensor) -> dict[str, float]:
            return dict(zip(self.run.classes, values[0].cpu().double().tolist(), strict=True))

        return Explanation(
            id=given["id"],
            text=given["text"] if has_text(given["text"]) else None,
            label=cells["label"][0],
            true=given["label"],
            proba=by_class(parts.proba),
            base=by_class(parts.base),
            text_part=by_class(parts.text),
            image_part=by_class(parts.image),
            interaction=by_class(parts.interaction),
            text_share=float(cells["text_share"][0]),
            image_share=float(cells["image_share"][0]),
            text_alone=cells["text_alone"][0],
            image_alone=cells["image_alone"][0],
            conflict=float(cells["conflict"][0]),
            removed=removed_state(self.model.head),
            words=words,
            pixels=pixels,
            notes=tuple(self._notes(parts, error)),
            picture=picture,
            frame=frame,
        )

    def _notes(self, parts: ModalityContributions, error: str) -> Iterator[str]:
        if error:
            yield error
        text, image = parts.present[0].tolist()
        reads = self.model.head.uses
        if "text" not in reads or "image" not in reads:
            yield f"This run reads the {reads[0]} alone."
        elif not text:
            yield "The post has no text; the image has the whole share."
        elif not image and not error:
            yield "The post has no picture; the text has the whole share."
        state = removed_state(self.model.head)
        if "zeros" in state.values():
            yield (
                "This run was trained without absent modalities: an embedding of zeros stands in for what is taken "
                "away, which the head has never seen, so read the shares with care."
            )

    def _picture(self, image: Any) -> tuple[Image.Image, CropGeometry]:
        """Return the picture, and what part of it the encoder sees."""
        encoder = cast(ImageEncoder, self.model.image)
        side = max(2 * max(encoder.preprocessor.size), LONGEST)
        try:
            whole = load_image(image, allow_remote=self.allow_remote, min_side=side)
        except ImageFault as fault:  # it could be read a moment ago
            raise DataError(f"the picture has changed while it was explained: {fault}") from fault
        kept = not_too_long(whole)
        frame = measure_crop(encoder.preprocessor, kept.size)
        if kept.size != whole.size:
            frame = _widen(frame, kept.size, whole.size)
        whole.thumbnail((2 * LONGEST, 2 * LONGEST))
        return whole, frame

    def _features(self, posts: pd.DataFrame) -> tuple[Features, np.ndarray, list[str]]:
        """Return the prepared posts, the positions of those that can be scored, and what is wrong with each."""
        features = prepare(
            posts, self.model.encoders, root=None, device=self.fabric.device, allow_remote=self.allow_remote
        )
        usable = [bool(features.present[i].any()) and not self._refused(features, i) for i in range(len(posts))]
        return features, np.flatnonzero(usable), self._errors(features)

    def _passes(self, features: Features, rows: np.ndarray) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        sources: Any = dict.fromkeys(self.model.encoders, "raw")
        with torch.inference_mode():
            for batch in iterate(features, rows, sources, self.batch_size) if len(rows) else ():
                moved = batch.to(self.fabric.device)
                yield moved, *self.model.embed(moved)

    def _contributions(
        self, features: Features, rows: np.ndarray
    ) -> Iterator[tuple[np.ndarray, ModalityContributions]]:
        for batch, text, image in self._passes(features, rows):
            with torch.inference_mode():
                parts = modality_contributions(self.model.head, text, image, batch.present)
            yield cast(Tensor, batch.rows).numpy(), parts


#: Columns of a modality table that hold words; all others hold numbers.
WORDS = {"id", "label", "true", "text_alone", "image_alone", "error"}


def _widen(frame: CropGeometry, kept: tuple[int, int], whole: tuple[int, int]) -> CropGeometry:
    """Turn places in the middle part of a picture into places in the whole."""
    left, top = ((w - k) // 2 / w for k, w in zip(kept, whole, strict=True))
    across, down = (k / w for k, w in zip(kept, whole, strict=True))
    return CropGeometry(
        left + frame.left * across, top + frame.top * down, left + frame.right * across, top + frame.bottom * down
    )
