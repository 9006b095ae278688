from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from rich.console import Console
from safetensors.torch import load_file, save_file

from bench_tiny import record_of, tiny_plan, tiny_posts
from cotune.benchmark import METHODS, Plan, Watcher, predictions, read_results, run_plan
from cotune.benchmark.display import LineWatcher, LiveWatcher, Tally
from cotune.benchmark.plan import Cell
from cotune.benchmark.records import Record
from cotune.benchmark.runner import Failure, stop_workers
from cotune.errors import CotuneError, RunError
from cotune.training.precision import Precision
from tiny import Zoo


class Noting(Watcher):
    def __init__(self, stop_after: int = 999) -> None:
        self.done: list[Cell] = []
        self.failed: list[Failure] = []
        self.stop_after = stop_after

    def finish(self, record: Record) -> None:
        self.done.append(record.cell)
        if len(self.done) >= self.stop_after:
            raise KeyboardInterrupt

    def fail(self, failure: Failure) -> None:
        self.failed.append(failure)


@pytest.fixture
def posts(tmp_path: Path) -> pd.DataFrame:
    return tiny_posts(tmp_path)


@pytest.fixture
def plan(zoo: Zoo, tmp_path: Path) -> Plan:
    return tiny_plan(zoo, tmp_path / "cache")


def proba_of(out: Path) -> dict[str, Any]:
    return {record.cell.key: record.proba for record in predictions.read(out)}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_every_cell_is_done_once(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    first = run_plan(posts, plan, tmp_path / "out")
    assert (first.done, first.found, first.failures) == (3, 0, [])
    again = run_plan(posts, plan, tmp_path / "out", resume=True)
    assert (again.done, again.found) == (0, 3)


def test_a_folder_with_cells_is_not_touched_without_resume(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    run_plan(posts, plan, tmp_path / "out")
    with pytest.raises(RunError, match="3 finished cells; go on with --resume"):
        run_plan(posts, plan, tmp_path / "out")


def test_methods_seeds_and_shots_can_be_added(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    run_plan(posts, plan, tmp_path / "out")
    more = replace(plan, methods=("fast", "svm"), seeds=(42, 7), shots=(2, None), draws=2)
    session = run_plan(posts, more, tmp_path / "out", resume=True)
    assert session.found == 3
    assert session.done == 2 * 2 * 3 * (1 + 2) - 3
    assert len(read_results(tmp_path / "out").rows) == 2


def test_results_of_other_posts_are_refused(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    run_plan(posts, plan, tmp_path / "out")
    other = posts.assign(text=posts["text"].map(lambda text: f"{text} more"))
    with pytest.raises(RunError, match="results of another data set"):
        run_plan(other, plan, tmp_path / "out", resume=True)


def test_results_of_other_settings_are_refused(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    run_plan(posts, plan, tmp_path / "out")
    with pytest.raises(RunError, match=r"folds \(3, now 2\)"):
        run_plan(posts, replace(plan, folds=2), tmp_path / "out", resume=True)
    fit = plan.fit.model_copy(update={"epochs": 9, "device": "auto", "cache": None})
    with pytest.raises(RunError, match=r"other settings: epochs \(1, now 9\);"):
        run_plan(posts, replace(plan, fit=fit), tmp_path / "out", resume=True)


def test_a_folder_of_something_else_is_refused(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(RunError, match="holds a config.json"):
        run_plan(posts, plan, tmp_path / "run", resume=True)


def test_what_was_refused_before_its_first_cell_binds_nobody(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(CotuneError, match="fold"):
        run_plan(posts, replace(plan, folds=len(posts) + 1), tmp_path / "out")
    assert run_plan(posts, plan, tmp_path / "out").done == len(plan.cells())


def test_workers_of_a_stopped_parent_are_ended_in_the_middle_of_their_work() -> None:
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    future = pool.submit(time.sleep, 600)
    while not future.running():
        time.sleep(0.05)
    (process,) = pool._processes.values()
    stop_workers(pool)
    assert not process.is_alive()


def test_two_writers_are_one_too_many(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(RunError, match="another benchmark is writing"):
        run_plan(posts, plan, tmp_path / "out")


def test_a_damaged_store_is_named(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    run_plan(posts, plan, tmp_path / "out")
    path = tmp_path / "out" / predictions.FILE
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(RunError, match=r"predictions.parquet is damaged .*delete it and continue with --resume"):
        run_plan(posts, plan, tmp_path / "out", resume=True)
    path.unlink()
    assert run_plan(posts, plan, tmp_path / "out", resume=True).done == 3


def test_records_hold_ids_and_figures_alone(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    posts.loc[0, "text"] = "unmistakable"
    run_plan(posts, replace(plan, methods=("fast", "probe")), tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"unmistakable" not in path.read_bytes()
    record = record_of(tmp_path / "out", plan.cells()[0])
    assert record.versions["cotune"]
    assert str(tmp_path) not in repr(record)
    everything = (tmp_path / "out" / "bench.json").read_text()
    assert str(tmp_path) not in everything


def test_ensembles_reuse_what_is_there(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    watcher = Noting()
    run_plan(posts, replace(plan, methods=("ensemble",), seeds=(1,)), out, watcher=watcher)
    assert [cell.method for cell in watcher.done] == ["image", "text", "ensemble"] * 3
    parts = {c.method: record_of(out, c) for c in watcher.done[:3]}
    mean = (parts["text"].proba + parts["image"].proba) / 2
    assert np.allclose(parts["ensemble"].proba, mean, atol=2e-6)
    assert parts["ensemble"].parameters["total"] == sum(parts[m].parameters["total"] for m in ("text", "image"))
    assert parts["ensemble"].parameters["total"]


def test_an_encoder_that_cannot_be_found_fails_its_cells_alone(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    good, image = plan.pairs[0]
    pairs = ((good, image), ("bundled:nowhere", image), (str(tmp_path / "gone"), image))
    wide = replace(plan, methods=("fast",), pairs=pairs)
    watcher = Noting()
    session = run_plan(posts, wide, tmp_path / "out", watcher=watcher)
    assert session.done == 3
    assert len(session.failures) == len(watcher.failed) == 6
    assert "no bundled text encoder" in session.failures[0].reason
    results = read_results(tmp_path / "out")
    assert len(results.rows) == 1
    assert len(results.failures) == 6
    mended = run_plan(posts, plan, tmp_path / "out", resume=True)
    assert not mended.failures
    assert not read_results(tmp_path / "out").failures


def test_what_needs_a_failed_cell_fails_too(
    posts: pd.DataFrame, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> Any:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setitem(METHODS._items, "text", replace(METHODS["text"], run=broken))
    session = run_plan(posts, replace(plan, methods=("ensemble",)), tmp_path / "out")
    reasons = {failure.cell.method: failure.reason for failure in session.failures}
    assert reasons["text"].startswith("ZeroDivisionError: by nothing (test_benchmark_runner.py:")
    assert reasons["ensemble"] == "needs text, which failed"
    assert session.done == 3


def test_ctrl_c_keeps_what_is_done(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    session = run_plan(posts, plan, tmp_path / "out", watcher=Noting(stop_after=2))
    assert session.interrupted
    assert run_plan(posts, plan, tmp_path / "out", resume=True).found == 2


def test_shots_that_are_no_fewer_than_all_are_left_out(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    session = run_plan(posts, replace(plan, shots=(2, 500, None), draws=1), tmp_path / "out")
    assert session.done == 6


def test_a_full_disk_ends_it(posts: pd.DataFrame, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise CotuneError("the disk is full")

    monkeypatch.setattr("cotune.benchmark.predictions.append", full)
    with pytest.raises(CotuneError, match="disk is full"):
        run_plan(posts, plan, tmp_path / "out")


def test_different_weights_of_one_name_are_not_mixed(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    run_plan(posts, plan, tmp_path / "out")
    record = record_of(tmp_path / "out", plan.cells()[0])
    record.encoders["text"] = "another"
    predictions.append(tmp_path / "out", record)
    with pytest.raises(RunError, match="different weights of distilbert"):
        read_results(tmp_path / "out")


def test_workers_give_the_numbers_of_one_process(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    wide = replace(plan, methods=("probe", "ensemble"), folds=2)
    run_plan(posts, wide, tmp_path / "alone")
    watcher = Noting()
    session = run_plan(posts, wide, tmp_path / "many", jobs=2, watcher=watcher)
    assert session.done == len(watcher.done) == 8
    assert same(proba_of(tmp_path / "alone"), proba_of(tmp_path / "many"))


class KillingWorkers(Noting):
    """Does once what the system does to a process when the memory is used up."""

    def finish(self, record: Record) -> None:
        super().finish(record)
        if len(self.done) == 1:
            victim = multiprocessing.active_children()[0].pid
            assert victim is not None
            os.kill(victim, signal.SIGKILL)


@pytest.mark.slow  # two processes that import torch
def test_a_worker_that_is_killed_costs_its_cell_alone(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    wide = replace(plan, folds=10)
    with pytest.raises(CotuneError, match=r"a worker process ended .* the memory was used up; continue with --resume"):
        run_plan(posts, wide, tmp_path / "out", jobs=2, watcher=KillingWorkers())
    assert multiprocessing.active_children() == []
    kept = predictions.count(tmp_path / "out")
    assert 0 < kept < 10
    session = run_plan(posts, wide, tmp_path / "out", resume=True)
    assert (session.found, session.done) == (kept, 10 - kept)
    run_plan(posts, wide, tmp_path / "whole")
    assert same(proba_of(tmp_path / "whole"), proba_of(tmp_path / "out"))


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
import torch
torch.set_num_threads(1)
from bench_tiny import record_of, tiny_plan, tiny_posts
from tiny import Zoo
from cotune.benchmark import run_plan
root = Path({root!r})
if __name__ == "__main__":
    plan = tiny_plan(Zoo(Path({zoo!r})), root / "cache", methods=("svm", "joint", "ensemble"), folds=5)
    run_plan(tiny_posts(root), plan, root / "killed", jobs={jobs})
"""


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_kill_loses_at_most_the_cells_under_way(zoo: Zoo, tmp_path: Path, jobs: int) -> None:
    plan = tiny_plan(zoo, tmp_path / "cache", methods=("svm", "joint", "ensemble"), folds=5)
    posts = tiny_posts(tmp_path)
    run_plan(posts, plan, tmp_path / "whole")
    script = tmp_path / "run.py"
    paths = [str(Path(__file__).parents[1])]
    script.write_text(SCRIPT.format(paths=paths, root=str(tmp_path), zoo=str(zoo.root), jobs=jobs))
    killed = tmp_path / "killed"
    with subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, start_new_session=True) as process:
        until = time.monotonic() + 120
        while predictions.count(killed) < 3 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode()
    time.sleep(0.5)  # workers notice that their parent is gone
    assert predictions.count(killed) >= 3
    with (killed / predictions.RUNNING).open("ab") as file:
        file.write(b"cotune")
    (killed / ".tmp-0a1b2c3d-1f-0a1b-predictions.parquet").write_bytes(b"half")
    session = run_plan(posts, plan, tmp_path / "killed", resume=True)
    assert session.found >= 3
    assert session.found + session.done == len(plan.cells())
    assert not list(killed.glob(".tmp-*"))
    assert not (killed / predictions.RUNNING).exists()
    assert same(proba_of(tmp_path / "whole"), proba_of(tmp_path / "killed"))
    tables = [read_results(tmp_path / name).rows for name in ("whole", "killed")]
    folds = read_results(tmp_path / "whole").folds
    for key, row in tables[0].items():
        assert np.array_equal(row.fold_aucs(folds), tables[1][key].fold_aucs(folds))


def test_the_tally_foresees_the_time_left(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    run_plan(posts, plan, tmp_path / "out")
    results = read_results(tmp_path / "out")
    record = record_of(tmp_path / "out", plan.cells()[0])
    tally = Tally(jobs=2)
    tally.begin(results.folds, plan.cells(), [])
    assert tally.left() is None
    record.seconds = 10.0
    tally.add(record)
    assert tally.left() == pytest.approx(10), "two cells at once"
    tally.fail(plan.cells()[1])
    assert tally.left() == pytest.approx(10), "one cell is not divided among two processes"
    assert tally.headline().startswith("1 of 3 cells done, 1 failed, ")
    assert "about 10 s left" in tally.headline()


def test_a_cheap_method_says_nothing_about_a_dear_one(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    run_plan(posts, plan, tmp_path / "out")
    first, second, third = plan.cells()
    dear = [replace(cell, method="joint") for cell in (first, second)]
    few = replace(first, shots=8)
    record = record_of(tmp_path / "out", first)
    tally = Tally()
    tally.begin(read_results(tmp_path / "out").folds, [first, second, third, *dear, few], [])
    tally.add(replace(record, seconds=1.0))
    assert tally.left() is None, "neither joint nor a training on 8 posts has been measured"
    assert "left" not in tally.headline()
    tally.add(replace(record, cell=few, seconds=0.5))
    tally.add(replace(record, cell=dear[0], seconds=100.0))
    assert tally.left() == pytest.approx(1 + 1 + 100)
    tally.start(dear[1])
    tally._todo[dear[1]] = time.perf_counter() - 30
    assert tally.left() == pytest.approx(1 + 1 + 70, abs=0.5), "of the one under way the rest counts"
    tally._todo[dear[1]] = time.perf_counter() - 500
    assert tally.left() == pytest.approx(1 + 1 + 10), "a late one is not over"


def test_watchers_tell_of_every_cell(
    posts: pd.DataFrame, plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    posts.loc[0, "label"] = None
    run_plan(posts, plan, tmp_path / "lines", watcher=LineWatcher())
    said = capsys.readouterr().err
    assert "1 post is left out (1 with no label)" in said
    assert "29 posts in 3 folds" in said
    assert "fast (distilbert + timm-resnet) fold 3, seed 42: AUC" in said
    assert "3 of 3 cells done" in said
    with LiveWatcher() as watcher:
        run_plan(posts, plan, tmp_path / "live", watcher=watcher)
        watcher.start(plan.cells()[0])
        watcher.console.print(watcher.render())
    said = capsys.readouterr().err
    assert "3/3" in said
    assert "3 of 3 cells done" in said
    assert re.search("━{20,}", said), "a bar"


def test_a_bar_is_there_from_the_start_and_the_end_is_never_out_of_sight(
    posts: pd.DataFrame, plan: Plan, tmp_path: Path
) -> None:
    run_plan(posts, plan, tmp_path / "out")
    watcher = LiveWatcher()
    watcher.console = Console(file=io.StringIO(), width=80, height=12, force_terminal=True, color_system=None)
    watcher.console.print(watcher.render())
    assert "preparing" in watcher.console.file.getvalue()  # type: ignore[attr-defined]
    many = [replace(cell, method="fast", text=f"text-{i}") for i in range(40) for cell in plan.cells()]
    watcher.begin(read_results(tmp_path / "out").folds, many, [])
    watcher.start(many[0])
    watcher.console.print(watcher.render())
    lines = watcher.console.file.getvalue().splitlines()[1:]  # type: ignore[attr-defined]
    assert len(lines) <= 12
    assert "0 of 120 cells done" in lines[-1]
    assert any("more rows, in the tables at the end" in line for line in lines)


def test_cells_of_pictures_that_were_not_fetched_are_not_mixed_with_others(
    posts: pd.DataFrame, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posts.loc[0, "image"] = "memory://nowhere/a.jpg"
    run_plan(posts, plan, tmp_path / "out")
    with pytest.raises(RunError, match=r"other settings: fetched \(False, now True\)"):
        run_plan(posts, plan, tmp_path / "out", resume=True, allow_remote=True)


def test_other_weights_under_the_same_name_are_refused_before_any_work(
    zoo: Zoo, posts: pd.DataFrame, plan: Plan, tmp_path: Path
) -> None:
    text = tmp_path / "mine"
    shutil.copytree(plan.pairs[0][0], text)
    plan = replace(plan, pairs=((str(text), plan.pairs[0][1]),))
    run_plan(posts, plan, tmp_path / "out", only_folds=(0,))
    weights = load_file(text / "model.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in weights.items()}, text / "model.safetensors", {"format": "pt"})
    for folds in ((), (0,)):  # with cells to do, and with none
        with pytest.raises(RunError, match="computed with other weights of .*mine"):
            run_plan(posts, plan, tmp_path / "out", resume=True, only_folds=folds)
    assert predictions.count(tmp_path / "out") == 1


@pytest.mark.parametrize("settings", ["{}", "[]", '{"data": "x"}'])
def test_a_damaged_results_file_is_said(posts: pd.DataFrame, plan: Plan, tmp_path: Path, settings: str) -> None:
    run_plan(posts, plan, tmp_path / "out")
    (tmp_path / "out" / "bench.json").write_text('{"settings": ' + settings + "}")
    with pytest.raises(RunError, match="was not written by cotune"):
        run_plan(posts, plan, tmp_path / "out", resume=True)
    with pytest.raises(RunError, match="was not written by cotune"):
        read_results(tmp_path / "out")


def test_results_cannot_go_where_a_file_is(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RunError, match="cannot write into .*choose another folder"):
        run_plan(posts, plan, tmp_path / "out")


def test_a_changed_byte_of_a_cell_or_of_the_folds_is_named(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_plan(posts, plan, out)
    for path in (out / predictions.FILE, out / "folds.parquet"):
        whole = path.read_bytes()
        for at in (12, 40):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(RunError, match=f"{path.name} (is damaged|cannot be read)"):
                read_results(out)
        path.write_bytes(whole)
    (out / "failed.json").write_text("{")
    assert read_results(out).failures == {}
    about = json.loads((out / "bench.json").read_text())
    (out / "bench.json").write_text(json.dumps({**about, "format": "two"}))
    with pytest.raises(RunError, match="update cotune"):
        read_results(out)


def test_a_folder_keeps_the_precision_it_was_begun_with(
    posts: pd.DataFrame, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(plan, methods=("probe",), fit=plan.fit.model_copy(update={"precision": "auto"}))
    for name in ("bf16", "32"):  # as if the second session ran on another machine
        monkeypatch.setattr("cotune.benchmark.runner.choose_precision", lambda *_, name=name: Precision(name, "test"))
        session = run_plan(posts, plan, tmp_path / "out", resume=True, only_folds=[0] if name == "bf16" else [1])
        assert session.done
        begun = json.loads((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))
        assert begun["settings"]["fit"]["precision"] == "bf16"


def test_folders_of_versions_whose_auto_meant_float32_go_on(posts: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    plan, out = replace(plan, methods=("probe",)), tmp_path / "out"
    run_plan(posts, plan, out, only_folds=[0])
    begun = json.loads((out / "bench.json").read_text(encoding="utf-8"))
    begun["settings"]["fit"]["precision"] = "auto"
    (out / "bench.json").write_text(json.dumps(begun), encoding="utf-8")
    assert run_plan(posts, plan, out, resume=True, only_folds=[0]).found
    with pytest.raises(RunError, match=r"precision \('32', now 'bf16'\)"):
        other = plan.fit.model_copy(update={"precision": "bf16"})
        run_plan(posts, replace(plan, fit=other), out, resume=True)
