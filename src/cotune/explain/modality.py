"""How much text and image each drove a prediction: the exact two-player Shapley value.

The players are the two modalities; a missing player is replaced by what the head has learned to put in its
place. With two players the value needs four passes through the head, on embeddings that are there already.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cotune.fusion import FusionHead


@dataclass(frozen=True)
class ModalityContributions:
    """Probabilities and what each modality contributed to them.

    All but `proba` are in log-odds, ``log(p / (1 - p))``, and have shape (B, n_classes).

    Attributes
    ----------
    proba : Tensor
        Class probabilities, shape (B, n_classes).
    base : Tensor
        The log-odds with both modalities removed.
    text, image : Tensor
        Shapley values; ``base + text + image`` are the log-odds of `proba`.
    interaction : Tensor
        Shapley interaction: what the two say together beyond what each says alone.
    """

    proba: Tensor
    base: Tensor
    text: Tensor
    image: Tensor
    interaction: Tensor

    def shares(self) -> tuple[Tensor, Tensor]:
        """Return the normalised shares of text and image in the predicted class, each of shape (B,).

        ``|phi_text| / (|phi_text| + |phi_image|)``; both are one half where neither contributes.
        """
        top = self.proba.argmax(dim=1, keepdim=True)
        text = self.text.gather(1, top).squeeze(1).abs()
        image = self.image.gather(1, top).squeeze(1).abs()
        whole = text + image
        share = torch.where(whole > 0, text / whole.clamp(min=1e-12), torch.full_like(text, 0.5))
        return share, 1 - share


def modality_contributions(head: FusionHead, text: Tensor, image: Tensor, present: Tensor) -> ModalityContributions:
    """Return the exact Shapley values of both modalities (Shapley 1953; Lundberg & Lee 2017).

    Parameters
    ----------
    head : FusionHead
        In evaluation mode.
    text, image : Tensor
        Embeddings, shapes (B, text_dim) and (B, image_dim).
    present : Tensor
        Boolean, shape (B, 2). An absent modality contributes nothing.
    """
    only_text = present & torch.tensor([True, False], device=present.device)
    only_image = present & torch.tensor([False, True], device=present.device)
    logits = head(text, image, present)
    both = log_odds(logits)
    with_text = log_odds(head(text, image, only_text))
    with_image = log_odds(head(text, image, only_image))
    # Nothing of the post is left, so one row stands for all.
    nothing = log_odds(head(text[:1], image[:1], torch.zeros_like(present[:1]))).expand_as(both)
    return ModalityContributions(
        torch.softmax(logits, dim=1),
        nothing,
        ((with_text - nothing) + (both - with_image)) / 2,
        ((with_image - nothing) + (both - with_text)) / 2,
        both - with_text - with_image + nothing,
    )


def log_odds(logits: Tensor) -> Tensor:
    """Return ``log(p / (1 - p))`` of every class, computed without leaving the logarithm; shape (B, C)."""
    n_classes = logits.shape[1]
    if n_classes == 2:
        return logits - logits.flip(1)
    rest = [torch.logsumexp(logits[:, [k for k in range(n_classes) if k != c]], dim=1) for c in range(n_classes)]
    return logits - torch.stack(rest, dim=1)
