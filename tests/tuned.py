"""Small searches for the tests of what uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from cotune.tuning import TunePlan, make_space
from runs import tiny_config
from tiny import Zoo, make_posts

SPACE = {"probe-lr": {"low": 1e-4, "high": 0.1, "log": True}, "width": [16, 32], "dropout": {"low": 0, "high": 0.6}}


def tiny_plan(zoo: Zoo, cache: Path, *, space: dict[str, Any] | None = None, **more: Any) -> TunePlan:
    """Return a search over tiny encoders; `fit` are settings of training, the rest of the plan."""
    fit = tiny_config(zoo, cache, **{"tune": "frozen", "width": 16, **more.pop("fit", {})})
    return TunePlan(fit, make_space(SPACE if space is None else space, fit), **{"trials": 3, "bootstrap": 50, **more})


def hard_posts(folder: Path, n: int = 60, *, classes: int = 2) -> pd.DataFrame:
    """Return posts of which a quarter has a wrong label, so that scores differ."""
    posts = make_posts(folder / "posts", n, classes=classes, gaps=False)
    wrong = [f"class{(int(label[-1]) + 1) % classes}" for label in posts["label"]]
    posts["label"] = [
        w if i % 4 == 3 else label for i, (label, w) in enumerate(zip(posts["label"], wrong, strict=True))
    ]
    return posts
