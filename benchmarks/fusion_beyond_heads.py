"""Fusion that needs more than two embeddings and one loss, as methods beside `joint` and `concat`.

    PYTHONPATH=benchmarks cotune bench posts.csv --out DIR --folds 5 --emap 0 --plugin fusion_beyond_heads \
        --methods joint,concat,auxiliary,words-and-patches,many-heads

`auxiliary` adds a loss for each field alone, `words-and-patches` lets the tokens of the fields attend to every word of
the text and every patch of the image, and `many-heads` puts six heads on one pair of encoders, each with a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cotune.benchmark import METHODS, Method
from cotune.benchmark.methods import fit
from cotune.heads import HEADS, Embeddings, FusionHead, make_head
from cotune.heads.attention import AttentionHead


class _PartsHead(FusionHead):
    """Several heads on the same embeddings, each with a loss of its own in training."""

    names: ClassVar[tuple[str, ...]]

    def __init__(self, dims: Mapping[str, int], n_outputs: int, *, modality_dropout: float = 0.1, **more: Any) -> None:
        super().__init__(dims, n_outputs, modality_dropout=modality_dropout)
        self.more = more
        self.reading = [(name,) if name in dims else tuple(dims) for name in self.names]
        self.parts = nn.ModuleList(
            make_head(
                name, {field: dims[field] for field in fields}, n_outputs, modality_dropout=modality_dropout, **more
            )
            for name, fields in zip(self.names, self.reading, strict=True)
        )

    def _logits(self, embeddings: Embeddings) -> list[Tensor]:
        return [part(embeddings.only(own)) for part, own in zip(self.parts, self.reading, strict=True)]

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **self.more}


@HEADS.register("auxiliary")
class AuxiliaryHead(_PartsHead):
    """Attention answers; a head of the text alone and one of the image alone learn beside it."""

    names: ClassVar[tuple[str, ...]] = ("attention", "text", "image")

    def fuse(self, embeddings: Embeddings) -> Tensor:
        outputs: Tensor = self.parts[0].fuse(embeddings)  # type: ignore[operator]
        return outputs

    def own_loss(self, embeddings: Embeddings, outputs: Tensor, targets: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        return torch.stack([loss(logits.float(), targets) for logits in self._logits(embeddings)[1:]]).sum()


@HEADS.register("many-heads")
class ManyHeads(_PartsHead):
    """Three attention and three `concat` heads; their mean probabilities answer."""

    names: ClassVar[tuple[str, ...]] = (*["attention"] * 3, *["concat"] * 3)

    def fuse(self, embeddings: Embeddings) -> Tensor:
        logits = torch.stack([part.fuse(embeddings) for part in self.parts], dim=1)  # type: ignore[operator]
        return torch.logsumexp(torch.log_softmax(logits, dim=-1), dim=1)

    def own_loss(self, embeddings: Embeddings, outputs: Tensor, targets: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        return torch.stack([loss(logits.float(), targets) for logits in self._logits(embeddings)]).mean()


@HEADS.register("words-and-patches")
class WordsAndPatchesHead(AttentionHead):
    """The tokens of the fields attend to one another, to every word and to every patch."""

    needs_states: ClassVar[bool] = True

    def fuse(self, embeddings: Embeddings) -> Tensor:
        given = [self.dropout(embeddings[name]) for name in self.fields]
        tokens = self._tokens(given)
        seen, hidden = [tokens], [torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)]
        for at, name in enumerate(self.fields):
            output = embeddings.states[name]
            assert output.states is not None
            seen.append(self.project[at](self.dropout(output.states.float())) + self.field_embedding[at])
            mask = output.mask
            hidden.append(torch.zeros(output.states.shape[:2], dtype=torch.bool) if mask is None else ~mask)
        keys, ignored = torch.cat(seen, dim=1), torch.cat([part.to(tokens.device) for part in hidden], dim=1)
        attended, _ = self.attention(tokens, keys, keys, key_padding_mask=ignored, need_weights=False)
        parts = [self.norm(tokens + self.dropout(attended)).flatten(1)]
        if self.hidden is not None:
            parts.append(torch.relu(self.hidden(torch.cat(given, dim=1))))
        outputs: Tensor = self.output(self.dropout(torch.cat(parts, dim=1)))
        return outputs


for _name, _title in (
    ("auxiliary", "Attention, a loss for each modality"),
    ("words-and-patches", "Attention over words and patches"),
    ("many-heads", "Six heads on the same encoders"),
):
    METHODS.add(_name, Method(_title, run=fit, settings={"fusion": _name}))
