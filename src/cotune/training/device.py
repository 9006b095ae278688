"""The device, chosen sensibly and named in every run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from cotune.errors import ConfigError
from cotune.report.numbers import plural
from cotune.settings import FitConfig
from cotune.training.precision import choose_precision
from cotune.training.ranks import PATIENCE, ranks

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy


def choose_device(asked: str) -> torch.device:
    """Return the device of a name; of "auto" the first there is of CUDA, MPS and the CPU.

    Of several CUDA devices it is the rank's own (see :mod:`cotune.training.ranks`).

    Raises
    ------
    ConfigError
        If the device is not there.
    """
    name, own = asked if asked != "auto" else best_device(), ranks()
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no CUDA device is visible; use --device cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps: this machine has no MPS device; use --device cpu")
    if name == "mps" and own.count > 1:
        raise ConfigError("--device mps: there is one such device in a machine; use --devices 1 or --device cpu")
    if name == "cuda" and own.local_count > torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise ConfigError(f"--devices {own.local_count}: this machine has {plural(there, 'CUDA device')}")
    return torch.device(name) if name == "cpu" else torch.device(name, own.local)


def training_device(config: FitConfig) -> torch.device:
    """Return the device to train on.

    Raises
    ------
    ConfigError
        If the device is not there.
    """
    return choose_device(config.device)


def make_fabric(config: FitConfig) -> Fabric:
    """Return Lightning's Fabric for the configured device and precision, and for the ranks that have been joined.

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
    own = ranks()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what it has to say, we say
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if own.count == 1:
            return Fabric(accelerator=device, devices=1, precision=mixed)  # type: ignore[arg-type]
        fabric = Fabric(
            accelerator=device,
            devices=own.local_count,
            num_nodes=own.count // own.local_count,
            strategy=_data_parallel(device),
            precision=mixed,  # type: ignore[arg-type]
        )
        fabric.launch()
        return fabric


def _data_parallel(device: str) -> DDPStrategy:
    from lightning_fabric.strategies.ddp import DDPStrategy

    # Encoders of a field that no post of a batch has get no gradients; numbers are exchanged by the CPU, too.
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    return DDPStrategy(process_group_backend=backend, timeout=PATIENCE, find_unused_parameters=True)


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
