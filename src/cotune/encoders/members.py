"""Several trainings of one encoder, side by side as one encoder.

Its embedding is theirs, one after the other. Lower parts that were not trained are the same in all of them: they are
kept once and run once.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from cotune.encoders.base import Encoder, EncoderOutput, Inputs
from cotune.encoders.prepared import Prepared, ReadOptions
from cotune.errors import EncoderError

#: What ``encoder.json`` calls the kind.
MEMBERS = "members"
_MEMBER = "member"


class MembersEncoder(Encoder):
    """Encoders that differ in their weights alone; all else is asked of the first.

    Parameters
    ----------
    members : sequence of Encoder
        Trained from the same encoder.
    n_lower : int
        How many lower units are the same in all of them; 0 for none.
    """

    def __init__(self, members: Sequence[Encoder], n_lower: int = 0) -> None:
        first = members[0]
        size = len(members) * first.dim
        super().__init__(nn.ModuleList(members), spec=first.spec, dim=size, units=())
        for name in ("modality", "learned", "ragged", "embed_batch", "probe_posts"):
            setattr(self, name, getattr(first, name))
        # A batch of texts that must not meet is encoded in several passes.
        self.shared_units = 0 if getattr(first, "by_length", False) else n_lower
        for member in members if self.shared_units else ():
            if member.n_lower != n_lower:
                member.cut_unchecked(n_lower)

    @property
    def members(self) -> list[Encoder]:
        """The encoders."""
        return [cast(Encoder, member) for member in cast(nn.ModuleList, self.model)]

    @property
    def face(self) -> Encoder:
        """The first encoder."""
        return self.members[0]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "model" not in self.__dict__.get("_modules", {}):
                raise
            return getattr(self.face, name)  # a tokenizer, what makes pixels of an image

    def encode(self, inputs: Inputs) -> EncoderOutput:
        """Run all networks; the lower part that they share once."""
        first, *others = self.members
        if self.shared_units and "hidden" not in inputs:
            found: list[EncoderOutput] = []
            hidden = first.while_lower(lambda: found.append(first.encode(inputs)))
            inputs = {**inputs, "hidden": hidden}
        else:
            found = [first(inputs)]
        found += [member(inputs) for member in others]
        states = [output.states for output in found if output.states is not None]
        return EncoderOutput(
            torch.cat([output.pooled for output in found], dim=1),
            torch.cat(states, dim=2) if len(states) == len(found) else None,
            found[0].mask,
        )

    def forward(self, inputs: Inputs) -> EncoderOutput:
        """Encode a batch from raw inputs, cached activations or a cached embedding."""
        return EncoderOutput(inputs["pooled"].float()) if "pooled" in inputs else self.encode(inputs)

    def word_embeddings(self) -> list[nn.Module]:
        """Return the layers that turn token ids into vectors, of all networks that have one of their own."""
        members: list[Any] = self.members[:1] if self.shared_units else self.members[:]
        return [layer for member in members for layer in member.word_embeddings()]

    def prepare(self, values: Sequence[Any], options: ReadOptions) -> Prepared:
        """Make one field of some posts ready, for all networks alike."""
        return self.face.prepare(values, options)

    def plain(self, inputs: Inputs) -> Tensor:
        """Return what a method without an encoder of its own may read of a batch."""
        return self.face.plain(inputs)

    def learn_from(self, prepared: Prepared, rows: np.ndarray) -> None:
        """Refuse: its networks are trained already."""
        raise EncoderError(f"{self.spec} is made of several trainings, and is not trained further")

    def dummy_inputs(self, like: Inputs | None = None) -> dict[str, Tensor]:
        """Return the smallest inputs that the networks accept."""
        return self.face.dummy_inputs(like)

    def probe_inputs(self, n: int) -> dict[str, Tensor]:
        """Return a batch of `n` random posts."""
        return self.face.probe_inputs(n)

    def take(self, inputs: Inputs, at: int) -> dict[str, Tensor]:
        """Return one post of a batch as it would be encoded alone."""
        return self.face.take(inputs, at)

    def depths(self) -> dict[str, int]:
        """Map every parameter to its depth in its network."""
        parts = enumerate(self.members)
        return {f"{at}.model.{name}": depth for at, member in parts for name, depth in member.depths().items()}

    def upper_parameters(self) -> set[str]:
        """Return the names of the parameters that are not in a lower part."""
        parts = enumerate(self.members)
        return {f"{at}.model.{name}" for at, member in parts for name in member.upper_parameters()}

    def weights_changed(self) -> None:
        """Forget what was computed from the weights."""
        for member in self.members:
            member.weights_changed()
        super().weights_changed()

    def _architecture(self) -> str:
        return self.face._architecture()

    def describe(self) -> dict[str, Any]:
        """Return how many they are, and what defines each."""
        return {
            "kind": MEMBERS,
            "modality": self.modality,
            "spec": self.spec,
            "count": len(self.members),
            "shared_units": self.shared_units,
            "of": self.face.describe(),
        }

    def save_config(self, folder: Path) -> None:
        """Write what builds one of them again, how many there are and which of their weights are the same."""
        self.face.save_config(folder / _MEMBER)
        about = {**self.describe(), "shared": self.shared_weights()}
        (folder / "encoder.json").write_text(json.dumps(about, indent=2), encoding="utf-8")

    def n_parameters(self) -> int:
        """Return the number of parameters of all networks, those that they share counted once."""
        return sum({p.data_ptr(): p.numel() for p in self.model.parameters()}.values())

    def shared_weights(self) -> list[str]:
        """Return the names of the weights that all networks have in one place of memory."""
        first, *others = [dict(member.model.named_parameters()) for member in self.members]
        return [name for name, p in first.items() if all(p.data_ptr() == own[name].data_ptr() for own in others)]


def load_members(folder: Path, saved: Mapping[str, Any], load: Callable[[Path], Encoder]) -> MembersEncoder:
    """Build encoders side by side from the folder of a run, without weights; `load` builds one."""
    first = load(folder / _MEMBER)
    members = [first, *(copy.deepcopy(first) for _ in range(int(saved["count"]) - 1))]
    share_weights(members, saved["shared"])
    return MembersEncoder(members, int(saved["shared_units"]))


def share_weights(members: Sequence[Encoder], names: Sequence[str]) -> None:
    """Let some weights of encoders be those of the first in memory, too."""
    own = dict(members[0].model.named_parameters())
    for member in members[1:]:
        theirs = dict(member.model.named_parameters())
        for name in names:
            theirs[name].data = own[name].data
