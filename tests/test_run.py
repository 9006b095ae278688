"""A run folder: whole or not there, readable anywhere, and never a mixture."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotune.errors import CotuneError, RunError
from cotune.predict import Predictor
from cotune.run import Run, load_run, read_settings, save_run, unknown_labels
from runs import tiny_fit
from tiny import Zoo, make_posts

FILES = {
    "README.md",
    "config.json",
    "environment.json",
    "image_encoder",
    "labels.json",
    "metrics.json",
    "model.safetensors",
    "text_encoder",
}


@pytest.fixture(scope="module")
def fitted(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_fit(zoo, tmp_path_factory.mktemp("fitted"), tune="joint", validation=0.25).run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_folder_holds_what_it_promises_and_no_pickle(fitted: Run, tmp_path: Path) -> None:
    save_run(tmp_path / "run", fitted, report="<html>")
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES | {"report.html"}
    endings = {p.suffix for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert endings <= {".json", ".safetensors", ".md", ".html", ".txt"}


SCORE = """
import json, socket, sys
def refuse(*args, **kwargs):
    raise OSError("no network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from pathlib import Path
import cotune
posts = cotune.read_posts(sys.argv[2])
print(json.dumps(cotune.load(sys.argv[1]).predict_proba(posts).tolist()))
"""


@pytest.mark.parametrize("fusion", ["attention", "reference"])
def test_a_new_process_without_network_and_encoders_gives_the_same_probabilities(
    zoo: Zoo, tmp_path: Path, fusion: str
) -> None:
    encoders = {kind: zoo.copy(kind, tmp_path / kind) for kind in ("mpnet", "convnext")}
    run = tiny_fit(
        zoo,
        tmp_path,
        tune="joint",
        fusion=fusion,
        text_encoder=str(encoders["mpnet"]),
        image_encoder=str(encoders["convnext"]),
    ).run
    posts = make_posts(tmp_path / "new", 13, seed=5)
    posts.drop(columns=["row", "group"]).to_csv(tmp_path / "new.csv", index=False)
    before, _, _ = Predictor(run, device="cpu").scores(posts)
    save_run(tmp_path / "run", run)
    for folder in (*encoders.values(), tmp_path / "cache"):
        shutil.rmtree(folder)
    answer = subprocess.run(
        [sys.executable, "-c", SCORE, str(tmp_path / "run"), str(tmp_path / "new.csv")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "0", "HOME": str(tmp_path / "home")},
        cwd=tmp_path,
    )
    after = np.asarray(json.loads(answer.stdout.splitlines()[-1]))
    assert np.abs(after - before).max() < 1e-5
    assert before.std() > 1e-3, "the posts must differ for the comparison to mean something"


def fail_on(name: str) -> Callable[..., Any]:
    """Return a stand-in for `Path.write_bytes` whose disk is full once a file called `name` is written."""
    real = Path.write_bytes

    def write(self: Path, data: bytes) -> int:
        if name in self.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, data)

    return write


@pytest.mark.parametrize("at", ["labels.json", "metrics.json", "environment.json", "config.json", "README.md"])
def test_a_full_disk_leaves_the_old_run_whole(
    fitted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    save_run(tmp_path / "run", fitted, report="old")
    before = contents(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail_on(at))
        with pytest.raises(CotuneError, match="the disk is full"):
            save_run(tmp_path / "run", fitted)
    assert contents(tmp_path / "run") == before
    assert load_run(tmp_path / "run").classes == fitted.classes


def test_a_full_disk_while_weights_are_written(fitted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    save_run(tmp_path / "run", fitted)
    before = contents(tmp_path / "run")

    def full(tensors: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(CotuneError, match="the disk is full"):
        save_run(tmp_path / "run", fitted)
    assert contents(tmp_path / "run") == before


def test_saving_again_replaces_the_run_and_nothing_else(zoo: Zoo, fitted: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_run(run, fitted, report="old")
    (run / "mine.csv").write_text("keep")
    text_only = tiny_fit(zoo, tmp_path, fusion="text", tune="frozen").run
    save_run(run, text_only)
    names = {p.name for p in run.iterdir()}
    assert names == (FILES - {"image_encoder"}) | {"mine.csv"}, "an old report or encoder would mislead"
    assert list(load_run(run).model.encoders) == ["text"]


def test_the_place_of_a_run_is_a_file(fitted: Run, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(CotuneError, match="a file is in the way"):
        save_run(tmp_path / "run", fitted)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda run: shutil.rmtree(run), "there is no run folder"),
        (lambda run: (run / "config.json").unlink(), "is no finished run"),
        (lambda run: (run / "config.json").write_text("{"), "is damaged"),
        (lambda run: (run / "config.json").write_text('{"a": 1}'), "was not written by cotune"),
        (lambda run: (run / "model.safetensors").write_bytes(b"x" * 50), "cannot be read"),
        (lambda run: (run / "model.safetensors").unlink(), "cannot be read"),
        (lambda run: (run / "labels.json").write_text('["one"]'), "damaged|does not fit"),
        (lambda run: (run / "labels.json").unlink(), "does not exist"),
        (lambda run: shutil.rmtree(run / "text_encoder"), "damaged"),
        (lambda run: (run / "text_encoder" / "tokenizer_config.json").write_text("null"), "damaged"),
    ],
)
def test_a_damaged_run_says_what_is_wrong(fitted: Run, tmp_path: Path, harm: Callable[[Path], Any], words: str) -> None:
    save_run(tmp_path / "run", fitted)
    harm(tmp_path / "run")
    with pytest.raises(CotuneError, match=words):
        load_run(tmp_path / "run")


def test_a_run_of_a_later_version_is_refused(fitted: Run, tmp_path: Path) -> None:
    save_run(tmp_path / "run", fitted)
    settings = read_settings(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(json.dumps({**settings, "format": 99}))
    with pytest.raises(RunError, match="update cotune"):
        load_run(tmp_path / "run")


def test_unknown_labels_are_listed_once() -> None:
    assert unknown_labels(["a", "b"], ["a", "x", None, "y", "x"]) == ["x", "y"]
