"""A run, ready to explain: contributions of the fields of many posts, words and pixels of single ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from cotune.data.images.load import ImageFault, load_image
from cotune.data.images.pixels import not_too_long
from cotune.data.posts import has_text
from cotune.data.tables.cells import FIELD_LABEL
from cotune.encoders.crop_geometry import CropGeometry, measure_crop
from cotune.encoders.frozen_engine import FrozenEngines
from cotune.encoders.image import ImageEncoder
from cotune.encoders.text import TextEncoder
from cotune.errors import CotuneError, DataError
from cotune.explain.explanation import Explanation, ImagePart
from cotune.explain.pixels import explain_pixels
from cotune.explain.segments import segment
from cotune.explain.target import Target
from cotune.explain.words import Words, explain_words, left_out
from cotune.heads import Embeddings
from cotune.heads.base import concatenate
from cotune.heads.contributions import Contributions, removed_state
from cotune.model import Batch
from cotune.predict import Predictor
from cotune.report.overlay import LONGEST
from cotune.scoring import NO_NUMBER, share_column
from cotune.tasks.field_scores import CONTRADICTION
from cotune.training.features import Features

#: Parameters times words times versions of a text that take about half a second on two cores.
_MOMENT = 2e10


class Explainer(Predictor):
    """A run, ready to explain posts; it takes what :class:`~cotune.predict.Predictor` takes."""

    def use_engines(self, engines: FrozenEngines, n_posts: int) -> None:
        """Let faster engines encode where no gradients are wanted, if that pays for so many posts.

        Raises
        ------
        CotuneError
            If an engine is asked for by name and cannot run the encoders.
        """
        if self.model.head.needs_states:  # an engine gives embeddings alone
            return
        opened = {
            id(encoder): engines.open(encoder, "pooled", n_posts) for encoder in self.model.distinct_encoders.values()
        }
        found = {name: opened[id(encoder)] for name, encoder in self.model.encoders.items()}
        self.model.engines = {name: engine for name, engine in found.items() if engine is not None}

    def text_columns(self) -> set[str]:
        """Return the columns of a table of contributions that hold text; all others hold numbers."""
        labels = {"label", "true", *(f"{name}_alone" for name in self.field_names)}
        return {"id", "error"} | (labels if self.run.task.text_label else set())

    def contribution_columns(self) -> list[str]:
        """Return the columns of a table of contributions; those of parts are about the output that is explained."""
        names = self.field_names
        return [
            *("id", "row", "label", "true", "confidence", *map(share_column, names), "base", *names),
            *self._interaction_columns(),
            *(f"{name}_alone" for name in names),
            "conflict",
            *([CONTRADICTION] if self.run.task.contradicts else []),
            *(f"{name}:{output}" for name in names for output in self.run.classes),
            "error",
        ]

    def _interaction_columns(self) -> list[str]:
        names = self.field_names
        if len(names) == 2:
            return ["interaction"]
        return [f"interaction:{one}:{other}" for i, one in enumerate(names) for other in names[i + 1 :]]

    def contribution_frame(self, posts: pd.DataFrame) -> pd.DataFrame:
        """Return one row for every post, in order; posts that cannot be scored have an error and no numbers."""
        features, rows, errors = self.read(posts)
        columns, texts = self.contribution_columns(), self.text_columns()
        table: dict[str, np.ndarray] = {
            name: np.full(len(posts), None if name in texts else np.nan, dtype=object if name in texts else float)
            for name in columns
        }
        for at, parts in self.contributions(features, rows):
            known = parts.predictions.isfinite().all(dim=1).cpu().numpy()
            for row in at[~known]:
                errors[int(row)] = NO_NUMBER
            for name, values in self._cells(parts).items():
                table[name][at[known]] = values[known]
        table["id"] = posts["id"].to_numpy()
        table["row"] = posts["row"].to_numpy(dtype=np.int64)
        true = posts["label"].to_numpy()
        table["true"] = (
            true if "true" in texts else pd.to_numeric(posts["label"], errors="coerce").to_numpy(dtype=float)
        )
        table["error"] = np.asarray([error or None for error in errors], dtype=object)
        return pd.DataFrame(table, columns=columns)

    def _cells(self, parts: Contributions) -> dict[str, np.ndarray]:
        numbers = {"confidence": self.run.task.confidence(parts.predictions), "conflict": parts.conflict()}
        if self.run.task.contradicts:
            numbers[CONTRADICTION] = parts.predictions[:, -1]
        numbers |= {share_column(name): share for name, share in parts.shares().items()}
        numbers |= {"base": parts.of_explained(parts.base)}
        numbers |= {name: parts.of_explained(values) for name, values in parts.parts.items()}
        interactions = zip(self._interaction_columns(), parts.interactions.values(), strict=True)
        numbers |= {name: parts.of_explained(values) for name, values in interactions}
        for name, values in parts.parts.items():
            numbers |= {f"{name}:{output}": values[:, i] for i, output in enumerate(self.run.classes)}
        cells = {name: values.cpu().double().numpy() for name, values in numbers.items()}
        for name, values in parts.alone.items():
            cells[f"{name}_alone"] = np.where(
                parts.present[name].cpu().numpy(), self._labels_of(values), self._no_label
            )
        cells["label"] = self._decoded(parts.predictions)
        return cells

    @property
    def _no_label(self) -> Any:
        return None if self.run.task.text_label else np.nan

    def _labels_of(self, values: Tensor) -> np.ndarray:
        """Return the labels that values on the scale of contributions stand for."""
        return self._decoded(self.run.task.from_scale(values))

    def _decoded(self, predictions: Tensor) -> np.ndarray:
        decoded = self.run.task.decode(predictions.cpu().double().numpy())
        return (
            np.asarray([*decoded, None], dtype=object)[:-1]
            if self.run.task.text_label
            else np.asarray(decoded, dtype=float)
        )

    def complete_embeddings(self, posts: pd.DataFrame) -> tuple[Embeddings, np.ndarray] | None:
        """Return the embeddings of those posts that have all fields, in order, and which they are; None if none is."""
        features, rows, _ = self.read(posts)
        order: list[int] = []
        found: list[Embeddings] = []
        for batch, embeddings in self.embedded(features, rows):
            order += cast(Tensor, batch.rows).tolist()
            found.append(embeddings)
        if not found:
            return None
        whole = concatenate(found)
        complete = whole.present.all(dim=1).cpu().numpy()
        back = np.argsort(order)
        back = back[complete[back]]
        if not len(back):
            return None
        return whole.rows(torch.from_numpy(back).to(self.device)), np.asarray(order)[back]

    def explain(
        self, post: pd.DataFrame, *, words: bool = True, pixels: bool = True, steps: int | None = None
    ) -> Explanation:
        """Explain one post.

        Parameters
        ----------
        post : DataFrame
            One row, as :func:`cotune.data.posts.read_posts` gives it.
        words, pixels : bool
            Whether to ask what each word and each part of the image did.
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
        features, rows, errors = self.read(post)
        if not len(rows):
            raise DataError(f"the post cannot be explained: {errors[0]}")
        parts = next(self.contributions(features, rows))[1]
        if not bool(parts.predictions.isfinite().all()):
            raise DataError(f"the post cannot be explained: {NO_NUMBER}")
        given = post.iloc[0]
        batch = self._batch(features)
        index = int(parts.explained()[0])
        drove: dict[str, Words] = {}
        seen: dict[str, ImagePart] = {}
        for name in self.model.encoders:
            here = bool(parts.present[name][0])
            if self.kinds[name] == "text" and words and here:
                drove[name] = explain_words(self._target(batch, name, index), given[name], steps=steps)
            elif self.kinds[name] == "image" and name in batch.inputs:
                image, frame = self._image(name, given[name])
                found = None
                if pixels and here:
                    found = explain_pixels(self._target(batch, name, index), batch.inputs[name]["pixels"])
                seen[name] = ImagePart(found, image, frame)
        return self._result(given, parts, errors[0], words=drove, images=seen)

    def word_effects(self, post: pd.DataFrame, field: str, *, steps: int = 16) -> tuple[str, Words] | None:
        """Return the predicted label of one post and, by a few steps of gradients alone, what its words did to it.

        None for a post without that text or without a prediction.
        """
        features, rows, _ = self.read(post)
        if not len(rows) or not bool(features.fields[field].present[0]):
            return None
        target = self._target(self._batch(features), field)
        words = explain_words(target, post[field].iloc[0], steps=steps, leave_out=False)
        return self.run.classes[target.index], words

    def pushing_words(self, post: pd.DataFrame) -> dict[str, tuple[str, list[tuple[str, float]]]]:
        """Return by text field the explained output of one post, and what it loses without each word.

        Words come by the size of what is lost, on the task's scale. A text whose words cost more than a moment to
        leave out, for its length and the size of its encoder, is not among them, nor one that cannot be taken apart.
        """
        features, rows, _ = self.read(post)
        found: dict[str, tuple[str, list[tuple[str, float]]]] = {}
        for name, encoder in self.model.encoders.items() if len(rows) else ():
            if self.kinds[name] != "text" or not bool(features.fields[name].present[0]):
                continue
            with suppress(CotuneError):
                parts = segment(cast(TextEncoder, encoder), post[name].iloc[0])
                size = sum(parameter.numel() for parameter in encoder.parameters())
                if len(parts.words) ** 2 * size > _MOMENT:
                    continue
                target = self._target(self._batch(features), name)
                words = zip(map(parts.word, range(len(parts.words))), left_out(target, parts).tolist(), strict=True)
                found[name] = self.run.task.outputs[target.index], sorted(words, key=lambda word: -abs(word[1]))
        return found

    def target(self, post: pd.DataFrame, field: str) -> tuple[Target, Batch]:
        """Return the target of explanations of one field of a post that can be scored, and the post's inputs."""
        features, rows, errors = self.read(post)
        if not len(rows):
            raise DataError(f"the post cannot be explained: {errors[0]}")
        batch = self._batch(features)
        return self._target(batch, field), batch

    def _batch(self, features: Features) -> Batch:
        raw = dict.fromkeys(self.model.encoders, "raw")
        return features.batch(np.zeros(1, dtype=np.int64), raw).to(self.device)

    def _target(self, batch: Batch, field: str, index: int | None = None) -> Target:
        return Target(self.model, batch, field, index, batch_size=min(32, self.batch_size))

    def _result(
        self, given: Any, parts: Contributions, error: str, *, words: dict[str, Words], images: dict[str, ImagePart]
    ) -> Explanation:
        task, cells = self.run.task, self._cells(parts)

        def by_output(values: Tensor) -> dict[str, float]:
            return dict(zip(task.outputs, task.of_classes(values)[0].cpu().double().tolist(), strict=True))

        label = cells["label"][0]
        fields = self.kinds
        texts = {name: given[name] for name, kind in fields.items() if kind == "text" and name in given}
        return Explanation(
            id=given["id"],
            fields=fields,
            texts={name: text if has_text(text) else None for name, text in texts.items()},
            label=label if task.text_label else float(label),
            true=_true(given["label"], text=task.text_label),
            explained=task.outputs[int(parts.explained()[0])],
            scale=task.scale,
            predictions=by_output(parts.predictions),
            base=by_output(parts.base),
            parts={name: by_output(values) for name, values in parts.parts.items()},
            interactions={pair: by_output(values) for pair, values in parts.interactions.items()},
            shares={name: float(share[0]) for name, share in parts.shares().items()},
            alone={name: _nothing(cells[f"{name}_alone"][0]) for name in fields},
            conflict=float(cells["conflict"][0]),
            removed=removed_state(self.model.head, fields),
            words=words,
            images=images,
            notes=tuple(self._notes(parts, error)),
            **self._of_fields(parts.predictions[0].cpu().double().numpy()),
        )

    def _of_fields(self, predictions: np.ndarray) -> dict[str, Any]:
        """Return what is predicted of single fields, and of a contradiction between them."""
        task = self.run.task
        names = task.columns()[len(task.outputs) :]
        if not names:
            return {}
        labels = task.decode_fields(predictions[None])
        return {
            "field_labels": {column.removeprefix(FIELD_LABEL): found[0] for column, found in labels.items()},
            "further": dict(zip(names, predictions[len(task.outputs) :].tolist(), strict=True)),
        }

    def _notes(self, parts: Contributions, error: str) -> Iterator[str]:
        if error:
            yield error
        reads = self.model.head.fields
        there = [name for name in reads if bool(parts.present[name][0])]
        if len(reads) == 1:
            yield f"This run reads the {reads[0]} alone."
        elif len(there) == 1 and not (error and there == ["text"]):
            lacking = " and no ".join(name for name in reads if name not in there)
            yield f"The post has no {lacking}; the {there[0]} has the whole share."
        if "zeros" in removed_state(self.model.head, reads).values():
            yield (
                "This run was trained without absent fields: an embedding of zeros stands in for what is taken "
                "away, which the head has never seen, so read the shares with care."
            )

    def _image(self, field: str, given: Any) -> tuple[Image.Image, CropGeometry]:
        """Return an image, and what part of it the encoder sees."""
        encoder = cast(ImageEncoder, self.model.encoders[field])
        side = max(2 * max(encoder.preprocessor.size), LONGEST)
        try:
            whole = load_image(given, allow_remote=self.allow_remote, min_side=side)
        except ImageFault as fault:  # it could be read a moment ago
            raise DataError(f"the image has changed while it was explained: {fault}") from fault
        kept = not_too_long(whole)
        frame = measure_crop(encoder.preprocessor, kept.size)
        if kept.size != whole.size:
            frame = _widen(frame, kept.size, whole.size)
        whole.thumbnail((2 * LONGEST, 2 * LONGEST))
        return whole, frame


def _true(label: Any, *, text: bool) -> Any:
    """Return a post's own label; a number, if that is what is predicted."""
    if label is None or text:
        return label
    return _nothing(float(pd.to_numeric(label, errors="coerce")))


def _nothing(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value


def _widen(frame: CropGeometry, kept: tuple[int, int], whole: tuple[int, int]) -> CropGeometry:
    """Turn places in the middle part of an image into places in the whole."""
    left, top = ((w - k) // 2 / w for k, w in zip(kept, whole, strict=True))
    across, down = (k / w for k, w in zip(kept, whole, strict=True))
    return CropGeometry(
        left + frame.left * across, top + frame.top * down, left + frame.right * across, top + frame.bottom * down
    )
