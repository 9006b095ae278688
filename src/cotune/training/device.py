"""The device, chosen sensibly and named in every run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from cotune.errors import ConfigError
from cotune.settings import FitConfig
from cotune.training.precision import choose_precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def choose_device(asked: str) -> torch.device:
    """Return the device of a name; of "auto" the first there is of CUDA, MPS and the CPU.

    Raises
    ------
    ConfigError
        If the device is not there.
    """
    name = asked if asked != "auto" else best_device()
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no CUDA device is visible; use --device cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps: this machine has no MPS device; use --device cpu")
    return torch.device(name) if name == "cpu" else torch.device(name, 0)


def training_device(config: FitConfig) -> torch.device:
    """Return the device to train on.

    Raises
    ------
    ConfigError
        If the device is not there.
    """
    return choose_device(config.device)


def make_fabric(config: FitConfig) -> Fabric:
    """Return Lightning's Fabric for the configured device and precision.

    Raises
    ------
    ConfigError
        If the device is not there, or lacks the precision.
    """
    from lightning_fabric import Fabric  # takes two seconds; predictions need the device alone

    device = training_device(config).type
    precision = choose_precision(config.precision, device).name
    names = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
    # On a CPU the trainer opens `encoding` itself: Lightning would also round the kept embeddings to bf16.
    mixed = "32-true" if device == "cpu" else names[precision]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Fabric(accelerator=device, devices=1, precision=mixed)  # type: ignore[arg-type]


def best_device() -> str:
    """Return "cuda", "mps" or "cpu", the first that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextmanager
def one_thread(when: bool) -> Iterator[None]:
    """Keep torch to one thread where the tensors are too small to share.

    Waking and awaiting a second thread costs more than a fusion head's arithmetic, and many times more when
    something else runs on the machine.
    """
    before = torch.get_num_threads()
    if when:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
