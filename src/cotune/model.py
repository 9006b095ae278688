"""The joint model: two encoders and a fusion head, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cotune.encoders.base import Encoder
from cotune.fusion import HEADS, FusionHead


@dataclass
class Batch:
    """A batch of posts on its way through the model.

    Attributes
    ----------
    present : Tensor
        Boolean, shape (B, 2): which posts have a text and which an image.
    inputs : dict
        For each modality the inputs of its encoder, one row for each post that *has* the modality.
    labels : Tensor or None
        Class indices, shape (B,).
    rows : Tensor or None
        Positions of the posts in their table, shape (B,).
    """

    present: Tensor
    inputs: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    labels: Tensor | None = None
    rows: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        return Batch(
            self.present.to(device),
            {
                name: {key: value.to(device, non_blocking=True) for key, value in part.items()}
                for name, part in self.inputs.items()
            },
            None if self.labels is None else self.labels.to(device),
            self.rows,
        )

    def __len__(self) -> int:
        return len(self.present)


class JointModel(nn.Module):
    """Two unimodal encoders whose embeddings meet in a fusion head.

    Parameters
    ----------
    text, image : Encoder or None
        The encoders; None for a modality that the head does not use.
    head : FusionHead
        What fuses and classifies.
    """

    def __init__(self, text: Encoder | None, image: Encoder | None, head: FusionHead) -> None:
        super().__init__()
        self.text = text
        self.image = image
        self.head = head

    @property
    def encoders(self) -> dict[str, Encoder]:
        """The encoders that are there, by modality."""
        both = {"text": self.text, "image": self.image}
        return {name: encoder for name, encoder in both.items() if encoder is not None}

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return both embeddings, shapes (B, text_dim) and (B, image_dim); zeros where a modality is absent."""
        return self._embed_one(batch, "text", 0), self._embed_one(batch, "image", 1)

    def _embed_one(self, batch: Batch, name: str, column: int) -> Tensor:
        encoder = self.encoders.get(name)
        n, device = len(batch), batch.present.device
        if encoder is None:
            return torch.zeros((n, 0), device=device)
        here = batch.present[:, column]
        if name not in batch.inputs or not bool(here.any()):
            return torch.zeros((n, encoder.dim), device=device)
        pooled = encoder(batch.inputs[name]).pooled.float()
        if bool(here.all()):
            result: Tensor = pooled
            return result
        spread = torch.zeros((n, encoder.dim), dtype=pooled.dtype, device=device)
        return spread.index_put((here.nonzero().squeeze(1),), pooled)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits, shape (B, n_classes)."""
        text, image = self.embed(batch)
        logits: Tensor = self.head(text, image, batch.present)
        return logits

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters of each part and in total."""
        counts = {name: encoder.n_parameters() for name, encoder in self.encoders.items()}
        counts["head"] = sum(p.numel() for p in self.head.parameters())
        counts["total"] = sum(counts.values())
        return counts


def head_name(model: JointModel) -> str:
    """Return the name under which a model's fusion head is registered."""
    return next(name for name in HEADS if HEADS[name] is type(model.head))
