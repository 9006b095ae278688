"""In which number format encoders run: bf16 where the processor has units for it, else float32.

Weights, optimizer, fusion head, loss and all scores stay in float32; so does what is kept in the cache, which runs of
either precision share. In bf16 run the matrix products and convolutions of the encoders.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from cotune.errors import ConfigError
from cotune.training.depthwise import FastDepthwise

Format = Literal["32", "bf16", "16"]

#: How many times as fast as in float32 a product must be in bf16; casts and all that is not a product cost some of it.
_PAYS = 1.5
_SECONDS, _SIDE = 0.5, 1024


class Precision(NamedTuple):
    """A number format and why it was chosen, in words that follow its name."""

    name: Format
    why: str

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


def choose_precision(asked: str, device: str) -> Precision:
    """Return the number format for ``--precision``; of "auto" the fastest that keeps the quality.

    On x86 the processor's flags decide: AMX multiplies bf16 several times as fast as float32, and without
    ``avx512_bf16`` bf16 is emulated. Between the two, and on other processors, half a second of products decides.

    Parameters
    ----------
    asked : str
        ``auto``, ``32``, ``bf16`` or ``16``.
    device : str
        ``cpu``, ``cuda`` or ``mps``.

    Raises
    ------
    ConfigError
        If the device does not know the format.
    """
    if asked == "16" and device == "cpu":
        raise ConfigError("--precision 16 is not available on a CPU; use bf16, 32 or auto")
    if asked != "auto":
        return Precision(cast(Format, asked), _about(asked, device))
    if device == "cuda":
        found = torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision("bf16", "the GPU supports it") if found else Precision("32", "the GPU has no bf16")
    if device != "cpu":
        return Precision("32", f"bf16 is not used on {device}")
    return _of_processor(torch.cpu.get_capabilities(), platform.machine())


def _of_processor(flags: Mapping[str, Any], machine: str) -> Precision:
    """Return the number format for a processor with these flags, as torch names them."""
    if flags.get("amx_bf16"):
        return Precision("bf16", "the processor has AMX")
    if _emulated(flags, machine):
        return Precision("32", "the processor has no bf16 units")
    ratio = _measured()
    return Precision("bf16" if ratio >= _PAYS else "32", f"measured: a product is {ratio:.1f} times as fast in bf16")


def _emulated(flags: Mapping[str, Any], machine: str) -> bool:
    return machine.lower() in ("x86_64", "amd64", "i386", "i686") and not flags.get("avx512_bf16")


def _about(asked: str, device: str) -> str:
    emulated = asked == "bf16" and device == "cpu" and _emulated(torch.cpu.get_capabilities(), platform.machine())
    return "as asked for; emulated, and slow, as the processor has no bf16 units" if emulated else "as asked for"


def _measured() -> float:
    """Return how many times as fast a product is in bf16 as in float32, in about half a second."""
    full = torch.randn((_SIDE, _SIDE), generator=torch.Generator().manual_seed(0))
    half = full.bfloat16()

    def seconds(matrix: Tensor) -> float:
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        return time.perf_counter() - started

    with torch.inference_mode():
        for matrix in (full, half):  # the first product of a kind also prepares its kernel
            seconds(matrix)
        best = [float("inf"), float("inf")]
        end = time.perf_counter() + _SECONDS
        while best[1] == float("inf") or time.perf_counter() < end:  # in turns: other work then slows both alike
            best = [min(known, seconds(matrix)) for known, matrix in zip(best, (full, half), strict=True)]
    return best[0] / best[1]


@contextmanager
def encoding(precision: str, device: str) -> Iterator[None]:
    """While open, encoders run in a number format (``32``, ``bf16`` or ``16``)."""
    if precision == "32":
        yield
        return
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    with torch.autocast(device, dtype=dtype):
        if device == "cpu":
            with FastDepthwise():
                yield
        else:
            yield
