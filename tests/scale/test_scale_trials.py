from __future__ import annotations

from pathlib import Path

import pytest

from cotune.scale.connect import connected
from cotune.scale.trials import spread_trials
from cotune.tuning import tune
from tiny import Zoo
from tuned import hard_posts, tiny_plan

pytestmark = pytest.mark.ray


def test_a_search_goes_on_on_a_cluster(ray_cluster: None, zoo: Zoo, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the extra `tune` is not installed")
    posts = hard_posts(tmp_path)
    tune(posts, tmp_path / "search", tiny_plan(zoo, tmp_path / "cache", trials=1))
    with connected() as cluster:
        plan = tiny_plan(zoo, tmp_path / "cache", trials=4)
        found = tune(posts, tmp_path / "search", plan, resume=True, work=spread_trials(cluster))
    assert len(found.trials) == 4
    assert found.best is not None
    assert found.compared is not None
