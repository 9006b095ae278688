"""One post and one output: the number that word and pixel explanations explain.

The number is on the task's scale: the log-odds of a class, or a value, under the whole joint model. While one field is
taken apart, the others are held as they are, as embeddings that were computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from cotune.encoders.base import EncoderOutput
from cotune.encoders.image import ImageEncoder
from cotune.encoders.text import TextEncoder
from cotune.model import Batch, JointModel

Inputs = Mapping[str, Tensor]


class Target:
    """One output for one post, as a function of one of its fields.

    Parameters
    ----------
    model : JointModel
        In evaluation mode.
    batch : Batch
        The post alone, from raw inputs, on the model's device.
    field : str
        The field that is taken apart.
    index : int, optional
        The output; by default the one that explanations are about, such as the predicted class.
    batch_size : int
        Versions of the post in one pass.
    """

    def __init__(
        self, model: JointModel, batch: Batch, field: str, index: int | None = None, *, batch_size: int = 32
    ) -> None:
        self.model, self.batch, self.field = model, batch, field
        self.batch_size = batch_size
        with torch.no_grad():
            self.embeddings = model.embed(batch)
            outputs = model.head(self.embeddings)
        self.index = int(model.task.explained(model.task.predictions(outputs))) if index is None else index
        self.value = float(self._scaled(outputs)[0])

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.batch.present.device

    @property
    def text_encoder(self) -> TextEncoder:
        """The field's encoder, if it is a text."""
        return cast(TextEncoder, self.model.encoders[self.field])

    @property
    def image_encoder(self) -> ImageEncoder:
        """The field's encoder, if it is an image."""
        return cast(ImageEncoder, self.model.encoders[self.field])

    def of_inputs(self, inputs: Inputs) -> Tensor:
        """Return the output for versions of the field given as the encoder's inputs, shape (B,); gradients pass."""
        return self._fused(self.model.encoders[self.field](inputs))

    def _fused(self, found: EncoderOutput) -> Tensor:
        states = found if self.model.head.needs_states else None
        return self._scaled(self.model.head(self.embeddings.replaced(self.field, found.pooled.float(), states)))

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Return the output for images, bytes or normalised floats, shape (B,); gradients pass."""
        return self.of_inputs({"pixels": pixels})

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the output for other texts with the rest of the post as it is, shape (N,), without gradients.

        A text that says nothing counts as absent, as it does in prediction.
        """
        found = torch.empty(len(texts))
        empty = [i for i, text in enumerate(texts) if not text.strip()]
        full = [i for i, text in enumerate(texts) if text.strip()]
        tokens = self.text_encoder.tokenize([texts[i] for i in full])
        full_order = sorted(range(len(full)), key=lambda at: len(tokens[at]))
        with torch.no_grad():
            if empty:
                found[empty] = self._without()
            for start in range(0, len(full), self.batch_size):
                at = full_order[start : start + self.batch_size]
                inputs = self.text_encoder.collate([tokens[i] for i in at])
                moved = {key: value.to(self.device) for key, value in inputs.items()}
                values = self._fused(self.model.encode(self.field, moved))
                found[[full[i] for i in at]] = values.float().cpu()
        return found

    def of_images(self, pixels: Tensor) -> Tensor:
        """Return the output for other images (N, 3, H, W) with the rest as it is, shape (N,), without gradients."""
        with torch.no_grad():
            parts = [
                self._fused(self.model.encode(self.field, {"pixels": part.to(self.device)})).float().cpu()
                for part in torch.split(pixels, self.batch_size)
            ]
        return torch.cat(parts)

    def _without(self) -> float:
        present = self.embeddings.present.clone()
        present[:, self.model.head.fields.index(self.field)] = False
        return float(self._scaled(self.model.head(self.embeddings.with_present(present)))[0])

    def _scaled(self, outputs: Tensor) -> Tensor:
        return self.model.task.contribution_scale(outputs)[:, self.index]
