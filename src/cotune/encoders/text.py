"""Text encoders: any encoder that transformers' ``AutoModel`` opens, with its own tokenizer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from cotune.data.tables.cells import has_text
from cotune.encoders.base import Encoder, EncoderOutput, Inputs, Modality, depths_by_order
from cotune.encoders.hf import transformer_units
from cotune.encoders.normalizers import normalize_as_saved, normalize_first
from cotune.encoders.pooling import PADDED_TYPES, Pooling, pool_tokens
from cotune.encoders.prepared import ReadOptions
from cotune.encoders.prepared_texts import PreparedTexts
from cotune.errors import EncoderError
from cotune.settings import NormalizeText

# A much longer text is cut before it is tokenised, if what is left of it still gives more tokens than are read.
_CHARS_PER_TOKEN = 32


class TextEncoder(Encoder):
    """A transformer over words.

    Parameters
    ----------
    model : nn.Module
        A transformers encoder whose output has ``last_hidden_state``.
    tokenizer : PreTrainedTokenizerBase
        The model's own tokenizer.
    spec : str
        The name it was asked for by.
    pooling : {"cls", "mean", "max", "last"}
        How the token states become one embedding: the first token's, the mean or the largest value over real tokens,
        or the last real token's.
    max_tokens : int
        Longer texts are cut here, special tokens included.
    by_length : bool
        Whether texts of different length must not meet in one pass, because the network lets padding change its
        answer; such a batch then takes one pass for each length.
    """

    modality: ClassVar[Modality] = "text"
    ragged: ClassVar[bool] = True
    embed_batch: ClassVar[int] = 64
    probe_posts: ClassVar[int] = 3  # of two lengths: two must share one, to tell padding from company

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        spec: str,
        pooling: Pooling,
        max_tokens: int,
        by_length: bool = False,
    ) -> None:
        config: Any = model.config
        super().__init__(model, spec=spec, dim=int(config.hidden_size), units=transformer_units(model))
        self.tokenizer = tokenizer
        self.pooling: Pooling = pooling
        self.by_length = by_length
        self.normalize_text: NormalizeText = "none"
        self.padded = config.model_type in PADDED_TYPES
        if self.padded:
            max_tokens = int(config.max_position_embeddings)
        self.max_tokens = _usable_length(max_tokens, tokenizer, config)
        self.multiple = _length_unit(config)
        pad = getattr(tokenizer, "pad_token_id", None)
        self.pad_id = int(pad) if pad is not None else 0

    def normalize(self, level: NormalizeText) -> None:
        """Undo in texts what hides their letters, before they become tokens.

        Parameters
        ----------
        level : {"none", "invisible", "confusables", "leet"}
            How far it goes.

        Raises
        ------
        EncoderError
            If the tokenizer is not one of the tokenizers library.
        """
        normalize_first(self.tokenizer, level, spec=self.spec)
        self.normalize_text = level

    def normalize_as_saved(self, folder: Path, level: NormalizeText) -> None:
        """Undo in texts what hides their letters as the tokenizer's file in `folder` says."""
        normalize_as_saved(self.tokenizer, folder)
        self.normalize_text = level

    def prepare(self, values: Sequence[Any], options: ReadOptions) -> PreparedTexts:
        """Tokenise texts."""
        texts = list(values)
        present = np.asarray([has_text(text) for text in texts], dtype=bool)
        return PreparedTexts(self.tokenize(texts), present, self.collate)

    def tokenize(self, texts: Sequence[str | None]) -> list[np.ndarray]:
        """Return the token ids of each text, int32, not padded; a missing text counts as an empty one."""
        if not texts:
            return []
        cut = [self._beginning(text) if isinstance(text, str) else "" for text in texts]
        rows = self.tokenizer(
            cut,
            truncation=True,
            max_length=self.max_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        self._check_ids(rows)
        # A tokenizer without special tokens gives nothing for an empty text; a model needs one token.
        found = [np.asarray(row if len(row) else [self.pad_id], dtype=np.int32) for row in rows]
        if not self.padded:
            return found
        return [np.pad(row, (0, self.max_tokens - len(row)), constant_values=self.pad_id) for row in found]

    def _beginning(self, text: str) -> str:
        """Return a beginning of `text` that gives more tokens than are read, or all of it.

        Tokenising a million characters to keep 128 tokens would be waste; but characters may also give no token
        at all, however many there are of them.
        """
        size = self.max_tokens * _CHARS_PER_TOKEN
        while size < len(text) and self.count_tokens(text[:size]) < 2 * self.max_tokens:
            size *= 8
        return text[:size]

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` has, special ones included, if nothing of it is cut off."""
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    def is_cut(self, text: str) -> bool:
        """Tell whether `text` has more tokens than the encoder reads."""
        if len(text) <= self.max_tokens // 8:  # no tokenizer makes eight tokens of one character
            return False
        beginning = self._beginning(text)
        return len(beginning) < len(text) or self.count_tokens(beginning) > self.max_tokens

    def word_embedding(self) -> nn.Module | None:
        """Return the layer that turns token ids into vectors, or None if the network has none that can be found."""
        for module in self.model.modules():
            ask = getattr(module, "get_input_embeddings", None)
            try:
                found = ask() if ask is not None else None
            except (NotImplementedError, AttributeError):  # a wrapper that leaves it to a module inside of it
                found = None
            if isinstance(found, nn.Module):
                return found
        return None

    def word_embeddings(self) -> list[nn.Module]:
        """Return every layer that turns token ids into vectors: one, or none that can be found."""
        found = self.word_embedding()
        return [] if found is None else [found]

    def _check_ids(self, rows: Sequence[Sequence[int]]) -> None:
        size = getattr(self.word_embedding(), "num_embeddings", None)
        largest = max((max(row) for row in rows if len(row)), default=0)
        if size is not None and largest >= size:
            raise EncoderError(
                f"{self.spec}: its tokenizer gives the id {largest}, but the model has {size} embeddings; "
                "the two do not belong together"
            )

    def collate(self, rows: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Pad token ids to the longest of the batch: ``input_ids`` and ``attention_mask``, both (B, T).

        Networks that attend within windows are given whole windows.
        """
        longest = math.ceil(max(len(row) for row in rows) / self.multiple) * self.multiple
        ids = torch.full((len(rows), longest), self.pad_id, dtype=torch.long)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.from_numpy(row.astype(np.int64))
            mask[i, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def encode(self, inputs: Inputs) -> EncoderOutput:
        """Run the transformer on ``input_ids`` (or ``inputs_embeds``) and ``attention_mask``."""
        mask = inputs["attention_mask"]
        words = {key: inputs[key] for key in ("input_ids", "inputs_embeds") if key in inputs}
        states = self.model(**words, attention_mask=mask).last_hidden_state
        return EncoderOutput(pool_tokens(states, mask, self.pooling), states, mask.bool())

    def forward(self, inputs: Inputs) -> EncoderOutput:
        """Encode a batch from raw inputs, cached activations or a cached embedding."""
        if not self.by_length or "pooled" in inputs or bool(inputs["attention_mask"].all()):
            return super().forward(inputs)
        parts = []
        for at, part in self._by_length(inputs):
            found = super().forward(part)
            assert found.states is not None
            parts.append((at, found.pooled, found.states))
        order = torch.cat([at for at, *_ in parts]).argsort()
        mask = inputs["attention_mask"]
        states = _stacked([states for *_, states in parts], mask.shape[1])
        return EncoderOutput(torch.cat([pooled for _, pooled, _ in parts])[order], states[order], mask.bool())

    def lower(self, inputs: Inputs, *, stop: bool = True) -> Tensor:
        """Run the lower part and return its activations, shape (B, T, dim)."""
        if not self.by_length or bool(inputs["attention_mask"].all()):
            return super().lower(inputs, stop=stop)
        parts = [(at, super(TextEncoder, self).lower(part)) for at, part in self._by_length(inputs)]
        order = torch.cat([at for at, _ in parts]).argsort()
        return _stacked([hidden for _, hidden in parts], inputs["attention_mask"].shape[1])[order]

    def _by_length(self, inputs: Inputs) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield the texts of each length, without padding, and where in the batch they are."""
        lengths = inputs["attention_mask"].sum(dim=1)
        for length in lengths.unique().tolist():
            at = (lengths == length).nonzero().squeeze(1)
            yield at, {key: value[at, :length] for key, value in inputs.items()}

    def kept(self, hidden: Tensor, inputs: Inputs) -> Tensor:
        """Return activations as they come back from being kept text by text: with nothing where padding is."""
        mask = inputs["attention_mask"]
        if hidden.shape[:2] != mask.shape:
            raise ValueError("the first axes of the activations are not batch and tokens")
        return hidden * mask.unsqueeze(-1).to(hidden.dtype)

    def dummy_inputs(self, like: Inputs | None = None) -> dict[str, Tensor]:
        """Return one two-token text, or the ids and mask that belong to cached activations."""
        if like is not None:
            return {"input_ids": like["input_ids"], "attention_mask": like["attention_mask"]}
        return self._on_device(self.collate(self.tokenize(["a"])))

    def probe_inputs(self, n: int) -> dict[str, Tensor]:
        """Return `n` texts, some of different and some of equal length: random tokens between the special ones."""
        random = np.random.default_rng(0)
        largest = min(len(self.tokenizer), getattr(self.word_embedding(), "num_embeddings", 10**9))
        frame = self.tokenize(["a"])[0].tolist()
        special = set(getattr(self.tokenizer, "all_special_ids", []))
        words = [i for i in range(largest) if i not in special] if largest < 1000 else None
        rows = []
        for i in range(n):
            length = max(1, min(5 + 7 * ((i + 1) // 2), self.max_tokens - len(frame) + 1))
            drawn = random.choice(words, length) if words else random.integers(largest // 2, largest, length)
            inner = [token for token in drawn.tolist() if token not in special] or [frame[len(frame) // 2]]
            middle = next((at for at, token in enumerate(frame) if token not in special), len(frame) // 2)
            row = [*frame[:middle], *inner, *frame[middle + 1 :]]
            rows.append(np.asarray(row[: self.max_tokens], dtype=np.int32))
        return self._on_device(self.collate(rows))

    def take(self, inputs: Inputs, at: int) -> dict[str, Tensor]:
        """Return one post of a batch as it is alone: without the padding that its company made necessary."""
        length = int(inputs["attention_mask"][at].sum())
        row = inputs["input_ids"][at, :length].cpu().numpy().astype(np.int32)
        return self._on_device(self.collate([row]))

    def _on_device(self, inputs: Inputs) -> dict[str, Tensor]:
        device = next(self.model.parameters()).device
        return {key: value.to(device) for key, value in inputs.items()}

    def describe(self) -> dict[str, Any]:
        """Return kind, pooling and length."""
        description = {
            "kind": "hf",
            "modality": self.modality,
            "spec": self.spec,
            "pooling": self.pooling,
            "max_tokens": self.max_tokens,
        }
        description |= {"by_length": True} if self.by_length else {}
        return {**description, **self._normalization()}

    def _normalization(self) -> dict[str, Any]:
        return {} if self.normalize_text == "none" else {"normalize_text": self.normalize_text}

    def depths(self) -> dict[str, int]:
        """Embeddings have depth 0, layer i depth i + 1."""
        return depths_by_order(self.model, self.units)

    def save_config(self, folder: Path) -> None:
        """Write the model's configuration and the tokenizer's files."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
        self.tokenizer.save_pretrained(folder)
        (folder / "encoder.json").write_text(json.dumps(self.describe(), indent=2), encoding="utf-8")


def _stacked(parts: Sequence[Tensor], length: int) -> Tensor:
    """Put states of different length, each (B, T, dim), below each other, padded to one length."""
    return torch.cat([nn.functional.pad(part, (0, 0, 0, length - part.shape[1])) for part in parts])


def _usable_length(asked: int, tokenizer: Any, config: Any) -> int:
    """Bound the length by what tokenizer and position embeddings can take."""
    limits = [asked, int(min(getattr(tokenizer, "model_max_length", asked), 10**6))]
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        # RoBERTa and its kin number positions from the padding index onwards.
        offset = (config.pad_token_id or 0) + 1 if config.model_type in _OFFSET_TYPES else 0
        limits.append(positions - offset)
    return max(min(limits), 2)


_OFFSET_TYPES = {
    "roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "mpnet", "longformer", "xmod",
    "data2vec-text", "ibert", "luke", "esm", "mra", "yoso", "nystromformer",
}  # fmt: skip


def _length_unit(config: Any) -> int:
    """Return the number of tokens whose multiple a text has to have: the largest window of attention."""
    windows = getattr(config, "attention_window", None)
    return max(windows) if isinstance(windows, list | tuple) and windows else windows or 1
