"""How much each field drove a prediction: exact Shapley values.

The players are the fields; a missing player is replaced by what the head has learned to put in its place. With n fields
the values need up to 2^n passes through the head, on embeddings that are there already.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import torch
from torch import Tensor

from cotune.heads.base import Embeddings, FusionHead
from cotune.tasks import Task

#: What stands in for a field that is taken away, by the name that results use for it.
REMOVED = {
    "learned": "the embedding that the head has learned for an absent field",
    "zeros": "an embedding of zeros, as the head was never trained without this field",
    "prior": "what is predicted of a post of which nothing is known, as the head reads nothing else",
    "unused": "nothing, as the head does not read this field",
}


@dataclass(frozen=True)
class Contributions:
    """Predictions and what each field contributed to them.

    All but `predictions` and `present` are on the task's scale (log-odds, or the value), of shape (B, n_outputs).

    Attributes
    ----------
    task : Task
        What the outputs mean.
    predictions : Tensor
        Probabilities or values, shape (B, n_outputs).
    base : Tensor
        What is predicted with all fields removed.
    parts : dict
        Shapley values by field; ``base`` plus all of them is the prediction. Exactly 0 for a field that the post lacks
        or the head does not read.
    alone : dict
        What is predicted from each field alone.
    interactions : dict
        Shapley interaction indices by pairs of fields: what the two say together beyond what each says alone,
        averaged over what else is there.
    present : dict
        By field, boolean of shape (B,): which posts have it, and the head reads it.
    """

    task: Task
    predictions: Tensor
    base: Tensor
    parts: dict[str, Tensor]
    alone: dict[str, Tensor]
    interactions: dict[tuple[str, str], Tensor]
    present: dict[str, Tensor]

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields, in their order."""
        return tuple(self.parts)

    def explained(self) -> Tensor:
        """Return the index of the output that shares are about, such as the predicted class; shape (B,)."""
        return self.task.explained(self.predictions)

    def of_explained(self, values: Tensor) -> Tensor:
        """Return, of values of shape (B, n_outputs), those of the explained output, shape (B,)."""
        return values.gather(1, self.explained().unsqueeze(1)).squeeze(1)

    def shares(self) -> dict[str, Tensor]:
        """Return each field's share in the explained output, shape (B,): ``|phi| / sum of |phi|``.

        They add up to 1; where no field contributes, the fields that are there share it evenly, or all of them if none
        is. A field that is there alone has the whole share.
        """
        sizes = torch.stack([self.of_explained(part).abs() for part in self.parts.values()], dim=1)
        there = torch.stack([self.present[name] for name in self.fields], dim=1)
        even = torch.where(there.any(dim=1, keepdim=True), there, torch.ones_like(there)).to(sizes.dtype)
        # A field alone has the whole even where rounding leaves it next to nothing.
        alone = there.sum(dim=1, keepdim=True) == 1
        whole = sizes.sum(dim=1, keepdim=True)
        shares = torch.where(
            (whole > 0) & ~alone, sizes / torch.where(whole > 0, whole, 1), even / even.sum(dim=1, keepdim=True)
        )
        return dict(zip(self.fields, shares.unbind(dim=1), strict=True))

    def conflict(self) -> Tensor:
        """Return how hard fields pull against each other over the explained output, shape (B,).

        The smaller of what all supporting fields contribute together and what all opposing ones do, so that both sides
        have to pull for a conflict to be large; 0 where all pull the same way.
        """
        values = torch.stack([self.of_explained(part) for part in self.parts.values()], dim=1)
        return torch.minimum(values.clamp(min=0).sum(dim=1), (-values).clamp(min=0).sum(dim=1))


def contributions(
    head: FusionHead, task: Task, embeddings: Embeddings, fields: Iterable[str] | None = None
) -> Contributions:
    """Return the exact Shapley values of all fields (Shapley 1953; Lundberg & Lee 2017).

    Parameters
    ----------
    head : FusionHead
        In evaluation mode.
    task : Task
        What its outputs mean.
    embeddings : Embeddings
        Of some posts. An absent field contributes nothing.
    fields : iterable of str, optional
        The fields to tell of, if the head does not read all of them.
    """
    n_fields = len(head.fields)
    outputs = head(embeddings)
    values = _Coalitions(head, task, embeddings)
    nothing, whole = values.of(0), values.of(2**n_fields - 1)
    weights = [factorial(size) * factorial(n_fields - size - 1) / factorial(n_fields) for size in range(n_fields)]
    parts = {}
    for at, name in enumerate(head.fields):
        others = [k for k in range(n_fields) if k != at]
        parts[name] = sum(
            (weights[_size(bits)] * (values.of(bits | 1 << at) - values.of(bits)) for bits in _subsets(others)),
            torch.zeros_like(whole),
        )
    pairs = {}
    for (i, one), (j, other) in combinations(enumerate(head.fields), 2):
        pairs[one, other] = _interaction(values, i, j, n_fields)
    alone = {name: values.of(1 << at) for at, name in enumerate(head.fields)}
    present = {name: embeddings.present[:, at] for at, name in enumerate(head.fields)}
    zeros = torch.zeros_like(whole)
    for name in set(fields or ()) - set(head.fields):
        parts[name], alone[name], present[name] = (
            zeros,
            nothing,
            torch.zeros(len(whole), dtype=torch.bool).to(zeros.device),
        )
    order = tuple(fields or head.fields)
    return Contributions(
        task,
        task.predictions(outputs),
        nothing,
        {name: parts[name] for name in order},
        {name: alone[name] for name in order},
        {pair: pairs.get(pair, zeros) for pair in combinations(order, 2)},
        {name: present[name] for name in order},
    )


class _Coalitions:
    """What the head says when only some fields are left, each set of fields computed once.

    A set is a number whose bits are the fields. For a post that lacks a field, sets with and without it are the very
    same numbers and not merely close ones: an absent field is to contribute a plain 0.
    """

    def __init__(self, head: FusionHead, task: Task, embeddings: Embeddings) -> None:
        self.head, self.task, self.embeddings = head, task, embeddings
        powers = 2 ** torch.arange(len(head.fields), device=embeddings.present.device)
        self.there = (embeddings.present.long() * powers).sum(dim=1)
        self.kinds = sorted(set(self.there.tolist()))
        self._known: dict[int, Tensor] = {}

    def of(self, bits: int) -> Tensor:
        """Return the values with the fields in `bits` left, shape (B, n_outputs)."""
        wanted = {kind: self._pass(kind & bits) for kind in self.kinds}
        if len(wanted) == 1:
            return next(iter(wanted.values()))
        found = torch.zeros_like(next(iter(wanted.values())))
        for kind, values in wanted.items():
            found = torch.where((self.there == kind).unsqueeze(1), values, found)
        return found

    def _pass(self, bits: int) -> Tensor:
        if bits not in self._known:
            posts, n = self.embeddings, self.embeddings.n_posts
            left = torch.tensor(
                [bits >> at & 1 == 1 for at in range(len(self.head.fields))], device=posts.present.device
            )
            if bits == 0:  # nothing of the post is left, so one row stands for all
                one = posts.rows(torch.zeros(min(n, 1), dtype=torch.long, device=left.device))
                outputs = self.head(one.with_present(left.expand(len(one.present), -1)))
                self._known[bits] = self.task.contribution_scale(outputs).expand(n, -1)
            else:
                outputs = self.head(posts.with_present(left.expand(n, -1)))
                self._known[bits] = self.task.contribution_scale(outputs)
        return self._known[bits]


def _interaction(values: _Coalitions, i: int, j: int, n: int) -> Tensor:
    """Return the Shapley interaction index of two fields (Grabisch & Roubens 1999)."""
    one, other = 1 << i, 1 << j
    total = torch.zeros_like(values.of(0))
    for bits in _subsets([k for k in range(n) if k not in (i, j)]):
        size = _size(bits)
        weight = factorial(size) * factorial(n - size - 2) / factorial(n - 1)
        both, neither = values.of(bits | one | other), values.of(bits)
        total = total + weight * (both - values.of(bits | one) - values.of(bits | other) + neither)
    return total


def _subsets(places: list[int]) -> Iterable[int]:
    return (sum(1 << k for k in chosen) for size in range(len(places) + 1) for chosen in combinations(places, size))


def _size(bits: int) -> int:
    return bits.bit_count()


def removed_state(head: FusionHead, fields: Iterable[str]) -> dict[str, str]:
    """Return, for each of `fields`, which key of :data:`REMOVED` says what stands in for it."""
    state = {}
    knows_prior = bool(head.prior.isfinite().all())
    for name in fields:
        if name not in head.fields:
            state[name] = "unused"
        elif len(head.fields) == 1 and knows_prior:
            state[name] = "prior"
        else:
            state[name] = "learned" if head.absence_learned(head.fields.index(name)) else "zeros"
    return state
