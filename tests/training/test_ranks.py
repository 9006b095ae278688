"""Several processes train one model: the same numbers as one process, resumed under another number, and a clean end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cotune.cli import main
from cotune.errors import ConfigError
from cotune.files import read_json
from cotune.run import load_run
from cotune.settings import make_config
from cotune.tasks.losses import CrossEntropy, StandardisedLoss
from cotune.training.launch import launch, needs_launch
from cotune.training.ranks import Ranks, join_ranks, ranks
from runs import tiny_settings, write_table
from tiny import Zoo, make_posts

SCRIPT = Path(__file__).with_name("two_ranks.py")
PLANS: dict[str, dict[str, Any]] = {
    "joint": {"tune": "joint"},
    "uneven": {"tune": "joint", "batch_size": 9, "accumulate": 2, "class_weights": "balanced"},
    "top": {"tune": "top"},
    "lora": {"tune": "lora"},
    "frozen": {"tune": "frozen"},
    "norms": {"tune": "joint", "stop": "validation", "freeze_batch_norm": "yes", "ema": 0.9},
}
SHARDED = {"fsdp": {"tune": "joint"}, "fsdp-uneven": {"tune": "joint", "batch_size": 9, "accumulate": 2}}


@pytest.fixture(scope="module")
def trained(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train every plan by two ranks, and by one."""
    folder = tmp_path_factory.mktemp("ranks")
    make_posts(folder / "posts", 27, classes=3).to_json(folder / "posts.json", orient="records")
    plans: dict[str, dict[str, Any]] = {}
    for name, settings in (PLANS | SHARDED).items():
        usual = {
            "dropout": 0.0,
            "modality_dropout": 0.0,
            "probe_epochs": 2,
            "epochs": 2,
            "min_epochs": 2,
            "lr_text": 1e-3,
        }
        given = tiny_settings(zoo, folder / "cache", **usual) | settings
        plans[name] = {"settings": given, "posts": str(folder / "posts.json"), "weighted": name == "uneven"}
    for name in ("begun by two", "begun by parts", "begun by one", "ended by parts"):
        plans[name] = plans["joint"] | {"kept": str(folder / name)}
    begun_by_two = {name: plans[name] | {"begins": True} for name in ("begun by two", "begun by parts")}
    ends_by_two = {name: plans[name] | {"begins": False} for name in ("begun by one", "ended by parts")}
    begun_by_one = {name: plan | {"begins": True} for name, plan in ends_by_two.items()}
    ends_by_one = {name: plans[name] | {"begins": False} for name in begun_by_two}
    alone = {name: plans[name] for name in (PLANS | SHARDED)}
    run(folder / "one.json", alone | begun_by_one, 1)
    run(folder / "two.json", alone | begun_by_two | ends_by_two, 2)
    run(folder / "more.json", ends_by_one, 1)
    return folder


def run(path: Path, plans: dict[str, dict[str, Any]], count: int) -> None:
    """Train plans by some ranks; two have a cache of their own, so that they compute together what is kept."""
    for name, plan in plans.items():
        settings = plan["settings"] | {"devices": count, "cache": str(path.with_name(f"cache-{count}"))}
        if count > 1 and (name in SHARDED or name.endswith("by parts")):
            settings["strategy"] = "fsdp"
        plans[name] = plan | {"settings": settings}
    path.write_text(json.dumps(plans))
    assert (
        launch([str(SCRIPT), str(path)], count) if count > 1 else subprocess.call([sys.executable, SCRIPT, path])
    ) == 0


@pytest.mark.parametrize(
    ("name", "count"), [("begun by two", 1), ("begun by parts", 1), ("begun by one", 2), ("ended by parts", 2)]
)
def test_training_goes_on_under_another_number_of_ranks(trained: Path, name: str, count: int) -> None:
    whole, resumed = (json.loads((trained / f).read_text()) for f in ("joint-1.json", f"{name}-{count}.json"))
    for before, now in zip(whole["history"], resumed["history"], strict=True):
        assert now["train_loss"] == pytest.approx(before["train_loss"], rel=1e-3)
    np.testing.assert_allclose(resumed["predictions"], whole["predictions"], atol=5e-3)


@pytest.mark.parametrize("name", [*PLANS, *SHARDED])
def test_two_ranks_train_as_one_process_does(trained: Path, name: str) -> None:
    one, two = (json.loads((trained / f"{name}-{n}.json").read_text()) for n in (1, 2))
    rough = 10 if name == "lora" else 1  # adapters have a dropout of their own
    assert [row["stage"] for row in one["history"]] == [row["stage"] for row in two["history"]]
    for before, now in zip(one["history"], two["history"], strict=True):
        assert now["train_loss"] == pytest.approx(before["train_loss"], rel=1e-3 * rough)
        assert now["validation_loss"] == pytest.approx(before["validation_loss"], rel=2e-3 * rough)
    np.testing.assert_allclose(two["predictions"], one["predictions"], atol=5e-3 * rough)
    weights = [load_file(trained / f"{name}-{n}.safetensors") for n in (1, 2)]
    assert weights[0].keys() == weights[1].keys()
    # AdamW makes a whole step of any gradient, so that rounding can turn single weights that hardly matter.
    moved = torch.cat([(weights[0][key].float() - weights[1][key].float()).abs().flatten() for key in weights[0]])
    assert float(moved.mean()) < 2e-4 * rough


def test_the_mean_of_the_parts_is_the_loss_of_the_whole() -> None:
    torch.manual_seed(0)
    outputs, targets, weights = torch.randn(7, 3), torch.tensor([0, 1, 2, 2, 2, 1, 0]), torch.rand(7)
    for loss, t in (
        (CrossEntropy([0.5, 1.0, 3.0], 0.1), targets),
        (StandardisedLoss(0.0, 2.0, huber=True), targets.float()),
    ):
        for given in (None, weights):
            parts = [slice(0, 5), slice(5, 7)]
            found = sum(
                loss(outputs[p], t[p], None if given is None else given[p]) * loss.size(t[p]) / loss.size(t)
                for p in parts
            )
            assert float(found) == pytest.approx(float(loss(outputs, t, given)), rel=1e-5)


def test_parts_are_disjoint_and_whole() -> None:
    rows = np.arange(11)
    parts = [Ranks(i, 3).part(rows) for i in range(3)]
    assert sorted(np.concatenate(parts)) == list(rows)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_nothing_waits_or_is_sent() -> None:
    alone = ranks()
    alone.wait()
    assert alone.first
    assert float(alone.sum(torch.tensor(2.0))) == 2.0


class Started:
    """A ``cotune fit`` of two devices that runs in the background."""

    def __init__(self, table: Path, out: Path, settings: dict[str, Any]) -> None:
        flags = [word for key, value in settings.items() for word in ("--set", f"{key.replace('_', '-')}={value}")]
        self.words = ["fit", str(table), "--out", str(out), *flags]
        self.out = out
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cotune", *self.words, "--devices", "2"],
            stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def wait_for_epoch(self) -> None:
        """Wait until an epoch of joint fine-tuning has been kept."""
        for _ in range(600):
            log = self.out / "log.csv"
            if log.exists() and "\njoint,2," in log.read_text():
                return
            assert self.process.poll() is None, self.process.stderr.read()  # type: ignore[union-attr]
            time.sleep(0.1)
        raise AssertionError("no epoch in a minute")

    def end(self) -> tuple[int, str]:
        said = self.process.communicate(timeout=60)[1]
        return self.process.returncode, said

    def ranks(self) -> list[int]:
        """Return the processes that it has started."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(number) for number in found.split()]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(make_posts(tmp_path / "posts", 27), tmp_path / "posts.csv")


@pytest.fixture
def started(zoo: Zoo, table: Path, tmp_path: Path) -> Iterator[Started]:
    settings = tiny_settings(zoo, tmp_path / "cache", tune="joint", epochs=400, min_epochs=400, probe_epochs=1)
    found = Started(table, tmp_path / "run", settings)
    yield found
    if found.process.poll() is None:
        found.process.kill()
        found.process.wait()


def gone(processes: list[int]) -> bool:
    """Tell whether processes end within some seconds."""
    for _ in range(100):
        if not any(Path(f"/proc/{number}").exists() for number in processes):
            return True
        time.sleep(0.1)
    return False


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes as Linux shows them")


@linux
def test_ctrl_c_ends_all_ranks_and_one_goes_on(started: Started) -> None:
    started.wait_for_epoch()
    processes = started.ranks()
    assert len(processes) == 2
    started.process.send_signal(signal.SIGINT)
    code, said = started.end()
    assert code == 130, said
    assert "Traceback" not in said
    assert said.count("--resume goes on from there") == 1
    assert gone(processes)
    metrics = read_json(started.out / "metrics.json")
    assert metrics["status"] == "interrupted"
    before = metrics["history"]
    assert load_run(started.out).environment["devices"] == 2
    # One process goes on where two stopped: the epochs before are kept as they were.
    assert before[-1]["epoch"] < 400
    process = subprocess.Popen(
        [sys.executable, "-m", "cotune", *started.words, "--resume"], stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    said = ""
    assert process.stderr is not None
    for line in process.stderr:
        said += line
        if said.count("\njoint") == 3:  # the line comes before the epoch is kept
            process.send_signal(signal.SIGTERM)
            break
    said += process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    assert f"resuming: joint, after epoch {before[-1]['epoch']}" in said
    after = read_json(started.out / "metrics.json")["history"]
    assert after[: len(before)] == before
    assert len(after) > len(before), said


@linux
def test_a_rank_that_dies_ends_all_with_one_line(started: Started) -> None:
    started.wait_for_epoch()
    processes = started.ranks()
    os.kill(processes[1], signal.SIGKILL)
    code, said = started.end()
    assert code in (1, 137)
    assert "rank 1 of 2: ended by itself (exit code 137)" in said or "Connection" in said
    assert gone(processes)
    assert (started.out / "checkpoint" / "state.json").exists()


def test_what_every_rank_refuses_is_said_once(table: Path, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "cotune", "fit", str(table), "--out", str(tmp_path / "run"), "--devices", "2", "--text-column", "nothing"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.count("error:") == 1
    assert "nothing" in ended.stderr


def test_several_machines_are_started_by_torchrun(
    capsys: pytest.CaptureFixture[str], table: Path, tmp_path: Path
) -> None:
    assert main(["fit", str(table), "--out", str(tmp_path / "run"), "--nodes", "2", "--devices", "4"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "torchrun --nnodes 2 --nproc-per-node 4" in said


def test_standard_input_cannot_be_shared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["fit", "-", "--out", str(tmp_path / "run"), "--devices", "2"]) == 2
    assert "standard input" in capsys.readouterr().err


def test_a_script_is_told_how_to_start_its_processes() -> None:
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node 3"):
        join_ranks(make_config({"devices": 3}))


def test_ranks_that_do_not_agree_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    world = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    assert not needs_launch(make_config({"devices": 3}))
    with pytest.raises(ConfigError, match="started 2 processes"):
        join_ranks(make_config({"devices": 3}))


@pytest.mark.parametrize("more", [{"tune": "top"}, {"tune": "joint", "ema": 0.5}, {"tune": "joint", "precision": "16"}])
def test_what_fsdp_does_not_go_with(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="strategy fsdp does not go with"):
        make_config({"strategy": "fsdp", **more})
