"""Device and precision, chosen sensibly and named in every run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric

from cotune.errors import ConfigError
from cotune.settings import FitConfig


def make_fabric(config: FitConfig) -> Fabric:
    """Return Lightning's Fabric for the configured device and precision.

    Raises
    ------
    ConfigError
        If the device is not there.
    """
    device = config.device if config.device != "auto" else best_device()
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no CUDA device is visible; use --device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps: this machine has no MPS device; use --device cpu")
    if config.precision == "16" and device == "cpu":  # Lightning would take bf16 instead and only warn
        raise ConfigError("--precision 16 is not available on a CPU; use bf16, 32 or auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Fabric(accelerator=device, devices=1, precision=_precision(config.precision, device))


def best_device() -> str:
    """Return "cuda", "mps" or "cpu", the first that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _precision(asked: str, device: str) -> Any:
    if asked == "auto":
        # Half the time and memory on recent CUDA devices; elsewhere full precision is as fast, and exact.
        return "bf16-mixed" if device == "cuda" and torch.cuda.is_bf16_supported() else "32-true"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[asked]


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
