"""Fusion that needs more than two embeddings and one loss, as methods beside `joint` and `concat`.

    PYTHONPATH=benchmarks cotune bench posts.csv --out DIR --folds 5 --emap 0 --plugin fusion_beyond_heads \
        --methods joint,concat,auxiliary,words-and-patches,many-heads

`auxiliary` adds a loss for each modality alone, `words-and-patches` lets the two modality tokens attend to every word
of the text and every patch of the picture, and `many-heads` puts six heads on one pair of encoders. What they change in
the model or its loss they change while they train and score, nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from cotune.benchmark import METHODS, Method, Outcome
from cotune.benchmark.methods import Task, fit
from cotune.heads import HEADS, FusionHead, make_head
from cotune.heads.attention import AttentionHead
from cotune.heads.base import drop_modalities
from cotune.model import Batch, JointModel
from cotune.training import loop, recipe


class _PartsHead(FusionHead):
    """Several heads on the same embeddings, each with a loss of its own: in training logits of shape (B, parts, C)."""

    def __init__(
        self, text_dim: int, image_dim: int, n_classes: int, *, modality_dropout: float = 0.1, **more: Any
    ) -> None:
        super().__init__(text_dim, image_dim, n_classes, modality_dropout=modality_dropout)
        self.more = more
        sizes = {"text": (text_dim, 0), "image": (0, image_dim)}
        self.parts = nn.ModuleList(
            make_head(
                name,
                *sizes.get(name, (text_dim, image_dim)),
                n_classes,
                modality_dropout=modality_dropout,
                **more,
            )
            for name in self.part_names()
        )

    def part_names(self) -> list[str]:
        """Return the names of the heads, the one or ones that answer first."""
        raise NotImplementedError

    def forward(self, text: Tensor, image: Tensor, present: Tensor) -> Tensor:
        logits = torch.stack([part(*_used(part, text, image), present) for part in self.parts], dim=1)
        return logits if self.training else self.answer(logits)

    def answer(self, logits: Tensor) -> Tensor:
        """Return logits (B, C) from those of all parts."""
        raise NotImplementedError

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        return self.answer(torch.stack([part.fuse(*_used(part, text, image)) for part in self.parts], dim=1))

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **self.more}


def _used(head: FusionHead, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the embeddings with those that the head does not use left empty."""
    return (text if "text" in head.uses else text[:, :0], image if "image" in head.uses else image[:, :0])


@HEADS.register("auxiliary")
class AuxiliaryHead(_PartsHead):
    """Attention answers; a head of the text alone and one of the image alone learn beside it."""

    def part_names(self) -> list[str]:
        return ["attention", "text", "image"]

    def answer(self, logits: Tensor) -> Tensor:
        return logits[:, 0]


@HEADS.register("many-heads")
class ManyHeads(_PartsHead):
    """Three attention and three `concat` heads; their mean probabilities answer."""

    def part_names(self) -> list[str]:
        return ["attention"] * 3 + ["concat"] * 3

    def answer(self, logits: Tensor) -> Tensor:
        return torch.logsumexp(torch.log_softmax(logits, dim=-1), dim=1)


class PartsLoss(nn.CrossEntropyLoss):
    """Cross-entropy, where there are several answers to a post the mean over them."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        parts = logits.unbind(1) if logits.ndim == 3 else [logits]
        return torch.stack([super(PartsLoss, self).forward(part, labels) for part in parts]).mean()


@HEADS.register("words-and-patches")
class WordsAndPatchesHead(AttentionHead):
    """The two modality tokens attend to one another, to every word and to every patch.

    Without states, as in the probe, it is the attention head.
    """

    def fuse_states(self, text: Tensor, image: Tensor, states: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return logits from embeddings and, for each modality, states (B, T, dim) with their mask (B, T)."""
        text, image = self.dropout(text), self.dropout(image)
        tokens = self._tokens(text, image)
        seen, hidden = [tokens], [torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)]
        for (values, mask), project, mark in zip(
            states, (self.project_text, self.project_image), self.modality_embedding, strict=True
        ):
            seen.append(project(self.dropout(values)) + mark)
            hidden.append(~mask)
        keys = torch.cat(seen, dim=1)
        attended, _ = self.attention(tokens, keys, keys, key_padding_mask=torch.cat(hidden, dim=1), need_weights=False)
        parts = [self.norm(tokens + self.dropout(attended)).flatten(1)]
        if self.hidden is not None:
            parts.append(torch.relu(self.hidden(torch.cat([text, image], dim=1))))
        logits: Tensor = self.output(self.dropout(torch.cat(parts, dim=1)))
        return logits


class StatesModel(JointModel):
    """A joint model that hands the encoders' states to its head."""

    head: WordsAndPatchesHead

    def forward(self, batch: Batch) -> Tensor:
        present = batch.present
        if self.head.training and self.head.modality_dropout > 0:
            present = drop_modalities(present, self.head.modality_dropout)
        pooled, states = [], []
        for column, (name, encoder) in enumerate(self.encoders.items()):
            rows = batch.present[:, column].nonzero().squeeze(1)
            output = encoder(batch.inputs[name]) if len(rows) else None
            vectors = torch.zeros((len(batch), encoder.dim), device=present.device)
            values = vectors.unsqueeze(1)  # where there are none: one state that nobody sees
            mask = torch.zeros(values.shape[:2], dtype=torch.bool, device=present.device)
            if output is not None:
                vectors = vectors.index_put((rows,), output.pooled.float())
            if output is not None and output.states is not None:
                own = output.mask
                own = torch.ones(output.states.shape[:2], dtype=torch.bool, device=rows.device) if own is None else own
                values = values.repeat(1, own.shape[1], 1).index_put((rows,), output.states.float())
                mask = mask.repeat(1, own.shape[1]).index_put((rows,), own)
            pooled.append(vectors)
            states.append((values, mask & present[:, column : column + 1]))
        text, image = self.head.stand_in(pooled[0], pooled[1], present)
        return self.head.fuse_states(text, image, states)


def while_fitting(
    change: Callable[[], AbstractContextManager[Any]], *, projected: bool = True
) -> Callable[[Task], Outcome]:
    """Return the recipe of ``cotune fit`` under a change; `projected` says whether EMAP may be computed with it."""

    def run(task: Task) -> Outcome:
        with change():
            return fit(task if projected else replace(task, emap=0))

    return run


_parts = while_fitting(lambda: mock.patch.object(loop.nn, "CrossEntropyLoss", PartsLoss))
# EMAP, and the scores that come with it, are made from the two embeddings alone; this head reads more.
_states = while_fitting(lambda: mock.patch.object(recipe, "JointModel", StatesModel), projected=False)
for _name, _title, _run in (
    ("auxiliary", "Attention, a loss for each modality", _parts),
    ("words-and-patches", "Attention over words and patches", _states),
    ("many-heads", "Six heads on the same encoders", _parts),
):
    METHODS.add(_name, Method(_title, run=_run, settings={"fusion": _name}))
