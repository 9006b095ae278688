"""A run folder: whole or not there, readable anywhere, and never a mixture."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotune.errors import CotuneError, RunError
from cotune.estimators.classifier import JointClassifier
from cotune.predict import Predictor
from cotune.run import Run, load_run, read_settings, save_run
from cotune.settings import make_config
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
    "posts_summary.safetensors",
    "seen.safetensors",
    "text_encoder",
}


@pytest.fixture(scope="module")
def fitted(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_fit(zoo, tmp_path_factory.mktemp("fitted"), tune="joint", validation=0.25).run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_folder_holds_what_it_promises_and_no_pickle(fitted: Run, tmp_path: Path) -> None:
    save_run(tmp_path / "run", fitted, pages={"report.html": "<html>"})
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
    before = Predictor(run, device="cpu").scores(posts).predictions
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
    save_run(tmp_path / "run", fitted, pages={"report.html": "old"})
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
    save_run(run, fitted, pages={"report.html": "old"})
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


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None takes a field away."""
    said = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in said.items() if value is not None}))


def cut(path: Path, part: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])


def flip(path: Path) -> None:
    """Change one bit in the midst of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def without_checksums(run: Path) -> None:
    """Make a run look as before there were checksums."""
    edit(run / "config.json", written_by=None, kind=None, self_test=None, checksums=None, checksum=None)


def swap_words(run: Path) -> None:
    tokenizer = run / "text_encoder" / "tokenizer.json"
    said = json.loads(tokenizer.read_text())
    vocabulary = said["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    tokenizer.write_text(json.dumps(said))


NO_RUN = [
    (lambda run: shutil.rmtree(run), "there is no run folder"),
    (lambda run: (run / "config.json").unlink(), "is no finished run"),
    (lambda run: cut(run / "config.json"), "config.json is damaged"),
    (lambda run: (run / "config.json").write_text('{"a": 1}'), "was not written by cotune"),
]
DAMAGED = {
    "changed vocabulary": (swap_words, "tokenizer.json was changed .*; copy the run again"),
    "swapped labels": (
        lambda run: (run / "labels.json").write_text(json.dumps(json.loads((run / "labels.json").read_text())[::-1])),
        "labels.json was changed",
    ),
    "other labels": (lambda run: (run / "labels.json").write_text('["one"]'), "labels.json was changed"),
    "no labels": (lambda run: (run / "labels.json").unlink(), "labels.json is missing"),
    "no tokenizer": (lambda run: (run / "text_encoder" / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "no text encoder": (lambda run: shutil.rmtree(run / "text_encoder"), "text_encoder/.* is missing"),
    "no image encoder": (lambda run: shutil.rmtree(run / "image_encoder"), "image_encoder/.* is missing"),
    "short weights": (lambda run: cut(run / "model.safetensors"), r"model.safetensors was changed or cut short .it has [\d,]+ bytes, not [\d,]+"),
    "a bit of the weights": (lambda run: flip(run / "model.safetensors"), "safetensors was changed .its checksum differs"),
    "no weights": (lambda run: (run / "model.safetensors").unlink(), "model.safetensors is missing"),
    "other preprocessing": (lambda run: flip(run / "image_encoder" / "preprocessing.json"), "preprocessing.json was ch"),
    "other pooling": (lambda run: edit(run / "text_encoder" / "encoder.json", pooling="cls"), "encoder.json was changed"),
    "another head": (lambda run: edit(run / "config.json", label_type="int"), "config.json was changed"),
}  # fmt: skip
OLD = {
    "weights": (lambda run: (run / "model.safetensors").write_bytes(b"x" * 50), "cannot be read"),
    "no weights": (lambda run: (run / "model.safetensors").unlink(), "cannot be read"),
    "labels": (lambda run: (run / "labels.json").write_text('["one"]'), "damaged|does not fit"),
    "no labels": (lambda run: (run / "labels.json").unlink(), "does not exist"),
    "no encoder": (lambda run: shutil.rmtree(run / "text_encoder"), "damaged"),
    "no tokenizer": (
        lambda run: (run / "text_encoder" / "tokenizer.json").unlink(),
        "damaged|an encoder of .*run cannot be",
    ),
    "tokenizer": (lambda run: (run / "text_encoder" / "tokenizer_config.json").write_text("null"), "damaged|cannot be"),
}


@pytest.mark.parametrize(("harm", "words"), NO_RUN)
def test_what_is_no_run_is_said(fitted: Run, tmp_path: Path, harm: Callable[[Path], Any], words: str) -> None:
    save_run(tmp_path / "run", fitted)
    harm(tmp_path / "run")
    with pytest.raises(RunError, match=words):
        load_run(tmp_path / "run")


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_run_names_the_file(fitted: Run, tmp_path: Path, kind: str) -> None:
    harm, words = DAMAGED[kind]
    save_run(tmp_path / "run", fitted)
    harm(tmp_path / "run")
    with pytest.raises(RunError, match=words) as caught:
        load_run(tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", OLD)
def test_a_damaged_run_without_checksums_is_a_clear_error(fitted: Run, tmp_path: Path, kind: str) -> None:
    harm, words = OLD[kind]
    save_run(tmp_path / "run", fitted)
    without_checksums(tmp_path / "run")
    harm(tmp_path / "run")
    with pytest.raises(CotuneError, match=words):
        load_run(tmp_path / "run")


def test_checksums_that_were_removed_are_noted(fitted: Run, tmp_path: Path) -> None:
    save_run(tmp_path / "run", fitted)
    edit(tmp_path / "run" / "config.json", checksums=None, checksum=None)
    (note,) = load_run(tmp_path / "run").notes
    assert "the checksums of" in note
    assert "are not verified" in note


def test_a_run_without_checksums_opens_as_before(fitted: Run, tmp_path: Path) -> None:
    save_run(tmp_path / "run", fitted)
    without_checksums(tmp_path / "run")
    opened = load_run(tmp_path / "run")
    assert opened.classes == fitted.classes
    assert opened.notes == []


def test_a_run_with_the_old_name_of_a_setting_opens(fitted: Run, tmp_path: Path) -> None:
    save_run(tmp_path / "run", fitted)
    without_checksums(tmp_path / "run")
    settings = fitted.config.model_dump(mode="json", exclude={"max_grad_norm"})
    edit(tmp_path / "run" / "config.json", fit={**settings, "clip": 0.5})
    assert load_run(tmp_path / "run").config.max_grad_norm == 0.5
    assert make_config({}, file=tmp_path / "run").max_grad_norm == 0.5


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("name", "harm"),
    [("metrics.json", cut), ("environment.json", Path.unlink), ("metrics.json", lambda p: p.write_text("[]"))],
)
def test_what_only_informs_does_not_keep_from_predicting(
    fitted: Run, tmp_path: Path, name: str, harm: Callable[[Path], Any], old: bool
) -> None:
    save_run(tmp_path / "run", fitted)
    if old:
        without_checksums(tmp_path / "run")
    harm(tmp_path / "run" / name)
    opened = load_run(tmp_path / "run")
    missing = harm is Path.unlink
    assert len(opened.notes) == (0 if old and missing else 1)
    assert all(name in note and "no effect on predictions" in note for note in opened.notes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        JointClassifier.load(tmp_path / "run")
    assert [str(w.message) for w in caught if "predictions" in str(w.message)] == opened.notes


def test_what_a_user_may_edit_is_not_checked(fitted: Run, tmp_path: Path) -> None:
    save_run(tmp_path / "run", fitted, pages={"report.html": "<html>"})
    (tmp_path / "run" / "README.md").write_text("my model")
    (tmp_path / "run" / "report.html").unlink()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert load_run(tmp_path / "run").notes == []


def test_verifying_can_be_left_out(fitted: Run, tmp_path: Path) -> None:
    save_run(tmp_path / "run", fitted)
    swap_words(tmp_path / "run")
    assert load_run(tmp_path / "run", verify=False).classes == fitted.classes


def test_a_run_of_a_later_version_is_refused(fitted: Run, tmp_path: Path) -> None:
    save_run(tmp_path / "run", fitted)
    settings = read_settings(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(json.dumps({**settings, "format": 99}))
    with pytest.raises(RunError, match="update cotune"):
        load_run(tmp_path / "run")
