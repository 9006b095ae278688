"""Cut a network in two without knowing its class: run the lower part once, the upper part many times.

The cut works on any network whose layers or stages are called one after another. To run the lower part, a
hook on its last unit keeps the output and stops the pass. To run the upper part, the units below the cut are
made to answer with the kept activations at once; all the rest of the network's own code (masks, position
biases, norms, pooling) runs as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class _ReachedError(Exception):
    """Ends a forward pass once the lower part has spoken."""


class Cut:
    """The lower units of a network and the shape of what they answer.

    Parameters
    ----------
    units : sequence of nn.Module
        The units below the cut, in the order in which they run.
    """

    def __init__(self, units: Sequence[nn.Module]) -> None:
        self.units = list(units)
        self._answers: list[Any] = []

    def learn(self, call: Callable[[], object]) -> None:
        """Run `call`, a whole forward pass, and note what form each lower unit's answer has."""
        answers: dict[int, Any] = {}

        def keep(i: int) -> Callable[..., None]:
            def hook(_module: nn.Module, _args: object, output: Any) -> None:
                answers[i] = output

            return hook

        hooks = [unit.register_forward_hook(keep(i)) for i, unit in enumerate(self.units)]
        try:
            with torch.no_grad():
                call()
        finally:
            for handle in hooks:
                handle.remove()
        self._answers = [_without_tensors(answers[i]) for i in range(len(self.units))]

    def capture(self, call: Callable[[], object], *, gradients: bool = False, stop: bool = True) -> Tensor:
        """Run `call`, as a rule as far as the cut and without gradients, and return the activations there."""
        kept: list[Tensor] = []

        def hook(_module: nn.Module, _args: object, output: Any) -> None:
            kept.append(output if isinstance(output, Tensor) else output[0])
            if stop:
                raise _ReachedError

        handle = self.units[-1].register_forward_hook(hook)
        try:
            with torch.set_grad_enabled(gradients):
                call()
        except _ReachedError:
            pass
        finally:
            handle.remove()
        if not kept:
            raise RuntimeError("the forward pass never reached the cut")
        return kept[0]

    @contextmanager
    def resumed(self, hidden: Tensor) -> Iterator[None]:
        """While open, every lower unit answers with `hidden` instead of computing."""

        def answer(form: Any) -> Callable[..., Any]:
            def forward(*_args: object, **_kwargs: object) -> Any:
                return _with_hidden(form, hidden)

            return forward

        for unit, form in zip(self.units, self._answers, strict=True):
            # An attribute of the instance hides the method of the class; the module itself stays in place.
            unit.__dict__["forward"] = answer(form)
        try:
            yield
        finally:
            for unit in self.units:
                unit.__dict__.pop("forward", None)


def _without_tensors(output: Any) -> Any:
    """Keep an answer's form and constants; a tensor becomes its own type as a mark."""
    if isinstance(output, tuple | list):
        return tuple(_without_tensors(part) for part in output)
    if isinstance(output, Mapping):
        raise TypeError("a unit that answers with named values cannot be replaced")
    return Tensor if isinstance(output, Tensor) else output


def _with_hidden(form: Any, hidden: Tensor) -> Any:
    """Fill an answer's form: every place of a tensor gets the activations."""
    if isinstance(form, tuple):
        return tuple(_with_hidden(part, hidden) for part in form)
    return hidden if form is Tensor else form
