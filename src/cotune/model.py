"""The joint model: encoders by field, a fusion head and a task, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cotune.encoders.base import Encoder, EncoderOutput
from cotune.encoders.frozen_engine import FrozenEngine
from cotune.heads import HEADS, Embeddings, FusionHead
from cotune.heads.members import MEMBERS, MeanHead
from cotune.tasks import Task
from cotune.tasks.losses import Loss


@dataclass
class Batch:
    """A batch of posts on its way through the model.

    Attributes
    ----------
    present : Tensor
        Boolean, shape (B, F): which posts have which field, in the order of `fields`.
    fields : tuple of str
        The fields.
    inputs : dict
        For each field the inputs of its encoder, one row for each post that *has* the field.
    targets : Tensor or None
        The task's targets, shape (B,) or (B, n_outputs).
    rows : Tensor or None
        Positions of the posts in their table, shape (B,).
    weights : Tensor or None
        How much each post counts in training, shape (B,).
    taught : Tensor or None
        Probabilities that other models gave of the posts, shape (B, n_outputs); NaN in rows without.
    whole : Tensor or None
        Positions of the posts of the whole batch, where this is one device's part of it.
    places : dict
        Of a field that some posts lack, those that have it, as positions in the batch. A GPU need not be asked for what
        is known from the start.
    """

    present: Tensor
    fields: tuple[str, ...]
    inputs: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    targets: Tensor | None = None
    rows: Tensor | None = None
    weights: Tensor | None = None
    taught: Tensor | None = None
    whole: Tensor | None = None
    places: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in memory from which a GPU copies by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, move: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with what a model reads of it moved."""
        inputs: dict[str, Mapping[str, Tensor]] = {
            name: {key: move(value) for key, value in part.items()} for name, part in self.inputs.items()
        }
        named = {name: getattr(self, name) for name in ("targets", "weights", "taught")}
        moved: dict[str, Any] = {name: move(value) for name, value in named.items() if value is not None}
        places = {name: move(at) for name, at in self.places.items()}
        return replace(self, present=move(self.present), inputs=inputs, places=places, **moved)

    def __len__(self) -> int:
        return len(self.present)


class JointModel(nn.Module):
    """Encoders whose embeddings meet in a fusion head.

    Parameters
    ----------
    encoders : mapping
        The encoder of every field that the head reads, in the head's order; several fields may share one.
    head : FusionHead
        What fuses the embeddings and gives the outputs.
    task : Task
        What the outputs mean.
    """

    def __init__(self, encoders: Mapping[str, Encoder], head: FusionHead, task: Task) -> None:
        super().__init__()
        self.encoders: dict[str, Encoder] = {name: encoders[name] for name in head.fields}
        # Numbered, as names of fields may hold what names of modules may not.
        #: What runs encoders where no gradients are wanted, by field.
        self.engines: dict[str, FrozenEngine] = {}
        #: Whether every encoder runs in every batch, as devices that hold parts of its weights need it to.
        self.always_encode = False
        self._encoders = nn.ModuleList(self.encoders.values())
        self.head = head
        self.task = task

    @property
    def distinct_encoders(self) -> dict[str, Encoder]:
        """The encoders, each once, by the first field that uses it."""
        found: dict[int, str] = {}
        for name, encoder in self.encoders.items():
            found.setdefault(id(encoder), name)
        return {name: self.encoders[name] for name in found.values()}

    def embed(self, batch: Batch) -> Embeddings:
        """Return the embeddings of all fields; zeros where a field is absent."""
        present = batch.present[:, [batch.fields.index(name) for name in self.encoders]]
        outputs = {name: self._embed_one(batch, name, present[:, at]) for at, name in enumerate(self.encoders)}
        states = outputs if self.head.needs_states else None
        return Embeddings({name: output.pooled for name, output in outputs.items()}, present, states)

    def encode(self, name: str, inputs: Mapping[str, Tensor]) -> EncoderOutput:
        """Encode a field's raw inputs; by its engine where it has one and no gradients are wanted."""
        if name in self.engines and not torch.is_grad_enabled():
            return self.engines[name].output(inputs)
        found: EncoderOutput = self.encoders[name](inputs)
        return found

    def _embed_one(self, batch: Batch, name: str, here: Tensor) -> EncoderOutput:
        encoder = self.encoders[name]
        n, device = len(batch), batch.present.device
        if name not in batch.inputs:
            empty = torch.zeros((n, 1, encoder.dim), device=device) if self.head.needs_states else None
            nothing = torch.zeros((n, 1), dtype=torch.bool, device=device)
            pooled = torch.zeros((n, encoder.dim), device=device)
            return EncoderOutput(pooled + self._of_nothing(encoder, device), empty, nothing)
        output = self.encode(name, batch.inputs[name])
        pooled, states, mask = output.pooled.float(), output.states, output.mask
        if states is not None and self.head.needs_states:
            states = states.float()
        if len(pooled) == n:
            return EncoderOutput(pooled, states, mask)
        at = batch.places[name] if name in batch.places else here.nonzero().squeeze(1)
        return EncoderOutput(
            _spread(pooled, n, at),
            _spread(states, n, at) if states is not None and self.head.needs_states else None,
            None if mask is None else _spread(mask, n, at),
        )

    def _of_nothing(self, encoder: Encoder, device: torch.device) -> Tensor | float:
        """Return zero; one that the encoder has a part in, where it has to run."""
        if not self.always_encode:
            return 0.0
        inputs = {key: value.to(device) for key, value in encoder.dummy_inputs().items()}
        return encoder(inputs).pooled.float().sum() * 0.0  # type: ignore[no-any-return]

    def forward(self, batch: Batch, loss: Loss | None = None) -> Tensor:
        """Return outputs, shape (B, n_outputs), or the loss of the batch, a number, if one is given."""
        embeddings = self.embed(batch)
        with _full_precision(batch.present.device):
            outputs: Tensor = self.head(embeddings)
            if loss is None:
                return outputs
            assert batch.targets is not None
            taught = {} if batch.taught is None else {"taught": batch.taught}
            total = loss(outputs.float(), batch.targets, batch.weights, **taught)
            weighted = partial(loss, weights=batch.weights)
            own = self.head.own_loss(embeddings, outputs, batch.targets, weighted)
            result: Tensor = total if own is None else total + own
            return result

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters of each encoder, of the head and in total."""
        counts = {name: encoder.n_parameters() for name, encoder in self.distinct_encoders.items()}
        counts["head"] = sum(p.numel() for p in self.head.parameters())
        counts["total"] = sum(counts.values())
        return counts


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return what keeps the head and the loss in float32 where encoders run in fewer bits."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def _spread(values: Tensor, n: int, at: Tensor) -> Tensor:
    """Return rows put at their places among `n`, zeros elsewhere."""
    return torch.zeros((n, *values.shape[1:]), dtype=values.dtype, device=values.device).index_put((at,), values)


def head_name(head: FusionHead) -> str:
    """Return the name under which a fusion head is registered, or that of the mean of several."""
    if isinstance(head, MeanHead):
        return MEMBERS
    return next(name for name in HEADS if HEADS[name] is type(head))


def head_title(head: FusionHead) -> str:
    """Return what a fusion head is, for people."""
    many = f", the mean of {len(head.members)}" if isinstance(head, MeanHead) else ""
    return head_name(head.face) + many
