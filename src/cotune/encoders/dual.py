"""Dual encoders: the two towers of a CLIP or SigLIP model as a text and an image encoder.

Both towers end in the space in which the model was trained to compare them, so that a head sees the projected
embeddings. They are ordinary encoders: they can be frozen, cut and fine-tuned like any other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cotune.encoders.base import EncoderOutput, Inputs, depths_by_order
from cotune.encoders.hf import transformer_units
from cotune.encoders.image import ImageEncoder
from cotune.encoders.preprocess import HFPreprocessor
from cotune.encoders.text import TextEncoder

_PROJECTIONS = {"text": "text_projection", "image": "visual_projection"}
_TOWERS = {"text": "text_model", "image": "vision_model"}


class Tower(nn.Module):
    """One side of a dual encoder, with its projection into the common space where it has one.

    Parameters
    ----------
    dual : nn.Module
        The whole model.
    modality : {"text", "image"}
        Which side.
    """

    def __init__(self, dual: nn.Module, modality: str) -> None:
        super().__init__()
        self.tower = getattr(dual, _TOWERS[modality])
        self.projection: nn.Module = getattr(dual, _PROJECTIONS[modality], nn.Identity())
        self.config: Any = self.tower.config

    def forward(self, **inputs: Tensor) -> EncoderOutput:
        """Return projected embedding and states."""
        output = self.tower(**inputs)
        return EncoderOutput(self.projection(output.pooler_output), output.last_hidden_state)


class DualTextEncoder(TextEncoder):
    """The text tower of a dual encoder.

    Parameters
    ----------
    dual : nn.Module
        The whole model.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer.
    spec : str
        The name it was asked for by.
    max_tokens : int
        Longer texts are cut here; SigLIP always reads its full length, padding included.
    """

    def __init__(self, dual: Any, tokenizer: Any, *, spec: str, max_tokens: int) -> None:
        super().__init__(Tower(dual, "text"), tokenizer, spec=spec, pooling="cls", max_tokens=max_tokens)
        self.dual_config = dual.config
        with torch.no_grad():
            self.dim = int(self.encode(self.dummy_inputs()).pooled.shape[1])

    def encode(self, inputs: Inputs) -> EncoderOutput:
        """Run the tower; the projected summary is the embedding."""
        mask = inputs["attention_mask"]
        output: EncoderOutput = self.model(input_ids=inputs["input_ids"], attention_mask=mask)
        return EncoderOutput(output.pooled, output.states, mask.bool())

    def describe(self) -> dict[str, Any]:
        """Return kind and length."""
        description = {"kind": "dual", "modality": "text", "spec": self.spec, "max_tokens": self.max_tokens}
        return {**description, **self._normalization()}

    def save_config(self, folder: Path) -> None:
        """Write the dual model's configuration and the tokenizer's files."""
        _save(self, folder)
        self.tokenizer.save_pretrained(folder)


class DualImageEncoder(ImageEncoder):
    """The image tower of a dual encoder.

    Parameters
    ----------
    dual : nn.Module
        The whole model.
    processor : BaseImageProcessor
        Its image processor.
    spec : str
        The name it was asked for by.
    """

    def __init__(self, dual: Any, processor: Any, *, spec: str) -> None:
        tower = Tower(dual, "image").eval()
        preprocessor = HFPreprocessor(processor)
        with torch.no_grad():
            trial = tower(pixel_values=torch.zeros(1, 3, *preprocessor.size))
        super().__init__(tower, preprocessor, spec=spec, dim=int(trial.pooled.shape[1]), units=transformer_units(tower))
        self.dual_config = dual.config

    def _encode_normalised(self, pixels: Tensor) -> EncoderOutput:
        output: EncoderOutput = self.model(pixel_values=pixels)
        return output

    def depths(self) -> dict[str, int]:
        """Map embeddings to 0, layer i to i + 1, norm and projection to one more."""
        return depths_by_order(self.model, self.units)

    def describe(self) -> dict[str, Any]:
        """Return kind and preprocessing."""
        return {
            "kind": "dual",
            "modality": "image",
            "spec": self.spec,
            "preprocessing": self.preprocessor.describe(),
        }

    def save_config(self, folder: Path) -> None:
        """Write the dual model's configuration and the image processor's."""
        _save(self, folder)
        self.preprocessor.save(folder)


def _save(encoder: DualTextEncoder | DualImageEncoder, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    encoder.dual_config.save_pretrained(folder)
    (folder / "encoder.json").write_text(json.dumps(encoder.describe(), indent=2), encoding="utf-8")
