from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench_tiny import tiny_plan, tiny_posts
from cotune.benchmark import Watcher, predictions, run_plan
from cotune.benchmark.plan import Cell
from cotune.scale.cells import spread_cells
from cotune.scale.cluster import Workers
from cotune.scale.connect import connected
from tiny import Zoo

pytestmark = pytest.mark.ray


class Noting(Watcher):
    def __init__(self) -> None:
        self.started: list[Cell] = []

    def start(self, cell: Cell) -> None:
        self.started.append(cell)


def proba_of(out: Path) -> dict[str, Any]:
    return {record.cell.key: record.proba for record in predictions.read(out)}


def test_cells_on_a_cluster_are_those_of_one_process(ray_cluster: None, zoo: Zoo, tmp_path: Path) -> None:
    posts, plan = tiny_posts(tmp_path), tiny_plan(zoo, tmp_path / "cache", methods=("fast", "svm", "probe"))
    here, there = tmp_path / "here", tmp_path / "there"
    # Begun on a laptop, gone on with on a cluster.
    run_plan(posts, plan, here)
    run_plan(posts, plan, there, only_folds=[0])
    watcher = Noting()
    with connected(Workers(concurrency=1)) as cluster:
        session = run_plan(posts, plan, there, resume=True, work=spread_cells(cluster), watcher=watcher)
    found, expected = proba_of(there), proba_of(here)
    assert found.keys() == expected.keys()
    assert all(np.allclose(found[key], expected[key], atol=1e-5) for key in expected)
    assert session.done == len(watcher.started) > 0
