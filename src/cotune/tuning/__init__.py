"""Search for settings of training on Optuna: trials on one cut of the posts, and a verdict on posts that none saw.

It needs the extra ``tune``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cotune.tuning.plan import TunePlan
from cotune.tuning.space import Range, Space, default_space, make_space, read_space

if TYPE_CHECKING:
    from cotune.tuning.results import TuneResult
    from cotune.tuning.search import tune
    from cotune.tuning.trials import Search, run_worker

__all__ = ["Range", "Search", "Space", "TunePlan", "TuneResult", "default_space", "make_space", "read_space",
           "run_worker", "tune"]  # fmt: skip

# They import torch, for which nobody waits who prints a space.
_LATER = {"TuneResult": "results", "tune": "search", "Search": "trials", "run_worker": "trials"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
