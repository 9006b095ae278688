"""Several processes that train one model, each on a device of its own: who is who, and what they tell each other.

In the words of torch.distributed each of them is a rank. `torchrun` starts them, on any number of machines, and says
so in the environment; for the devices of one machine :mod:`cotune.training.launch` does the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from cotune.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from cotune.settings import FitConfig

T = TypeVar("T")
#: How long a rank waits for the others, who may be reading a million images.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is.

    Attributes
    ----------
    index : int
        Its number among all, from 0; the first one writes.
    count : int
        How many there are.
    local : int
        Its number among those of its machine, and that of its device.
    local_count : int
        How many its machine has.
    """

    index: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.index == 0

    def part(self, rows: np.ndarray) -> np.ndarray:
        """Return this rank's part of some rows: every count-th, so that parts of sorted rows are alike."""
        return rows[self.index :: self.count]

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, on its device."""
        if self.count == 1:
            return values
        from torch.distributed import all_reduce

        summed = values.detach().clone()
        all_reduce(summed)
        return summed

    def wait(self) -> None:
        """Wait until every rank has come this far."""
        if self.count > 1:
            import torch

            self.sum(torch.zeros(1))

    @contextmanager
    def first_of_machine_first(self) -> Iterator[None]:
        """Let the first rank of every machine do the block before the others, who then find its work in the cache."""
        if self.local:
            self.wait()
        yield
        if not self.local:
            self.wait()


ALONE = Ranks()
_joined = ALONE


def ranks() -> Ranks:
    """Return which rank this process is; the only one unless it has joined others."""
    return _joined


def launched() -> Ranks | None:
    """Return which rank the environment says that this process is; None if nobody has launched it as one."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    number: Callable[[str], int] = lambda name: int(os.environ[name])  # noqa: E731
    return Ranks(number("RANK"), number("WORLD_SIZE"), number("LOCAL_RANK"), number("LOCAL_WORLD_SIZE"))


def join_ranks(config: FitConfig) -> Ranks:
    """Meet the other ranks, if the settings ask for several devices or `torchrun` has started this process.

    Raises
    ------
    ConfigError
        If the settings ask for other ranks than were started, or for devices that are not there.
    """
    global _joined
    found = launched() or ALONE
    asked = config.devices * config.nodes
    if asked > 1 and found.count == 1:
        raise ConfigError(
            f"{asked} devices need {asked} processes; start the script with "
            f"`torchrun --nproc-per-node {config.devices}`, or use `cotune fit`"
        )
    if asked not in (1, found.count):
        raise ConfigError(
            f"--devices {config.devices} and --nodes {config.nodes} make {asked} devices, and torchrun has started "
            f"{found.count} processes; let the two agree"
        )
    if found.count > 1 and _joined.count == 1:
        from cotune.training.device import choose_device, make_fabric

        _joined = found  # the device is the rank's own from here on
        try:
            choose_device(config.device)
            make_fabric(config)
        except BaseException:
            _joined = ALONE
            raise
    return _joined


def leave_ranks() -> None:
    """Part from the other ranks, once training is over."""
    global _joined
    if _joined.count > 1:
        from torch.distributed import destroy_process_group, is_initialized

        if is_initialized():
            destroy_process_group()
    _joined = ALONE
