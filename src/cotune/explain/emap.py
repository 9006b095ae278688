"""Is the fusion real? What the two modalities of a whole set of posts say together and no sum of them says.

EMAP (Hessel & Lee, "Does my multimodal model learn cross-modal interactions? It's harder to tell than you
might think!", EMNLP 2020): among all functions of the form f(text) + g(image), the one nearest to a model's
logits over all pairs of the posts' texts and images is the sum of the two partial means less the whole mean.
What it gets wrong and the model gets right is owed to cross-modal interaction.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cotune.fusion import FusionHead


def additive_logits(
    head: FusionHead, text: Tensor, image: Tensor, present: Tensor, *, batch_size: int = 8192
) -> np.ndarray:
    """Return the additive projection of the head's logits at the posts themselves, shape (N, n_classes).

    Every text is paired with every image: N * N passes through the head, in batches.

    Parameters
    ----------
    head : FusionHead
        In evaluation mode.
    text, image : Tensor
        Embeddings, shapes (N, text_dim) and (N, image_dim).
    present : Tensor
        Boolean, shape (N, 2): which posts have a text and which an image.
    batch_size : int
        Pairs in one pass.
    """
    n = len(present)
    rows: list[Tensor] = []
    by_image: Tensor | None = None
    at_once = max(1, batch_size // max(n, 1))
    with torch.inference_mode():
        for start in range(0, n, at_once):
            texts = torch.arange(start, min(start + at_once, n), device=present.device)
            left = texts.repeat_interleave(n)
            right = torch.arange(n, device=left.device).repeat(len(texts))
            pairs = torch.stack([present[left, 0], present[right, 1]], dim=1)
            logits = head(text[left], image[right], pairs).cpu().double().view(len(texts), n, -1)
            rows.append(logits.mean(dim=1))
            part = logits.sum(dim=0) / n
            by_image = part if by_image is None else by_image + part
    if by_image is None:
        return np.zeros((0, head.n_classes))
    by_text = torch.cat(rows)
    result: np.ndarray = (by_text + by_image - by_text.mean(dim=0)).cpu().numpy()
    return result
