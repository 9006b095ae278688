"""How much text and image each drove a prediction: the exact two-player Shapley value.

The players are the two modalities; a missing player is replaced by what the head has learned to put in its
place. With two players the value needs four passes through the head, on embeddings that are there already.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cotune.fusion.base import FusionHead

#: What stands in for a modality that is taken away, by the name that results use for it.
REMOVED = {
    "learned": "the embedding that the head has learned for an absent modality",
    "zeros": "an embedding of zeros, as the head was never trained without this modality",
    "prior": "the class frequencies of the training posts, as the head reads nothing else",
    "unused": "nothing, as the head does not read this modality",
}


@dataclass(frozen=True)
class ModalityContributions:
    """Probabilities and what each modality contributed to them.

    All but `proba` and `present` are in log-odds, ``log(p / (1 - p))``, and have shape (B, n_classes).

    Attributes
    ----------
    proba : Tensor
        Class probabilities, shape (B, n_classes).
    base : Tensor
        The log-odds with both modalities removed: those of the classes' frequencies in training.
    text, image : Tensor
        Shapley values; ``base + text + image`` are the log-odds of `proba`. Exactly 0 for a modality that the
        post lacks or the head does not read.
    interaction : Tensor
        Shapley interaction: what the two say together beyond what each says alone.
    present : Tensor
        Boolean, shape (B, 2): which modalities were there to contribute.
    """

    proba: Tensor
    base: Tensor
    text: Tensor
    image: Tensor
    interaction: Tensor
    present: Tensor

    def shares(self) -> tuple[Tensor, Tensor]:
        """Return the normalised shares of text and image in the predicted class, each of shape (B,).

        ``|phi_text| / (|phi_text| + |phi_image|)``; one half each where neither contributes. A modality that
        is there alone has the whole share.
        """
        text, image = (part.abs() for part in self.of_predicted())
        whole = text + image
        share = torch.where(whole > 0, text / whole.clamp(min=1e-12), torch.full_like(text, 0.5))
        alone = self.present[:, 0] ^ self.present[:, 1]
        share = torch.where(alone, self.present[:, 0].to(share.dtype), share)
        return share, 1 - share

    def predicted(self) -> Tensor:
        """Return the index of the most likely class, shape (B,)."""
        return self.proba.argmax(dim=1)

    def of_predicted(self) -> tuple[Tensor, Tensor]:
        """Return the signed contributions of text and image to the predicted class, each of shape (B,)."""
        top = self.predicted().unsqueeze(1)
        return self.text.gather(1, top).squeeze(1), self.image.gather(1, top).squeeze(1)

    def text_alone(self) -> Tensor:
        """Return the log-odds with the image removed, shape (B, n_classes)."""
        return self.base + self.text - self.interaction / 2

    def image_alone(self) -> Tensor:
        """Return the log-odds with the text removed, shape (B, n_classes)."""
        return self.base + self.image - self.interaction / 2

    def conflict(self) -> Tensor:
        """Return how hard the two modalities pull against each other over the predicted class, shape (B,).

        Where one speaks for the class and the other against it, the size of the smaller contribution, so that
        both have to pull for a conflict to be large; else 0.
        """
        text, image = self.of_predicted()
        apart = torch.minimum(text.abs(), image.abs())
        return torch.where(text * image < 0, apart, torch.zeros_like(apart))


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
    device = present.device
    only_text = present & torch.tensor([True, False], device=device)
    only_image = present & torch.tensor([False, True], device=device)
    logits = head(text, image, present)
    both = log_odds(logits)
    # Nothing of the post is left, so one row stands for all.
    nothing = log_odds(head(text[:1], image[:1], torch.zeros_like(present[:1]))).expand_as(both)
    able = present & torch.tensor([name in head.uses for name in ("text", "image")], device=device)
    # Chosen, not computed: rounding differs with the size of a batch, and an absent modality is to give a plain 0.
    has_text, has_image = able[:, :1], able[:, 1:]
    with_text = log_odds(head(text, image, only_text)) if bool(able.all(1).any()) else both
    with_image = log_odds(head(text, image, only_image)) if bool(able.all(1).any()) else both
    with_text = torch.where(has_text, torch.where(has_image, with_text, both), nothing)
    with_image = torch.where(has_image, torch.where(has_text, with_image, both), nothing)
    both = torch.where(has_text | has_image, both, nothing)
    return ModalityContributions(
        torch.softmax(logits, dim=1),
        nothing,
        ((with_text - nothing) + (both - with_image)) / 2,
        ((with_image - nothing) + (both - with_text)) / 2,
        both - with_text - with_image + nothing,
        able,
    )


def removed_state(head: FusionHead) -> dict[str, str]:
    """Return, for text and image, which key of :data:`REMOVED` says what stands in for it.

    A learned embedding starts at zero and leaves it with the first training post that lacks the modality, so
    one that is still zero was never learned.
    """
    state = {}
    knows_prior = bool(head.log_prior.isfinite().all())
    for name in ("text", "image"):
        if name not in head.uses:
            state[name] = "unused"
            continue
        if len(head.uses) == 1 and knows_prior:
            state[name] = "prior"
            continue
        learned = head.learns_absence and bool((getattr(head, f"absent_{name}") != 0).any())
        state[name] = "learned" if learned else "zeros"
    return state


def log_odds(logits: Tensor) -> Tensor:
    """Return ``log(p / (1 - p))`` of every class, computed without leaving the logarithm; shape (B, C)."""
    n_classes = logits.shape[1]
    if n_classes == 2:
        return logits - logits.flip(1)
    rest = [torch.logsumexp(logits[:, [k for k in range(n_classes) if k != c]], dim=1) for c in range(n_classes)]
    return logits - torch.stack(rest, dim=1)
