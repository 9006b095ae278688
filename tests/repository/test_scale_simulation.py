"""The simulation of docs/scale_estimate.md against what can be worked out by hand."""

from __future__ import annotations

import json
import runpy
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("simpy")
ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "scale_simulation.py"))
Job, Simulation = SCRIPT["Job"], SCRIPT["Simulation"]
BASE = Job(posts=40_000, block_posts=100, seconds_per_post=0.01, machines=2, actors=2)


def run(job: Any, seed: int = 0) -> Any:
    return Simulation(job, seed).run()


def test_four_actors_take_a_quarter_of_the_time_after_their_start() -> None:
    found = run(replace(BASE, machine_start=60, actor_start=5))
    assert found.seconds == pytest.approx(65 + 40_000 * 0.01 / 4)
    assert found.machine_seconds == pytest.approx(2 * found.seconds)
    assert found.bottleneck == "processors"
    assert found.busy["processors"] == pytest.approx(100 / 165)


@pytest.mark.parametrize(
    ("change", "seconds", "bottleneck"),
    [
        ({"bytes_in": 1000, "storage": 20e3, "bandwidth": 20e3}, 2000, "storage"),  # 40 MB at 20 kB/s
        ({"bytes_in": 1000, "bandwidth": 20e3}, 1000, "links"),  # of two machines
        ({"dispatch": 2.0}, 800, "head"),  # 400 blocks
        ({"requests": 1, "request_seconds": 0.1, "requests_at_once": 2}, 500, "links"),  # 10,000 posts, 50 ms each
    ],
)
def test_whatever_is_scarce_sets_the_pace(change: dict[str, Any], seconds: float, bottleneck: str) -> None:
    found = run(replace(BASE, **change))
    assert found.seconds == pytest.approx(seconds, rel=0.02)
    assert found.busy[found.bottleneck] > 0.95
    assert bottleneck == found.bottleneck


def test_failures_cost_time_and_lose_nothing() -> None:
    calm = run(replace(BASE, variation=0.1))
    job = replace(BASE, variation=0.1, hours_between_failures=0.02, machine_start=5, block_errors=0.05)
    found = run(job)
    assert found.scored == [1] * 400
    assert found.failed > 0
    assert found.lost > found.failed
    assert found.seconds > calm.seconds
    assert run(job).seconds == found.seconds
    assert run(job, 1).seconds != found.seconds


def test_waits_are_those_of_queueing_theory() -> None:
    """One actor, blocks at random: M/D/1, whose mean wait is rho / (2 mu (1 - rho))."""
    job = Job(posts=40_000, block_posts=1, seconds_per_post=1.0, arrivals=0.7)
    found = [statistics.fmean(run(job, seed).waits) for seed in range(2)]
    assert statistics.fmean(found) == pytest.approx(0.7 / (2 * 0.3), rel=0.06)


def test_the_measured_point_is_met() -> None:
    inputs = json.loads((ROOT / "benchmarks" / "scale_inputs.json").read_text())
    simulated, measured = SCRIPT["measured_point"](inputs["measured_point"])
    assert simulated == pytest.approx(measured, rel=0.03)


def test_the_document_holds_what_the_script_prints() -> None:
    inputs = json.loads((ROOT / "benchmarks" / "scale_inputs.json").read_text())
    text = (ROOT / "docs" / "scale_estimate.md").read_text()
    for plan in SCRIPT["PLANS"][:2]:
        assert f"| {' | '.join(SCRIPT['estimate'](plan, inputs, 0))} |" in text
    assert inputs["prices"]["date"] in text
    assert "assumptions" in inputs["prices"]["source"]
