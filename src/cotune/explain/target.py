"""One post and one class: the number that word and pixel explanations explain.

The number is the log-odds of a class under the whole joint model. While one modality is taken apart, the other
is held as it is, as an embedding that was computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from cotune.encoders.image import ImageEncoder
from cotune.encoders.text import TextEncoder
from cotune.fusion.contributions import log_odds
from cotune.model import Batch, JointModel

Inputs = Mapping[str, Tensor]


class Target:
    """The log-odds of one class for one post, as a function of its text or of its picture.

    Parameters
    ----------
    model : JointModel
        In evaluation mode.
    batch : Batch
        The post alone, from raw inputs, on the model's device.
    index : int, optional
        The class; the predicted one by default.
    batch_size : int
        Versions of the post in one pass.
    """

    def __init__(self, model: JointModel, batch: Batch, index: int | None = None, *, batch_size: int = 32) -> None:
        self.model = model
        self.batch = batch
        self.batch_size = batch_size
        with torch.no_grad():
            self.text, self.image = model.embed(batch)
            logits = model.head(self.text, self.image, batch.present)
        self.index = int(logits.argmax()) if index is None else index
        self.value = float(log_odds(logits)[0, self.index])

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.batch.present.device

    @property
    def text_encoder(self) -> TextEncoder:
        """The text encoder."""
        return cast(TextEncoder, self.model.text)

    @property
    def image_encoder(self) -> ImageEncoder:
        """The image encoder."""
        return cast(ImageEncoder, self.model.image)

    def of_text(self, inputs: Inputs) -> Tensor:
        """Return the log-odds for texts given as the encoder's inputs, shape (B,); gradients pass."""
        pooled = self.text_encoder(inputs).pooled.float()
        n = len(pooled)
        logits = self.model.head(pooled, self.image.expand(n, -1), self._present(n))
        return log_odds(logits)[:, self.index]

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Return the log-odds for pictures, bytes or normalised floats, shape (B,); gradients pass."""
        pooled = self.image_encoder({"pixels": pixels}).pooled.float()
        n = len(pooled)
        logits = self.model.head(self.text.expand(n, -1), pooled, self._present(n))
        return log_odds(logits)[:, self.index]

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the log-odds for other texts with the same picture, shape (N,), without gradients.

        A text that says nothing counts as absent, as it does in prediction.
        """
        found = torch.empty(len(texts))
        empty = [i for i, text in enumerate(texts) if not text.strip()]
        full = [i for i, text in enumerate(texts) if text.strip()]
        tokens = self.text_encoder.tokenize([texts[i] for i in full])
        full_order = sorted(range(len(full)), key=lambda at: len(tokens[at]))
        with torch.no_grad():
            if empty:
                found[empty] = self._without("text")
            for start in range(0, len(full), self.batch_size):
                at = full_order[start : start + self.batch_size]
                inputs = self.text_encoder.collate([tokens[i] for i in at])
                values = self.of_text({key: value.to(self.device) for key, value in inputs.items()})
                found[[full[i] for i in at]] = values.float().cpu()
        return found

    def of_pictures(self, pixels: Tensor) -> Tensor:
        """Return the log-odds for other pictures (N, 3, H, W) with the same text, shape (N,), without gradients."""
        with torch.no_grad():
            parts = [
                self.of_pixels(part.to(self.device)).float().cpu() for part in torch.split(pixels, self.batch_size)
            ]
        return torch.cat(parts)

    def _without(self, modality: str) -> float:
        present = self.batch.present.clone()
        present[:, 0 if modality == "text" else 1] = False
        return float(log_odds(self.model.head(self.text, self.image, present))[0, self.index])

    def _present(self, n: int) -> Tensor:
        return self.batch.present.expand(n, -1)
