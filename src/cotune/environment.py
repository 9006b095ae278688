"""What a reader needs to reproduce a figure: versions, hardware, seed, data."""

from __future__ import annotations

import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from cotune._version import __version__

_PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "lightning-fabric",
    "numpy",
    "pandas",
    "scikit-learn",
    "pillow",
)
#: Where the environment of a run, and the attributes of its posts, keep what it was made from.
MADE_FROM = "made_from"


def environment(seed: int, data_hash: str | None, device: str) -> dict[str, Any]:
    """Return what a reader needs to reproduce a run: versions, hardware, seed, hash of the posts."""
    import torch

    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "cotune": __version__,
        "python": platform.python_version(),
        "packages": versions(),
        "platform": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "device": device,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "seed": seed,
        "data_hash": data_hash,
        "command": shlex.join([_program(), *sys.argv[1:]]),
    }


def versions() -> dict[str, str | None]:
    """Return the versions of the packages that decide what a model answers; None for one that is not installed."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Return what the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _program() -> str:
    """Return the name of the program; ``python -m cotune`` is called by a file of it."""
    name = Path(sys.argv[0]).name
    return "cotune" if name == "__main__.py" else name
