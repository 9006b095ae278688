"""The store of finished cells: appended to by several processes, merged, and never half read."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench_tiny import made_up
from cotune.benchmark import Cell, Plan, predictions, read_results
from cotune.benchmark.records import Record, record_to_bytes
from cotune.errors import CotuneError, RunError
from cotune.files import read_json, write_json
from cotune.report.benchmark_report import write_all

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results"
PLAN = Plan(methods=("joint", "text"), pairs=(("hf:a/t", "timm:i"),), folds=3)


def record(fold: int = 0, *, method: str = "joint", n: int = 20, classes: int = 3, seed: int = 0) -> Record:
    random = np.random.default_rng([seed, fold])
    proba = random.dirichlet(np.ones(classes), n)
    emap = random.dirichlet(np.ones(classes), n) if method == "joint" else None
    if emap is not None:
        emap[::4] = np.nan  # the projection takes a part of the posts
    ids = [f"post {i} of é{fold}" for i in range(n)]
    history = [{"stage": "top", "epoch": 1, "train_loss": 0.123456, "seconds": 0.5, "val_loss": None}]
    cell = Cell(method, "hf:a/t", "timm:i", fold, 42, None if fold else 8, 0)
    return Record(cell, ids, proba, 1.5, 0.25, {"total": 3}, history, emap, {"text": "mark"}, {"cotune": "0"})


def same(found: Iterable[Record], expected: Iterable[Record]) -> bool:
    pairs = list(zip(found, sorted(expected, key=lambda one: one.cell.key), strict=True))
    for one, other in pairs:
        np.testing.assert_allclose(one.proba, other.proba, atol=6e-7)
        if other.emap is None:
            assert one.emap is None
        else:
            np.testing.assert_allclose(one.emap, other.emap, atol=6e-7)
        assert replace(one, proba=other.proba, emap=other.emap) == other
    return bool(pairs)


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_records_come_back_from_both_files(tmp_path: Path, classes: int) -> None:
    records = [record(fold, method=method, classes=classes) for fold in range(3) for method in ("text", "joint")]
    for one in records:
        predictions.append(tmp_path, one)
    appended = predictions.read(tmp_path)
    assert same(appended, records)
    assert predictions.merge(tmp_path)
    assert not (tmp_path / predictions.RUNNING).exists()
    merged = predictions.read(tmp_path)
    assert same(merged, records)
    for one, other in zip(appended, merged, strict=True):
        assert one.about() == other.about()
        assert np.array_equal(one.proba, other.proba)
    assert predictions.count(tmp_path) == 6
    assert not predictions.merge(tmp_path)


@pytest.mark.parametrize("size", [1e-7, 1.0, 1e20])
@pytest.mark.parametrize("outputs", [1, 2])
def test_values_of_any_size_come_back(tmp_path: Path, size: float, outputs: int) -> None:
    values = np.random.default_rng(0).normal(size=(20, outputs)) * size
    emap = np.where(np.arange(20)[:, None] % 4, values / 3, np.nan)
    records = [replace(record(fold), proba=values + fold * size, emap=emap) for fold in range(2)]
    for one in records:
        predictions.append(tmp_path, one)
    for _ in range(2):
        for one, other in zip(predictions.read(tmp_path), records, strict=True):
            np.testing.assert_allclose(one.proba, other.proba, rtol=1e-6)
            np.testing.assert_allclose(one.emap, emap, rtol=1e-6)
        predictions.merge(tmp_path)


def test_the_merged_file_does_not_depend_on_the_order(tmp_path: Path) -> None:
    records = [record(fold) for fold in range(4)]
    predictions.write(tmp_path / "a", records)
    for one in reversed(records):
        predictions.append(tmp_path / "b", one)
        predictions.merge(tmp_path / "b")
    assert (tmp_path / "a" / predictions.FILE).read_bytes() == (tmp_path / "b" / predictions.FILE).read_bytes()


def test_a_kill_at_any_byte_loses_only_the_cell_under_way(tmp_path: Path) -> None:
    predictions.append(tmp_path, record(0, n=3))
    path = tmp_path / predictions.RUNNING
    first = path.read_bytes()
    predictions.append(tmp_path, record(1, n=3))
    both = path.read_bytes()
    for end in [*range(len(first), len(first) + 80), *range(len(first) + 80, len(both), 97), len(both) - 1]:
        for tail in (b"", bytes(200)):  # a power cut can leave zeros where the data should be
            path.write_bytes(both[:end] + tail)
            assert same(predictions.read(tmp_path), [record(0, n=3)])
        predictions.append(tmp_path, record(2, n=3))
        assert same(predictions.read(tmp_path), [record(0, n=3), record(2, n=3)])


def test_a_kill_between_merging_and_removing_does_no_harm(tmp_path: Path) -> None:
    predictions.append(tmp_path, record(0))
    left = (tmp_path / predictions.RUNNING).read_bytes()
    predictions.merge(tmp_path)
    (tmp_path / predictions.RUNNING).write_bytes(left)
    assert same(predictions.read(tmp_path), [record(0)])
    predictions.append(tmp_path, record(1))
    predictions.merge(tmp_path)
    assert same(predictions.read(tmp_path), [record(0), record(1)])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    predictions.append(tmp_path, record(0))
    before = (tmp_path / predictions.RUNNING).read_bytes()
    write, calls = os.write, []

    def failing(handle: int, data: Any) -> int:
        if calls:
            raise error
        calls.append(1)
        return write(handle, bytes(data)[:10])

    with monkeypatch.context() as patch:
        patch.setattr("cotune.files.os.write", failing)
        with pytest.raises((KeyboardInterrupt, CotuneError), match=r"^$|predictions.running: the disk is full"):
            predictions.append(tmp_path, record(1))
    assert (tmp_path / predictions.RUNNING).read_bytes() == before


def _append(folder: str, start: int) -> None:
    for fold in range(start, start + 5):
        predictions.append(Path(folder), record(fold))


def test_processes_append_at_the_same_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append, args=(str(tmp_path), start)) for start in (0, 5)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        predictions.merge(tmp_path)
        time.sleep(0.02)
    for worker in workers:
        worker.join()
    assert same(predictions.read(tmp_path), [record(fold) for fold in range(10)])


def test_a_changed_byte_is_named_wherever_it_is(tmp_path: Path) -> None:
    records = [record(fold) for fold in range(3)]
    for one in records:
        predictions.append(tmp_path, one)
    running = tmp_path / predictions.RUNNING
    shutil.copy(running, tmp_path / "kept")
    predictions.merge(tmp_path)
    merged = tmp_path / predictions.FILE
    whole, quiet = merged.read_bytes(), 0
    for at in range(0, len(whole), 61):
        merged.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            # Some bytes mean nothing (paddings, names of what wrote it): then nothing may have changed.
            quiet += same(predictions.read(tmp_path), records)
        except RunError as error:
            assert "predictions.parquet is damaged" in str(error)
            assert len(str(error).splitlines()) == 1
    assert quiet < len(whole) / 61 / 2
    merged.unlink()
    whole = (tmp_path / "kept").read_bytes()
    for at in (0, 9, 20, 60, 500):
        running.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(RunError, match=r"predictions.running is damaged .*continue with --resume"):
            predictions.read(tmp_path)


def old_form(out: Path) -> None:
    """Turn a results folder into one of an older version: a file for each cell."""
    (out / "cells").mkdir()
    for one in predictions.read(out):
        (out / "cells" / f"{one.cell.key}.parquet").write_bytes(record_to_bytes(one))
    (out / predictions.FILE).unlink()
    write_json(out / "bench.json", {**read_json(out / "bench.json"), "format": 1})


def test_folders_of_older_versions_open_and_are_converted(tmp_path: Path) -> None:
    made_up(tmp_path, PLAN, {})
    write_all(tmp_path, n_bootstrap=20)
    before = {name: (tmp_path / name).read_bytes() for name in ("results.md", "summary.json", predictions.FILE)}
    old_form(tmp_path)
    (tmp_path / "cells" / ".tmp-half.parquet").write_bytes(b"half")
    assert predictions.count(tmp_path) == 6
    assert len(read_results(tmp_path).rows) == 2
    assert (tmp_path / "cells").is_dir(), "reading changes nothing"
    (tmp_path / "cells" / ".tmp-half.parquet").unlink()
    write_all(tmp_path, n_bootstrap=20)
    assert not (tmp_path / "cells").exists()
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert read_json(tmp_path / "bench.json")["format"] == 2


def test_a_damaged_cell_of_an_older_version_is_named(tmp_path: Path) -> None:
    made_up(tmp_path, PLAN, {})
    old_form(tmp_path)
    path = next((tmp_path / "cells").iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match=f"{path.name} is damaged"):
        write_all(tmp_path, n_bootstrap=20)
    path.unlink()
    assert predictions.count(tmp_path) == 5


def test_a_store_of_a_newer_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(predictions, "_PROBABILITIES", 99)
        predictions.write(tmp_path, [record(0)])
    with pytest.raises(RunError, match="newer cotune; update cotune"):
        predictions.read(tmp_path)


@pytest.mark.parametrize("folder", ["mpnet_half", "seeds"])
def test_committed_results_are_rebuilt_byte_for_byte(tmp_path: Path, folder: str) -> None:
    out = tmp_path / folder
    out.mkdir()
    for name in ("bench.json", "folds.parquet", predictions.FILE):
        shutil.copy(COMMITTED / folder / name, out)
    write_all(out)
    for path in (COMMITTED / folder).iterdir():
        if path.suffix in (".json", ".md", ".parquet"):
            assert (out / path.name).read_bytes() == path.read_bytes(), path.name
