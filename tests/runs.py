"""Small trained runs for the tests of what uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from cotune.progress import Progress
from cotune.settings import FitConfig, make_config
from cotune.training.fit import FitResult, fit_posts
from tiny import Zoo, make_posts


class Told(Progress):
    """Keeps the lines that a user would read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def tiny_settings(zoo: Zoo, cache: Path, **more: Any) -> dict[str, Any]:
    """Return settings that train tiny encoders in a second."""
    return {
        "text_encoder": str(zoo("distilbert")),
        "image_encoder": str(zoo("timm-resnet")),
        "cache": str(cache),
        "folds_group": "none",
        "width": 16,
        "probe_epochs": 3,
        "epochs": 2,
        "min_epochs": 1,
        "batch_size": 8,
        "device": "cpu",
        **more,
    }


def tiny_config(zoo: Zoo, cache: Path, **more: Any) -> FitConfig:
    """Return such settings, validated."""
    return make_config(tiny_settings(zoo, cache, **more))


def tiny_fit(zoo: Zoo, folder: Path, *, n: int = 24, classes: int = 2, **more: Any) -> FitResult:
    """Train on small posts whose words and colours tell the label."""
    posts = make_posts(folder / "posts", n, classes=classes)
    return fit_posts(posts, tiny_config(zoo, folder / "cache", **more))


def write_table(posts: pd.DataFrame, path: Path) -> Path:
    """Write posts as a table that lies beside the folder of their pictures."""
    images = [str(Path(image).relative_to(path.parent)) if isinstance(image, str) else None for image in posts["image"]]
    posts.assign(image=images).drop(columns=["row", "group"]).to_csv(path, index=False)
    return path
