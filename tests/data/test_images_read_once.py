"""Every image file is read once by a training, whatever is wanted of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cotune.data.images import load as images
from cotune.data.images import sources
from cotune.data.posts import data_hash
from cotune.training.fit import fit_posts
from runs import tiny_config
from tiny import Zoo, make_posts


def test_a_cold_fit_with_held_out_posts_reads_every_file_once(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posts = make_posts(tmp_path / "posts", 24, gaps=False)
    read: Counter[str] = Counter()
    real = sources.read_bytes

    def counted(source: Any, **how: Any) -> bytes:
        read[str(source)] += 1
        return real(source, **how)

    monkeypatch.setattr(images, "read_bytes", counted)
    config = tiny_config(zoo, tmp_path / "cache", validation=0.25, folds_group="near-duplicates", epochs=1)
    result = fit_posts(posts, config)
    assert read == Counter(posts["image"])
    assert result.run.environment["data_hash"] == data_hash(posts), "keys that are known already give the same hash"
    assert result.run.metrics["posts"]["held_out"] > 0
