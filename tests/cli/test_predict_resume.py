"""`cotune predict --resume`: whatever stopped it, the finished file is the one of a run that nothing stopped."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cotune.checksums import sealed
from cotune.cli import main
from cotune.export.predictor import ExportedPredictor
from runs import write_table
from tiny import make_posts

pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    posts = make_posts(folder / "images", 30, classes=2)
    posts.loc[7, "image"] = str(folder / "images" / "nowhere.png")
    posts.loc[20, ["text", "image"]] = None
    return write_table(posts, folder / "posts.csv")


@pytest.fixture
def model(tiny_export: Path) -> Path:
    return tiny_export


def predict(model: Path, table: Path, out: Path, *more: str) -> int:
    return main(["predict", str(model), str(table), "--out", str(out), "--chunk-size", "4", "--engine", "onnx", *more])


def stop_at(monkeypatch: pytest.MonkeyPatch, chunk: int, error: type[BaseException]) -> dict[str, int]:
    """Let scoring stop at a chunk; return how many were scored."""
    score, calls = ExportedPredictor.score, {"scored": 0}

    def stopping(self: ExportedPredictor, read: Any) -> Any:
        if calls["scored"] == chunk:
            raise error
        calls["scored"] += 1
        return score(self, read)

    monkeypatch.setattr(ExportedPredictor, "score", stopping)
    return calls


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl", "p.json", "p.parquet", "p.csv.gz"])
def test_the_same_file_as_without_a_stop(
    model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str
) -> None:
    straight, out = tmp_path / "straight" / name, tmp_path / name
    assert predict(model, table, straight, "--json") == 0
    expected = capsys.readouterr().out
    for stop in (0, 3, 2):
        with monkeypatch.context() as patch:
            stop_at(patch, stop, KeyboardInterrupt)
            assert predict(model, table, out, "--resume") == 130
        assert ("--resume goes on from there" in capsys.readouterr().err) == (stop != 0)
        assert not out.exists()
        assert hidden(tmp_path) == ([f".{name}.unfinished"] if stop else [])
    with monkeypatch.context() as patch:
        calls = stop_at(patch, -1, KeyboardInterrupt)
        assert predict(model, table, out, "--resume", "--json") == 0
    assert calls["scored"] == 8 - 5, "chunks that were done are not scored again"
    assert out.read_bytes() == straight.read_bytes()
    assert capsys.readouterr().out.partition('"seconds"')[0] == expected.partition('"seconds"')[0].replace(
        str(straight), str(out)
    )
    assert hidden(tmp_path) == hidden(straight.parent) == []


def test_an_error_on_the_way_keeps_what_was_done(
    model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "p.csv"
    with monkeypatch.context() as patch:
        stop_at(patch, 3, MemoryError)
        assert predict(model, table, out) == 1
    calls = stop_at(monkeypatch, -1, KeyboardInterrupt)
    assert predict(model, table, out, "--resume") == 0
    assert calls["scored"] == 5
    assert predict(model, table, tmp_path / "straight.csv") == 0
    assert out.read_bytes() == (tmp_path / "straight.csv").read_bytes()


@pytest.fixture
def stopped(model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Path:
    with monkeypatch.context() as patch:
        stop_at(patch, 3, KeyboardInterrupt)
        assert predict(model, table, tmp_path / "p.csv") == 130
    capsys.readouterr()
    return tmp_path / "p.csv"


def test_without_resume_it_starts_again(
    model: Path, table: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = stop_at(monkeypatch, -1, KeyboardInterrupt)
    assert predict(model, table, stopped) == 0
    assert calls["scored"] == 8
    assert hidden(stopped.parent) == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--batch-size", "5"], "another batch-size (64, now 5)"),
        (
            ["--chunk-size", "5", "--bad-images", "text-only"],
            "another bad-images (error, now text-only), another chunk",
        ),
        (["--where", "label=class0"], "another where"),
        (["--text-column", "label"], "another columns"),
        (["--engine", "auto"], "another engine (onnx"),
    ],
)
def test_another_setting_is_refused_and_named(
    model: Path, table: Path, stopped: Path, capsys: Any, more: list[str], words: str
) -> None:
    if "auto" in more:
        pytest.importorskip("openvino")
    assert predict(model, table, stopped, "--resume", *more) == 2
    said = capsys.readouterr().err
    assert f"p.csv was begun with {words}" in " ".join(said.split())
    assert said.count("\n") == 1
    assert len(list(stopped.parent.glob(".p.csv.unfinished/chunk-*"))) == 3


def test_another_table_and_another_model_are_refused(model: Path, table: Path, stopped: Path, capsys: Any) -> None:
    content = table.read_text()
    try:
        table.write_text(content + content.splitlines()[-1] + "\n")
        assert predict(model, table, stopped, "--resume") == 2
        assert "another content of the posts table;" in capsys.readouterr().err
    finally:
        table.write_text(content)
    other = stopped.parent / "other"
    shutil.copytree(model, other)
    about = json.loads((other / "export.json").read_text())
    about["run"]["data_hash"] = "other"
    (other / "export.json").write_text(json.dumps(sealed({name: about[name] for name in about if name != "checksum"})))
    assert predict(other, table, stopped, "--resume") == 2
    assert "another model, another content of the posts table;" in capsys.readouterr().err


def test_damaged_chunks_are_scored_again(model: Path, table: Path, stopped: Path) -> None:
    _, second, third = sorted(stopped.parent.glob(".p.csv.unfinished/chunk-*"))
    second.write_bytes(second.read_bytes()[:-20])
    third.write_bytes(third.read_bytes().partition(b"\n")[2])
    assert predict(model, table, stopped, "--resume") == 0
    assert predict(model, table, stopped.parent / "straight.csv") == 0
    assert stopped.read_bytes() == (stopped.parent / "straight.csv").read_bytes()


@pytest.mark.parametrize("words", [["-", "--out", "p.csv"], ["posts.csv", "--out", "-"], ["--text", "a"]])
def test_what_cannot_be_resumed(model: Path, words: list[str], capsys: Any) -> None:
    assert main(["predict", str(model), *words, "--resume"]) == 2
    assert "--resume needs a posts table and an output file" in capsys.readouterr().err


def test_kill_minus_nine(model: Path, table: Path, tmp_path: Path) -> None:
    posts = pd.read_csv(table, dtype={"id": str})
    posts["image"] = [str(table.parent / image) if isinstance(image, str) else None for image in posts["image"]]
    many = pd.concat([posts.assign(id=posts["id"] + f"-{i}") for i in range(40)])
    many.to_csv(tmp_path / "many.csv", index=False)
    out = tmp_path / "p.parquet"
    words = [
        "predict",
        str(model),
        str(tmp_path / "many.csv"),
        "--out",
        str(out),
        "--chunk-size",
        "4",
        "--engine",
        "onnx",
    ]
    killed = subprocess.Popen([sys.executable, "-m", "cotune", *words], stderr=subprocess.PIPE)
    until = time.monotonic() + 120
    while len(list(tmp_path.glob(".p.parquet.unfinished/chunk-*"))) < 3 and time.monotonic() < until:
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.005)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert main([*words, "--resume"]) == 0
    assert hidden(tmp_path) == []
    assert main([*words[:4], str(tmp_path / "straight.parquet"), *words[5:]]) == 0
    assert out.read_bytes() == (tmp_path / "straight.parquet").read_bytes()
