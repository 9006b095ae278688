"""What every fusion head is, and the registry of heads.

A head sees one embedding of each field and which fields are present. An absent field is replaced by a learned "absent"
embedding, the same that takes its place now and then in training (modality dropout), so that a post without an image
or a text is scored sensibly and an explanation can take one away. Of a post without any field nothing is known, and
the task's prior is the answer.
"""

from __future__ import annotations

import abc
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cotune.encoders.base import EncoderOutput
from cotune.errors import ConfigError, did_you_mean
from cotune.registry import Registry

HEADS: Registry[type[FusionHead]] = Registry("fusion head", "cotune.heads", base=lambda: FusionHead)


class Embeddings(dict[str, Tensor]):
    """The embeddings of a batch by field, each of shape (B, dim).

    Attributes
    ----------
    present : Tensor
        Boolean, shape (B, F): which posts have which field, in the order of the fields; rows of absent fields hold
        nothing of meaning.
    states : dict
        By field the token or patch states; only if the head asks for them.
    """

    def __init__(
        self,
        embeddings: Mapping[str, Tensor],
        present: Tensor,
        states: Mapping[str, EncoderOutput] | None = None,
    ) -> None:
        super().__init__(embeddings)
        self.present = present
        self.states = dict(states or {})

    def __getitem__(self, field: str) -> Tensor:
        return super().__getitem__(field)

    @property
    def n_posts(self) -> int:
        """How many posts there are."""
        return len(self.present)

    def with_present(self, present: Tensor) -> Embeddings:
        """Return the same posts with other fields present."""
        return Embeddings(self, present, self.states)

    def replaced(self, field: str, embedding: Tensor, output: EncoderOutput | None = None) -> Embeddings:
        """Return copies of a single post, as many as there are embeddings of one field that replace its own."""
        n = len(embedding)
        found = {name: embedding if name == field else own.expand(n, -1) for name, own in self.items()}
        states = {
            name: own if name == field and output is None else _expanded(own, n) for name, own in self.states.items()
        }
        if output is not None and field in states:
            states[field] = output
        return Embeddings(found, self.present.expand(n, -1), states)

    def only(self, fields: Sequence[str]) -> Embeddings:
        """Return some of the fields of the same posts."""
        names = list(self)
        present = self.present[:, [names.index(name) for name in fields]]
        states = {name: own for name, own in self.states.items() if name in fields}
        return Embeddings({name: self[name] for name in fields}, present, states)

    def rows(self, at: Tensor) -> Embeddings:
        """Return the posts at these positions."""
        states = {
            name: EncoderOutput(
                own.pooled[at],
                None if own.states is None else own.states[at],
                None if own.mask is None else own.mask[at],
            )
            for name, own in self.states.items()
        }
        return Embeddings({name: own[at] for name, own in self.items()}, self.present[at], states)


def concatenate(parts: Sequence[Embeddings]) -> Embeddings:
    """Return the posts of several batches as one; states are left out, as their lengths differ."""
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Embeddings(found, torch.cat([part.present for part in parts]))


def _expanded(output: EncoderOutput, n: int) -> EncoderOutput:
    states = None if output.states is None else output.states.expand(n, -1, -1)
    return EncoderOutput(
        output.pooled.expand(n, -1), states, None if output.mask is None else output.mask.expand(n, -1)
    )


class FusionHead(nn.Module, abc.ABC):
    """Everything after the encoders, up to the task's outputs.

    Parameters
    ----------
    dims : mapping
        Size of the embedding of every field that the head reads, in their order.
    n_outputs : int
        Number of outputs of the task.
    modality_dropout : float
        Probability, per post and in training only, that a post loses some of its fields.
    """

    #: Whether the head has learned what to do without a field; if not, zeros stand in for it.
    learns_absence: ClassVar[bool] = True
    #: Whether the head reads token and patch states (``embeddings.states``) besides the embeddings.
    needs_states: ClassVar[bool] = False

    def __init__(self, dims: Mapping[str, int], n_outputs: int, *, modality_dropout: float = 0.0) -> None:
        super().__init__()
        self.dims = dict(dims)
        self.n_outputs = n_outputs
        self.modality_dropout = modality_dropout
        if self.learns_absence:
            self.absent = nn.ParameterList([nn.Parameter(torch.zeros(dim)) for dim in dims.values()])
        # Infinite until training has set it, and in runs older than this.
        self.register_buffer("prior", torch.full((n_outputs,), torch.inf))
        self.prior: Tensor

    @classmethod
    def reads(cls, kinds: Mapping[str, str]) -> tuple[str, ...]:
        """Return which fields the head reads; `kinds` maps the fields to their kinds. All of them by default."""
        return tuple(kinds)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that the head reads, in their order."""
        return tuple(self.dims)

    @property
    def face(self) -> FusionHead:
        """The head that says what kind this one is: itself, or of several the first."""
        return self

    def set_prior(self, outputs: Tensor) -> None:
        """Note the outputs for a post without any field, shape (n_outputs,)."""
        self.prior.copy_(outputs)

    @abc.abstractmethod
    def fuse(self, embeddings: Embeddings) -> Tensor:
        """Return outputs (B, n_outputs) from the embeddings of all fields, each (B, dim)."""

    def own_loss(
        self, embeddings: Embeddings, outputs: Tensor, targets: Tensor, loss: Callable[..., Tensor]
    ) -> Tensor | None:
        """Return a loss that is added to the task's in training, a number; None for none.

        Parameters
        ----------
        embeddings : Embeddings
            As the encoders gave them: absent fields are not replaced.
        outputs : Tensor
            What :meth:`fuse` made of them, shape (B, n_outputs).
        targets : Tensor
            The task's targets.
        loss : callable
            The task's loss, a function of outputs and targets, for further outputs that the head has in training.
        """
        return None

    def forward(self, embeddings: Embeddings) -> Tensor:
        """Return outputs, shape (B, n_outputs)."""
        present = embeddings.present
        if self.training and self.modality_dropout > 0:
            present = drop_fields(present, self.modality_dropout)
        outputs = self.fuse(self.stand_in(embeddings.with_present(present)))
        if self.training:  # a head is trained before anything else, and a traced graph takes no look at sizes
            self._check_outputs(outputs, len(present))
        nothing = ~present.any(dim=1, keepdim=True) & self.prior.isfinite().all()
        return torch.where(nothing, self.prior.to(outputs.dtype), outputs)

    def _check_outputs(self, outputs: Any, n: int) -> None:
        """Refuse outputs of another shape than the task expects, before the loss fails on them."""
        if isinstance(outputs, Tensor) and outputs.shape == (n, self.n_outputs):
            return
        given = f"a tensor of shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ConfigError(
            f"fuse() of the fusion head {type(self).__name__} returned {given}, expected a tensor of shape "
            f"{(n, self.n_outputs)}: a row for each post, a column for each output"
        )

    def stand_in(self, embeddings: Embeddings) -> Embeddings:
        """Put what the head has learned for an absent field, or zeros, in the place of rows that are not there."""
        found = {}
        states = {}
        for at, name in enumerate(self.fields):
            given, here = embeddings[name], embeddings.present[:, at : at + 1]
            absent = self.absent[at].to(given.dtype) if self.learns_absence else torch.zeros_like(given)
            # Chosen and not multiplied by zero, so that not even a NaN leaks out of an absent row.
            found[name] = torch.where(here, given, absent)
            if name in embeddings.states:
                states[name] = _without(embeddings.states[name], here)
        return Embeddings(found, embeddings.present, states)

    def absence_learned(self, at: int) -> bool:
        """Tell whether something was learned to stand in for the field at a position.

        A learned embedding starts at zero and leaves it with the first training post that lacks the field, so one that
        is still zero was never learned.
        """
        return self.learns_absence and bool((self.absent[at] != 0).any())

    def settings(self) -> dict[str, Any]:
        """Return the arguments that build this head again, apart from sizes and outputs."""
        return {"modality_dropout": self.modality_dropout}


def _without(output: EncoderOutput, here: Tensor) -> EncoderOutput:
    """Return states of which those of absent rows are zero and masked."""
    if output.states is None:
        return output
    n, length = output.states.shape[:2]
    mask = output.mask if output.mask is not None else here.new_ones((n, length))
    states = torch.where(here.unsqueeze(-1), output.states, torch.zeros_like(output.states))
    return EncoderOutput(output.pooled, states, mask & here)


def drop_fields(present: Tensor, chance: float) -> Tensor:
    """Take some fields away from a random part of the posts that have more than one.

    Which ones is drawn evenly from all choices that leave at least one and take at least one: of two fields either.

    Parameters
    ----------
    present : Tensor
        Boolean, shape (B, F).
    chance : float
        Probability that a post loses fields.
    """
    n = len(present)
    there = present.sum(dim=1)
    drop = (torch.rand(n, device=present.device) < chance) & (there > 1)
    choices = 2 ** there.clamp(min=2) - 2
    chosen = 1 + (torch.rand(n, device=present.device) * choices).long().clamp(max=choices - 1)
    place = (present.cumsum(dim=1) - 1).clamp(min=0)
    gone = (chosen.unsqueeze(1) >> place) & 1 == 1
    return present & ~(gone & drop.unsqueeze(1))


def make_head(name: str, dims: Mapping[str, int], n_outputs: int, **settings: Any) -> FusionHead:
    """Build the head registered as `name`, passing on the settings that it knows: all if it takes ``**settings``.

    Parameters
    ----------
    name : str
        Name of the head.
    dims : mapping
        Size of the embedding of every field that it reads.
    n_outputs : int
        Number of outputs.
    settings
        Settings that heads may take, such as ``width``; others are left out.

    Raises
    ------
    ConfigError
        If no head has that name, or the head cannot be built from these arguments or record its own.
    """
    known = _parameters(name)
    if known is not None:
        settings = {key: value for key, value in settings.items() if key in known}
    try:
        inspect.signature(HEADS[name]).bind(dims, n_outputs, **settings)
    except TypeError as error:
        raise ConfigError(
            f"the fusion head {name!r} cannot be built from (dims, n_outputs, and its settings by name): {error}"
        ) from error
    head = HEADS[name](dims, n_outputs, **settings)
    _check_settings(name, head)
    return head


def _check_settings(name: str, head: FusionHead) -> None:
    """Refuse a head that could be trained, but not saved."""
    given = head.settings()
    try:
        if not isinstance(given, dict):
            raise TypeError(f"it is {type(given).__name__}, expected a dict")
        json.dumps(given)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"what settings() of the fusion head {name!r} returned cannot be written into a run ({error}); "
            "return a dict of numbers, strings and lists"
        ) from error


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse settings of a head's own that it does not take.

    Raises
    ------
    ConfigError
        With the nearest name.
    """
    known = _parameters(name)
    for key in options if known is not None else ():
        if key not in known:  # type: ignore[operator]
            raise ConfigError(f"the fusion head {name!r} has no setting {key!r}{did_you_mean(key, known or ())}")


def _parameters(name: str) -> list[str] | None:
    """Return the settings that a head takes; None if it takes any."""
    found = inspect.signature(HEADS[name].__init__).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in found.values()):
        return None
    return [key for key in found if key not in ("self", "dims", "n_outputs")]
