"""Is the fusion real? The additive projection of a trained model.

EMAP (Hessel & Lee, "Does my multimodal model learn cross-modal interactions? It's harder to tell than you
might think!", EMNLP 2020): among all functions of the form f(text) + g(image), the one nearest to a model's
logits over all pairs of the test posts' texts and images is the sum of the two partial means less the whole
mean. What AUC is lost by it was owed to cross-modal interaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
            result: np.ndarray = head.eval()(self.text, self.image, self.present).double().cpu().numpy()
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
    """Return the additive projection of the head's logits at the posts themselves, shape (N, n_classes).

    Every text is paired with every image: N * N passes through the head, in batches.
    """
    n = len(posts)
    head.eval()
    by_text = by_image = None
    at_once = max(1, batch_size // n)
    with torch.inference_mode():
        for start in range(0, n, at_once):
            texts = torch.arange(start, min(start + at_once, n), device=posts.present.device)
            left = texts.repeat_interleave(n)
            right = torch.arange(n, device=left.device).repeat(len(texts))
            present = torch.stack([posts.present[left, 0], posts.present[right, 1]], dim=1)
            logits = head(posts.text[left], posts.image[right], present).double().view(len(texts), n, -1)
            if by_text is None or by_image is None:
                by_text = torch.zeros((n, logits.shape[2]), dtype=torch.float64, device=logits.device)
                by_image = torch.zeros_like(by_text)
            by_text[texts] = logits.mean(dim=1)
            by_image += logits.sum(dim=0) / n
    assert by_text is not None
    assert by_image is not None
    result: np.ndarray = (by_text + by_image - by_text.mean(dim=0)).cpu().numpy()
    return result


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, row by row."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return result
