"""The whole model as one module of tensors alone: encoders, head, task, and what each field contributed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import factorial

import numpy as np
import torch
from torch import Tensor, nn

from cotune.export.graph_names import CONTRIBUTIONS, PARTS, PREDICTIONS, SHARES
from cotune.heads import Embeddings
from cotune.model import JointModel


class ExportGraph(nn.Module):
    """A joint model whose posts all come with inputs for every field.

    A post that lacks a field brings any valid input for it, and `present` says that it is not there. Inputs are named
    ``FIELD.NAME``, such as ``text.input_ids`` and ``image.pixels``.

    Parameters
    ----------
    model : JointModel
        In evaluation mode, on the CPU, not cut.
    parts : bool
        Whether interactions, and what nothing and each field alone says, are outputs too.
    """

    def __init__(self, model: JointModel, *, parts: bool = False) -> None:
        super().__init__()
        self.model = model
        self.parts = parts
        n = len(model.encoders)
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1  # which fields are left in each set of them
        self.register_buffer("sets", torch.from_numpy(bits == 1))
        self.register_buffer("shapley", torch.from_numpy(shapley_weights(n)).float())
        self.register_buffer("pairs", torch.from_numpy(interaction_weights(n)).float())
        self.sets: Tensor
        self.shapley: Tensor
        self.pairs: Tensor

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return (PREDICTIONS, SHARES, CONTRIBUTIONS, *(PARTS if self.parts else ()))

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the outputs.

        Parameters
        ----------
        inputs : mapping
            ``present``, boolean of shape (B, F) in the order of the model's fields, and the inputs of all encoders.

        Returns
        -------
        predictions : Tensor
            Probabilities or values, shape (B, n_outputs).
        shares : Tensor
            Each field's share in the output that is explained, shape (B, F).
        contributions : Tensor
            What each field adds to each output on the task's scale, shape (B, F, n_outputs).
        base, alone, interactions : Tensor
            On the task's scale, shapes (B, n_outputs), (B, F, n_outputs) and (B, P, n_outputs) with P pairs of fields;
            only if asked for.
        """
        head, task, present = self.model.head, self.model.task, inputs["present"]
        outputs = {name: encoder.encode(of_field(inputs, name)) for name, encoder in self.model.encoders.items()}
        pooled = {name: output.pooled.float() for name, output in outputs.items()}
        states = outputs if head.needs_states else None
        n_sets = len(self.sets)
        # All sets of fields in one pass of the head: the batch once for each set.
        left = present.unsqueeze(0) & self.sets.unsqueeze(1)
        tiled = Embeddings(
            {name: _tiled(embedding, n_sets) for name, embedding in pooled.items()},
            left.flatten(0, 1),
            None
            if states is None
            else {
                name: type(output)(
                    _tiled(output.pooled, n_sets),
                    None if output.states is None else _tiled(output.states, n_sets),
                    None if output.mask is None else _tiled(output.mask, n_sets),
                )
                for name, output in states.items()
            },
        )
        raw = head(tiled)
        predictions = task.predictions(raw.unflatten(0, (n_sets, -1))[-1])
        values = task.contribution_scale(raw).unflatten(0, (n_sets, -1))
        there = present.unsqueeze(2)
        parts = torch.einsum("fs,sbk->bfk", self.shapley, values).masked_fill(~there, 0.0)
        explained = task.explained(predictions)
        sizes = parts.abs().gather(2, explained[:, None, None].expand(-1, parts.shape[1], 1)).squeeze(2)
        shares = _shares(sizes, present)
        if not self.parts:
            return predictions, shares, parts
        alone = torch.stack([values[1 << at] for at in range(present.shape[1])], dim=1)
        interactions = torch.einsum("ps,sbk->bpk", self.pairs, values)
        return predictions, shares, parts, values[0], alone, interactions


def of_field(inputs: Mapping[str, Tensor], field: str) -> dict[str, Tensor]:
    """Return the inputs of one field's encoder by their own names."""
    prefix = f"{field}."
    return {name[len(prefix) :]: value for name, value in inputs.items() if name.startswith(prefix)}


def shapley_weights(n: int) -> np.ndarray:
    """Return the matrix that turns values of all sets of fields into Shapley values, shape (n, 2^n).

    Set s holds field k if bit k of s is set; see :func:`cotune.heads.contributions.contributions`.
    """
    found = np.zeros((n, 2**n))
    for at in range(n):
        for bits in range(2**n):
            size = bits.bit_count()
            if bits >> at & 1:
                found[at, bits] = factorial(size - 1) * factorial(n - size) / factorial(n)
            else:
                found[at, bits] = -factorial(size) * factorial(n - size - 1) / factorial(n)
    return found


def interaction_weights(n: int) -> np.ndarray:
    """Return the matrix that gives the Shapley interaction index of every pair of fields, shape (pairs, 2^n)."""
    pairs = list(combinations(range(n), 2))
    found = np.zeros((len(pairs), 2**n))
    for row, (i, j) in zip(found, pairs, strict=True):
        for bits in range(2**n):
            others = bits & ~(1 << i | 1 << j)
            size = others.bit_count()
            sign = 1 if (bits >> i & 1) == (bits >> j & 1) else -1
            row[bits] = sign * factorial(size) * factorial(n - size - 2) / factorial(n - 1)
    return found


def _tiled(values: Tensor, times: int) -> Tensor:
    return values.unsqueeze(0).expand(times, *values.shape).flatten(0, 1)


def _shares(sizes: Tensor, present: Tensor) -> Tensor:
    """Return shares that add up to 1, as :meth:`cotune.heads.contributions.Contributions.shares` does."""
    nothing = ~present.any(dim=1, keepdim=True)
    even = (present | nothing).to(sizes.dtype)
    alone = present.sum(dim=1, keepdim=True) == 1
    whole = sizes.sum(dim=1, keepdim=True)
    safe = torch.where(whole > 0, whole, torch.ones_like(whole))
    return torch.where((whole > 0) & ~alone, sizes / safe, even / even.sum(dim=1, keepdim=True))
