"""Text encoders: any encoder that transformers' ``AutoModel`` opens, with its own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cotune.encoders.base import Encoder, EncoderOutput, Inputs, Modality, depths_by_order
from cotune.encoders.hf import open_model, reading, transformer_units
from cotune.errors import EncoderError

Pooling = Literal["cls", "mean"]

# Trained with a sentence-level objective on the first token, or by convention read there.
_CLS_TYPES = {"bert", "distilbert", "roberta", "xlm-roberta", "camembert", "deberta", "deberta-v2", "electra"}
# No word of any script is worth more tokens than this; a longer text is cut before it is tokenised.
_CHARS_PER_TOKEN = 32
_FEWEST_TOKENS = 20


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
    pooling : {"cls", "mean"}
        How the token states become one embedding: the first token's, or the mean over real tokens.
    max_tokens : int
        Longer texts are cut here, special tokens included.
    """

    modality: ClassVar[Modality] = "text"

    def __init__(self, model: nn.Module, tokenizer: Any, *, spec: str, pooling: Pooling, max_tokens: int) -> None:
        config: Any = model.config
        super().__init__(model, spec=spec, dim=int(config.hidden_size), units=transformer_units(model))
        self.tokenizer = tokenizer
        self.pooling: Pooling = pooling
        self.max_tokens = _usable_length(max_tokens, tokenizer, config)
        pad = getattr(tokenizer, "pad_token_id", None)
        self.pad_id = int(pad) if pad is not None else 0

    def tokenize(self, texts: Sequence[str | None]) -> list[np.ndarray]:
        """Return the token ids of each text, int32, not padded; a missing text counts as an empty one."""
        if not texts:
            return []
        most = self.max_tokens * _CHARS_PER_TOKEN
        cut = [text[:most] if isinstance(text, str) else "" for text in texts]
        rows = self.tokenizer(
            cut,
            truncation=True,
            max_length=self.max_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        self._check_ids(rows)
        # A tokenizer without special tokens gives nothing for an empty text; a model needs one token.
        return [np.asarray(row if len(row) else [self.pad_id], dtype=np.int32) for row in rows]

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

    def _check_ids(self, rows: Sequence[Sequence[int]]) -> None:
        size = getattr(self.word_embedding(), "num_embeddings", None)
        largest = max((max(row) for row in rows if len(row)), default=0)
        if size is not None and largest >= size:
            raise EncoderError(
                f"{self.spec}: its tokenizer gives the id {largest}, but the model has {size} embeddings; "
                "the two do not belong together"
            )

    def collate(self, rows: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Pad token ids to the longest of the batch: ``input_ids`` and ``attention_mask``, both (B, T)."""
        longest = max(len(row) for row in rows)
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
        if self.pooling == "cls":
            pooled = states[:, 0]
        else:
            weights = mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return EncoderOutput(pooled, states, mask.bool())

    def dummy_inputs(self, like: Inputs | None = None) -> dict[str, Tensor]:
        """Return one two-token text, or the ids and mask that belong to cached activations."""
        if like is not None:
            return {"input_ids": like["input_ids"], "attention_mask": like["attention_mask"]}
        device = next(self.model.parameters()).device
        ids = torch.tensor([self.tokenize(["a"])[0].tolist()], device=device, dtype=torch.long)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def describe(self) -> dict[str, Any]:
        """Return kind, pooling and length."""
        return {
            "kind": "hf",
            "modality": self.modality,
            "spec": self.spec,
            "pooling": self.pooling,
            "max_tokens": self.max_tokens,
        }

    def depths(self) -> dict[str, int]:
        """Embeddings have depth 0, layer i depth i + 1."""
        return depths_by_order(self.model, self.units)

    def save_config(self, folder: Path) -> None:
        """Write the model's configuration and the tokenizer's files."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
        self.tokenizer.save_pretrained(folder)
        (folder / "encoder.json").write_text(json.dumps(self.describe(), indent=2), encoding="utf-8")


def open_text_encoder(
    name: str, *, spec: str, pooling: str = "auto", max_tokens: int = 128, local: bool, weights: bool = True
) -> TextEncoder:
    """Open a Hugging Face text model from the hub or a folder.

    Parameters
    ----------
    name : str
        Hub name or folder.
    spec : str
        How the user named it.
    pooling : {"auto", "cls", "mean"}
        ``auto`` takes what the model's sentence-transformers file says, else what suits the model's type.
    max_tokens : int
        Longest text in tokens.
    local : bool
        Whether to stay off the network.
    weights : bool
        False builds the network from its configuration alone, to be filled later.
    """
    from transformers import AutoTokenizer

    model: Any = open_model(name, spec=spec, local=local, weights=weights)
    tokenizer = AutoTokenizer.from_pretrained(name, **reading(local))
    if len(tokenizer) < _FEWEST_TOKENS:  # without its files the library makes one that knows special tokens alone
        raise EncoderError(
            f"{spec} has no tokenizer files, such as tokenizer.json; save the tokenizer beside the model"
        )
    chosen = choose_pooling(pooling, name, model.config, local=local)
    return TextEncoder(model, tokenizer, spec=spec, pooling=chosen, max_tokens=max_tokens)


def choose_pooling(asked: str, name: str, config: Any, *, local: bool = True) -> Pooling:
    """Return how a model's tokens are best pooled, unless the user has said so."""
    if asked in ("cls", "mean"):
        return asked  # type: ignore[return-value]
    if asked != "auto":
        raise EncoderError(f"text pooling is 'auto', 'cls' or 'mean', not {asked!r}")
    said = _pooling_file(name, local)
    if said is not None:
        modes = json.loads(said.read_text(encoding="utf-8"))
        return "cls" if modes.get("pooling_mode_cls_token") or modes.get("pooling_mode") == "cls" else "mean"
    classifier = getattr(config, "classifier_pooling", None)
    if classifier in ("cls", "mean"):
        return classifier  # type: ignore[no-any-return]
    return "cls" if config.model_type in _CLS_TYPES else "mean"


def _pooling_file(name: str, local: bool) -> Path | None:
    """Return the file of sentence-transformers that says how a model pools, if it has one."""
    from transformers.utils.hub import cached_file

    found = cached_file(
        name,
        "1_Pooling/config.json",
        local_files_only=local,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def _usable_length(asked: int, tokenizer: Any, config: Any) -> int:
    """Bound the length by what tokenizer and position embeddings can take."""
    limits = [asked, int(min(getattr(tokenizer, "model_max_length", asked), 10**6))]
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        # RoBERTa and its kin number positions from the padding index onwards.
        offset = (config.pad_token_id or 0) + 1 if config.model_type in _OFFSET_TYPES else 0
        limits.append(positions - offset)
    return max(min(limits), 2)


_OFFSET_TYPES = {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer"}
