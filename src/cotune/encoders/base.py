"""What every encoder is: a pretrained unimodal model that gives a pooled embedding and its states.

An encoder takes any of three inputs and gives the same output, so that a model built on it need not know at
which stage of training it is: raw inputs (token ids or pixels), cached activations of its frozen lower part
(key ``hidden``), or a cached pooled embedding (key ``pooled``).
"""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from cotune.encoders.split import Cut
from cotune.errors import EncoderError

if TYPE_CHECKING:
    from cotune.encoders.prepared import Prepared, ReadOptions

#: The kind of field that an encoder reads: ``text``, ``image``, ``table``, or that of a plugin.
Modality = str
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class EncoderOutput:
    """What an encoder says of a batch.

    Attributes
    ----------
    pooled : Tensor
        One embedding for each post, shape (B, dim).
    states : Tensor or None
        Token or patch states, shape (B, T, dim); None when the input was a pooled embedding.
    mask : Tensor or None
        Boolean, shape (B, T), true where a state is real and not padding.
    """

    pooled: Tensor
    states: Tensor | None = None
    mask: Tensor | None = None


class Encoder(nn.Module, abc.ABC):
    """A pretrained unimodal model behind one protocol.

    Parameters
    ----------
    model : nn.Module
        The pretrained network.
    spec : str
        The name it was asked for by, such as ``bundled:efficientnet-lite0``.
    dim : int
        Size of the pooled embedding.
    units : sequence of str
        Names of the modules that follow one another from the input to the output: layers or stages.
        Empty when the network cannot be cut.
    """

    modality: ClassVar[Modality]
    #: Whether it is learned from scratch with the head rather than pretrained.
    learned: ClassVar[bool] = False
    #: Whether activations differ in length from post to post, as those of texts do.
    ragged: ClassVar[bool] = False
    #: Posts in a pass that embeds.
    embed_batch: ClassVar[int] = 32
    #: How many random posts tell whether an encoder can be relied on (see :meth:`probe_inputs`).
    probe_posts: ClassVar[int] = 2

    def __init__(self, model: nn.Module, *, spec: str, dim: int, units: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        self.dim = dim
        self.units = tuple(units)
        self._cut: Cut | None = None
        self._below: frozenset[str] = frozenset()
        self._fingerprint: str | None = None
        self.eval()  # factories disagree on the mode; a pass in training mode would move batch-norm statistics

    @property
    def face(self) -> Encoder:
        """The encoder that says how a field is read: this one, or of several side by side the first."""
        return self

    # ---- what a kind of encoder must say -------------------------------------------------------------

    @abc.abstractmethod
    def encode(self, inputs: Inputs) -> EncoderOutput:
        """Run the whole network on raw inputs."""

    @abc.abstractmethod
    def prepare(self, values: Sequence[Any], options: ReadOptions) -> Prepared:
        """Make one field of some posts ready: what :func:`cotune.data.posts.read_posts` has in the field's column."""

    def learn_from(self, prepared: Prepared, rows: np.ndarray) -> None:
        """Learn from the training posts what must be known before training starts; only if it is ``learned``."""
        return

    def plain(self, inputs: Inputs) -> Tensor:
        """Return what a method without an encoder of its own may read of a batch, shape (B, width).

        Only of encoders that are learned from scratch, whose embeddings mean nothing before they are.
        """
        return next(iter(inputs.values())).float().flatten(1)

    @abc.abstractmethod
    def dummy_inputs(self, like: Inputs | None = None) -> dict[str, Tensor]:
        """Return the smallest inputs that the network accepts, or those that go with cached activations."""

    @abc.abstractmethod
    def probe_inputs(self, n: int) -> dict[str, Tensor]:
        """Return a batch of `n` random posts, not all of one length or size; the same ones at every call."""

    @abc.abstractmethod
    def take(self, inputs: Inputs, at: int) -> dict[str, Tensor]:
        """Return one post of a batch as it would be encoded alone."""

    @abc.abstractmethod
    def save_config(self, folder: Path) -> None:
        """Write all that is needed to build this encoder again, but for its weights, into `folder`."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what defines this encoder's output besides its weights, as plain JSON values."""

    @abc.abstractmethod
    def depths(self) -> dict[str, int]:
        """Map every parameter of the network to its depth: 0 below the first unit, ``len(units) + 1`` above."""

    # ---- what all encoders do alike ------------------------------------------------------------------

    def forward(self, inputs: Inputs) -> EncoderOutput:
        """Encode a batch from raw inputs, cached activations or a cached embedding."""
        if "pooled" in inputs:
            return EncoderOutput(inputs["pooled"].float())
        if "hidden" in inputs:
            if self._cut is None:
                raise EncoderError("activations were given to an encoder that is not cut; call cut_at first")
            dtype = next(self.model.parameters()).dtype
            with self._cut.resumed(inputs["hidden"].to(dtype)):
                return self.encode(self.dummy_inputs(inputs))
        return self.encode(inputs)

    def cut_at(self, n_lower: int) -> None:
        """Make the first `n_lower` units the frozen lower part (0 for none).

        Raises
        ------
        EncoderError
            If the network has no chain of units, not that many, or units that pass on more than activations.
        """
        self._cut, self._below = None, frozenset()
        if n_lower == 0:
            return
        if not 0 < n_lower < len(self.units):
            raise EncoderError(
                f"{self.spec} cannot be cut after unit {n_lower}: it has {len(self.units)} units; "
                "use --tune joint or frozen, or another depth"
            )
        modules = dict(self.model.named_modules())
        cut = Cut([modules[name] for name in self.units[:n_lower]])
        with _evaluating(self.model):
            try:
                cut.learn(lambda: self.encode(self.dummy_inputs()))
                self._cut = cut
                same = self._same_when_cut()
            except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError):
                same = False
            if not same:
                self._cut = None
                raise EncoderError(
                    f"{self.spec} cannot be cut after unit {n_lower}: its units hand on more than activations; "
                    "use --tune joint or frozen"
                )
            self._below = self._read_below(cut)

    def cut_unchecked(self, n_lower: int) -> None:
        """Make the first `n_lower` units the lower part, as :meth:`cut_at` has done before with other weights."""
        modules = dict(self.model.named_modules())
        cut = Cut([modules[name] for name in self.units[:n_lower]])
        with _evaluating(self.model):
            cut.learn(lambda: self.encode(self.dummy_inputs()))
        self._cut = cut

    def while_lower(self, call: Callable[[], object]) -> Tensor:
        """Run `call`, a whole pass of the network, and return the activations of the lower part; gradients pass."""
        if self._cut is None:
            raise EncoderError("while_lower() needs an encoder that is cut; call cut_at first")
        return self._cut.capture(call, gradients=torch.is_grad_enabled(), stop=False)

    def _same_when_cut(self) -> bool:
        """Tell whether the upper part on kept activations says what the whole network says, at several lengths."""
        for inputs in (self.dummy_inputs(), self.probe_inputs(self.probe_posts)):
            with torch.no_grad():
                whole = self(inputs).pooled
                hidden = self.kept(self.lower(inputs), inputs)
                again = self({**self.dummy_inputs({**inputs, "hidden": hidden}), "hidden": hidden}).pooled
            if again.shape != whole.shape or not torch.allclose(again, whole, rtol=1e-3, atol=1e-4):
                return False
        return True

    def kept(self, hidden: Tensor, inputs: Inputs) -> Tensor:
        """Return activations as they come back from being kept post by post.

        Raises
        ------
        ValueError
            If they cannot be told apart by post.
        """
        if len(hidden) != len(next(iter(inputs.values()))):
            raise ValueError("the first axis of the activations is not the batch")
        return hidden

    def _read_below(self, cut: Cut) -> frozenset[str]:
        """Return the names of all parameters that the lower part reads, wherever they are kept.

        Position biases, for one, may be stored beside the layers that share them.
        """
        named = dict(self.model.named_parameters())
        wanted = {name: p.requires_grad for name, p in named.items()}
        self.model.requires_grad_(True)
        try:
            with torch.enable_grad():
                hidden = cut.capture(lambda: self.encode(self.dummy_inputs()), gradients=True)
                slopes = torch.autograd.grad(hidden.float().sum(), list(named.values()), allow_unused=True)
        finally:
            for name, p in named.items():
                p.requires_grad_(wanted[name])
        return frozenset(name for name, slope in zip(named, slopes, strict=True) if slope is not None)

    @property
    def n_lower(self) -> int:
        """How many units the frozen lower part has; 0 when the encoder is whole."""
        return 0 if self._cut is None else len(self._cut.units)

    def lower(self, inputs: Inputs, *, stop: bool = True) -> Tensor:
        """Run the lower part and return its activations, first axis the batch.

        The pass ends there, unless it may not `stop`, as one that is recorded may not.
        """
        if self._cut is None:
            raise EncoderError("lower() needs an encoder that is cut; call cut_at first")
        return self._cut.capture(lambda: self.encode(inputs), stop=stop)

    def upper_parameters(self) -> set[str]:
        """Return the names of the parameters above the cut (all of them when the encoder is whole)."""
        if self._cut is None:
            return {name for name, _ in self.model.named_parameters()}
        return {name for name, depth in self.depths().items() if depth > self.n_lower} - self._below

    def fingerprint(self) -> str:
        """Return a hash of weights and preprocessing; equal fingerprints give equal embeddings."""
        if self._fingerprint is None:
            digest = hashlib.blake2b(digest_size=16)
            described = {key: value for key, value in self.describe().items() if key != "spec"}
            digest.update(repr(sorted(described.items())).encode())
            digest.update(self._architecture().encode())
            for name, tensor in sorted(self.model.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _architecture(self) -> str:
        """Return what a transformers model knows of itself beyond its weights, such as its number of heads."""
        config: Any = getattr(self.model, "config", None)
        if not hasattr(config, "to_dict"):
            return ""
        passing = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
        described = {key: value for key, value in config.to_dict().items() if key not in passing}
        return json.dumps(described, sort_keys=True, default=str)

    def weights_changed(self) -> None:
        """Forget what was computed from the weights; to be called by whoever trains or loads them."""
        self._fingerprint = None
        modes = {module: module.training for module in self.model.modules()}
        self.model.train()  # networks that keep something in evaluation mode, such as LeViT, let go of it here
        for module, training in modes.items():
            module.training = training

    def n_parameters(self) -> int:
        """Return the number of parameters of the network."""
        return sum(p.numel() for p in self.model.parameters())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode for a while."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def depths_by_order(model: nn.Module, units: Sequence[str]) -> dict[str, int]:
    """Map parameters to depths by where they stand: before, in, or after the units.

    Depth 0 is what comes before the first unit, i + 1 is unit i, ``len(units) + 1`` all that follows.
    """
    prefixes = [name + "." for name in units]
    result: dict[str, int] = {}
    seen_unit = False
    for name, _ in model.named_parameters():
        for i, prefix in enumerate(prefixes):
            if name.startswith(prefix):
                result[name] = i + 1
                seen_unit = True
                break
        else:
            result[name] = len(units) + 1 if seen_unit or not units else 0
    return result
