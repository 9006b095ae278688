"""What every fusion head is, and the registry of heads.

A head sees one embedding of each modality and which of them are present. An absent modality is replaced by a
learned "absent" embedding, the same that takes its place now and then in training (modality dropout), so
that a post without an image or a text is scored sensibly and an explanation can take one away. Of a post with
neither nothing is known, and the class frequencies of the training posts are the answer.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cotune.registry import Registry

HEADS: Registry[type[FusionHead]] = Registry("fusion head", "cotune.heads")


class FusionHead(nn.Module, abc.ABC):
    """Everything after the two encoders.

    Parameters
    ----------
    text_dim, image_dim : int
        Sizes of the embeddings; 0 for a modality the head does not use.
    n_classes : int
        Number of classes.
    modality_dropout : float
        Chance, per post and in training only, that one of two present modalities is taken away.
    """

    uses: ClassVar[tuple[str, ...]] = ("text", "image")
    #: Whether the head has learned what to do without a modality; if not, zeros stand in for it.
    learns_absence: ClassVar[bool] = True

    def __init__(self, text_dim: int, image_dim: int, n_classes: int, *, modality_dropout: float = 0.0) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.modality_dropout = modality_dropout
        if self.learns_absence:
            self.absent_text = nn.Parameter(torch.zeros(text_dim))
            self.absent_image = nn.Parameter(torch.zeros(image_dim))
        # Infinite until training has counted the classes, and in runs older than this.
        self.register_buffer("log_prior", torch.full((n_classes,), torch.inf))
        self.log_prior: Tensor

    def set_prior(self, weights: Sequence[float]) -> None:
        """Note how frequent the classes are; logits of a post with neither text nor image.

        No constant has a smaller cross-entropy than the logarithm of the classes' shares.

        Parameters
        ----------
        weights : sequence of float
            For each class its training posts, or the sum of their weights.
        """
        counts = torch.tensor(weights, dtype=torch.float64).clamp(min=0.5)  # an unseen class stays possible
        self.log_prior.copy_((counts / counts.sum()).log())

    @abc.abstractmethod
    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        """Return logits (B, n_classes) from embeddings (B, text_dim) and (B, image_dim)."""

    def forward(self, text: Tensor, image: Tensor, present: Tensor) -> Tensor:
        """Return logits, shape (B, n_classes).

        Parameters
        ----------
        text, image : Tensor
            Embeddings, shapes (B, text_dim) and (B, image_dim); rows of absent modalities are ignored.
        present : Tensor
            Boolean, shape (B, 2): whether text and image are there.
        """
        if self.training and self.modality_dropout > 0:
            present = drop_modalities(present, self.modality_dropout)
        logits = self.fuse(*self.stand_in(text, image, present))
        neither = ~present.any(dim=1, keepdim=True) & self.log_prior.isfinite().all()
        return torch.where(neither, self.log_prior.to(logits.dtype), logits)

    def stand_in(self, text: Tensor, image: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Put what the head has learned for an absent modality, or zeros, in the place of rows that are not there."""
        absent_text = self.absent_text if self.learns_absence else torch.zeros_like(text)
        absent_image = self.absent_image if self.learns_absence else torch.zeros_like(image)
        # Chosen and not multiplied by zero, so that not even a NaN leaks out of an absent row.
        return (
            torch.where(present[:, :1], text, absent_text.to(text.dtype)),
            torch.where(present[:, 1:], image, absent_image.to(image.dtype)),
        )

    def settings(self) -> dict[str, Any]:
        """Return the arguments that build this head anew, apart from sizes and classes."""
        return {"modality_dropout": self.modality_dropout}


def drop_modalities(present: Tensor, chance: float) -> Tensor:
    """Take one modality away from a random part of the posts that have both.

    Parameters
    ----------
    present : Tensor
        Boolean, shape (B, 2).
    chance : float
        Probability that a post loses a modality; text and image are equally likely to go.
    """
    n = len(present)
    drop = (torch.rand(n, device=present.device) < chance) & present.all(dim=1)
    which = torch.rand(n, device=present.device) < 0.5
    gone = torch.stack([drop & which, drop & ~which], dim=1)
    return present & ~gone


def make_head(name: str, text_dim: int, image_dim: int, n_classes: int, **settings: Any) -> FusionHead:
    """Build the head registered as `name`, passing on the settings that it knows: all if it takes ``**settings``.

    Raises
    ------
    ConfigError
        If no head has that name.
    """
    import inspect

    cls = HEADS[name]
    known = inspect.signature(cls.__init__).parameters
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in known.values()):
        settings = {key: value for key, value in settings.items() if key in known}
    return cls(text_dim, image_dim, n_classes, **settings)
