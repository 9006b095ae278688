"""Embeddings of a fold's test posts by its trained model, and the additive projection (EMAP) over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cotune.explain.emap import additive_logits as projection
from cotune.fusion import FusionHead
from cotune.model import JointModel
from cotune.training.features import Features, Source, iterate


@dataclass(frozen=True)
class Embedded:
    """Embeddings of some posts and which modalities they have."""

    text: Tensor
    image: Tensor
    present: Tensor

    def __len__(self) -> int:
        return len(self.present)

    def subset(self, rows: np.ndarray) -> Embedded:
        """Return the posts at `rows`."""
        at = torch.from_numpy(rows).to(self.present.device)
        return Embedded(self.text[at], self.image[at], self.present[at])

    def logits(self, head: FusionHead) -> np.ndarray:
        """Return the head's logits, shape (N, n_classes)."""
        with torch.inference_mode():
            result: np.ndarray = head.eval()(self.text, self.image, self.present).cpu().double().numpy()
        return result


def embed_rows(
    model: JointModel, features: Features, rows: np.ndarray, source: Mapping[str, Source], *, batch_size: int = 64
) -> Embedded:
    """Return both embeddings of the posts at `rows`, in their order."""
    model.eval()
    where = {int(row): i for i, row in enumerate(rows)}
    texts, images, presents, order = [], [], [], []
    with torch.inference_mode():
        for batch in iterate(features, rows, source, batch_size):
            moved = batch.to(features.device)
            text, image = model.embed(moved)
            texts.append(text)
            images.append(image)
            presents.append(moved.present)
            assert batch.rows is not None
            order += [where[int(row)] for row in batch.rows]
    back = torch.from_numpy(np.argsort(order)).to(features.device)
    return Embedded(torch.cat(texts)[back], torch.cat(images)[back], torch.cat(presents)[back])


def additive_logits(head: FusionHead, posts: Embedded, *, batch_size: int = 8192) -> np.ndarray:
    """Return the additive projection of the head's logits at the posts themselves, shape (N, n_classes)."""
    return projection(head.eval(), posts.text, posts.image, posts.present, batch_size=batch_size)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, row by row."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return result
