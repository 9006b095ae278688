"""Does the model use text-image interaction? What both modalities together say and no sum of them says.

EMAP (Hessel & Lee, "Does my multimodal model learn cross-modal interactions? It's harder to tell than you
might think!", EMNLP 2020): among all functions of the form f(text) + g(image), the one nearest to a model's
logits over all pairs of the posts' texts and images is the sum of the two partial means less the whole mean.
What it gets wrong and the model gets right is owed to cross-modal interaction.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cotune.heads import Embeddings, FusionHead


def can_project(head: FusionHead) -> bool:
    """Tell whether a head's answers can be projected: it reads two fields, and their embeddings alone."""
    return len(head.fields) == 2 and not head.needs_states


def additive_outputs(head: FusionHead, posts: Embeddings, *, batch_size: int = 8192) -> np.ndarray:
    """Return the additive projection of the head's outputs at the posts themselves, shape (N, n_outputs).

    The first field of every post is paired with the second of every other: N * N passes through the head, in batches.

    Parameters
    ----------
    head : FusionHead
        Of two fields, in evaluation mode.
    posts : Embeddings
        Some posts.
    batch_size : int
        Pairs in one pass.
    """
    one, other = head.fields
    n, present = posts.n_posts, posts.present
    rows: list[Tensor] = []
    by_other: Tensor | None = None
    at_once = max(1, batch_size // max(n, 1))
    with torch.inference_mode():
        for start in range(0, n, at_once):
            first = torch.arange(start, min(start + at_once, n), device=present.device)
            left = first.repeat_interleave(n)
            right = torch.arange(n, device=left.device).repeat(len(first))
            pairs = torch.stack([present[left, 0], present[right, 1]], dim=1)
            paired = Embeddings({one: posts[one][left], other: posts[other][right]}, pairs)
            outputs = head(paired).cpu().double().view(len(first), n, -1)
            rows.append(outputs.mean(dim=1))
            part = outputs.sum(dim=0) / n
            by_other = part if by_other is None else by_other + part
    if by_other is None:
        return np.zeros((0, head.n_outputs))
    by_one = torch.cat(rows)
    result: np.ndarray = (by_one + by_other - by_one.mean(dim=0)).cpu().numpy()
    return result
