"""The mean of several heads' predictions, as one head.

Each member's head reads its own part of embeddings that lie side by side (:mod:`cotune.encoders.members`), or the whole
of one that all members share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cotune.encoders.base import EncoderOutput
from cotune.heads.base import Embeddings, FusionHead, make_head
from cotune.tasks.links import Link, mean_outputs

#: What a run calls this head; nobody can ask for it by `fusion`, as it has to be made of trained ones.
MEMBERS = "members"


class MeanHead(FusionHead):
    """Gives outputs whose probabilities are the mean of the members' probabilities.

    Parameters
    ----------
    heads : sequence of FusionHead
        The members' heads, all of one kind and on embeddings of the same sizes.
    dims : mapping
        By field the size of the embeddings side by side, or of the one that all share.
    name : str
        The name by which the members' heads are registered.
    link : {"softmax", "sigmoid", "identity"}
        What makes probabilities of outputs.
    """

    learns_absence: ClassVar[bool] = False  # the members do

    def __init__(self, heads: Sequence[FusionHead], dims: Mapping[str, int], *, name: str, link: Link) -> None:
        super().__init__(dims, heads[0].n_outputs)
        self.name, self.link = name, link
        self.members = nn.ModuleList(heads)
        self.needs_states = heads[0].needs_states  # type: ignore[misc]
        if all(bool(head.prior.isfinite().all()) for head in heads):
            self.set_prior(mean_outputs(link, torch.stack([head.prior for head in heads]).unsqueeze(1))[0])

    @property
    def face(self) -> FusionHead:
        """The first member's head."""
        return self.members[0]  # type: ignore[return-value]

    def fuse(self, embeddings: Embeddings) -> Tensor:
        """Return outputs, shape (B, n_outputs)."""
        outputs = [head(self._of_member(embeddings, at)) for at, head in enumerate(self.members)]
        return mean_outputs(self.link, torch.stack(outputs))

    def _of_member(self, embeddings: Embeddings, at: int) -> Embeddings:
        found = {name: self._part(name, embeddings[name], at) for name in self.fields}
        states = {
            name: EncoderOutput(
                self._part(name, own.pooled, at),
                None if own.states is None else self._part(name, own.states, at),
                own.mask,
            )
            for name, own in embeddings.states.items()
        }
        return Embeddings(found, embeddings.present, states)

    def _part(self, name: str, values: Tensor, at: int) -> Tensor:
        size = self.face.dims[name]
        return values if self.dims[name] == size else values[..., at * size : (at + 1) * size]

    def absence_learned(self, at: int) -> bool:
        """Tell whether the members' heads have learned what to put in the place of a field."""
        return self.face.absence_learned(at)

    def settings(self) -> dict[str, Any]:
        """Return what builds this head again, apart from sizes and outputs."""
        member = {"name": self.name, "dims": self.face.dims, "settings": self.face.settings()}
        return {"count": len(self.members), "link": self.link, "member": member}


def restore_head(name: str, dims: Mapping[str, int], n_outputs: int, settings: Mapping[str, Any]) -> FusionHead:
    """Build the head that a run describes, without weights."""
    if name != MEMBERS:
        return make_head(name, dims, n_outputs, **settings)
    own = settings["member"]
    heads = [make_head(own["name"], own["dims"], n_outputs, **own["settings"]) for _ in range(settings["count"])]
    return MeanHead(heads, dims, name=own["name"], link=settings["link"])
