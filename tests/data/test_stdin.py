"""Posts from standard input, streamed, in the format that its first line shows or that is named."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from cotune.cli import main
from cotune.data.posts import iter_posts, read_posts
from cotune.data.tables.text import Lines, sniffed_kind
from cotune.errors import ConfigError, DataError
from cotune.run import save_run
from runs import tiny_fit, tiny_settings
from tiny import Zoo, make_posts

CSV = b'\xef\xbb\xbfid,text,label\n1,ol\xc3\xa1,x\n2,"b\nc",y\n'


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize(
    "data",
    [
        CSV,
        CSV.replace(b",", b"\t"),
        CSV.replace(b",", b";"),
        '{"id": 1, "text": "olá", "label": "x"}\n{"id": 2, "text": "b\\nc", "label": "y"}\n'.encode(),
        json.dumps([{"id": 1, "text": "olá", "label": "x"}, {"id": 2, "text": "b\nc", "label": "y"}]).encode(),
    ],
)
def test_the_format_shows_in_the_first_line(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    give(monkeypatch, data)
    posts = read_posts("-")
    assert posts[["id", "text", "label"]].to_numpy().tolist() == [["1", "olá", "x"], ["2", "b\nc", "y"]]
    give(monkeypatch, data)
    assert pd.concat(iter_posts("-", 1))["row"].tolist() == [1, 2]


def test_relative_images_begin_at_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, b"image\na.png\n")
    assert read_posts("-")["image"][0] == str(Path("a.png").absolute())


def test_a_format_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    give(monkeypatch, b"text\n{a}\n")
    assert read_posts("-", kind="csv")["text"].tolist() == ["{a}"]
    (tmp_path / "posts.txt").write_text("text\tlabel\na, b\tx\n")
    assert read_posts(tmp_path / "posts.txt", kind="tsv")["text"].tolist() == ["a, b"]
    with pytest.raises(DataError, match="--format, or kind="):
        read_posts(tmp_path / "posts.txt")
    with pytest.raises(ConfigError, match=r"unknown format 'cvs' \(did you mean 'csv'"):
        read_posts(tmp_path / "posts.txt", kind="cvs")
    give(monkeypatch, b"PAR1")
    with pytest.raises(DataError, match="standard input is read as csv, tsv, jsonl or json, not as parquet"):
        read_posts("-", kind="parquet")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "standard input is empty"),
        (b"\n\n", "standard input holds only blank lines"),
        (b"text,label\n", "standard input holds no posts"),
        (b"words\na\n", "standard input has no column 'text'"),
        (b"text\n\xff\n", "standard input is not UTF-8: line 2"),
        (b'{"text": "a"}\n{oops\n', "standard input, line 2: not valid JSON"),
        (b"text,label\na\n", "standard input, line 2: 1 of 2 fields"),
    ],
)
def test_what_is_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: bytes, words: str
) -> None:
    give(monkeypatch, data)
    assert main(["check", "-"]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_nothing_is_read_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, b"text\na\n")
    lines = Lines(None)
    assert sniffed_kind(lines) == ".csv"
    assert lines.first() == "text\n"
    assert list(lines) == ["text\n", "a\n"]


@pytest.fixture(scope="module")
def run(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_run(folder / "run", tiny_fit(zoo, folder, tune="frozen").run)
    return folder / "run"


def test_the_commands(
    run: Path, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    posts = make_posts(tmp_path / "posts", 12, gaps=False).drop(columns=["row", "group"])
    data = posts.to_csv(index=False).encode()
    monkeypatch.chdir(tmp_path)  # images lie below it
    give(monkeypatch, data)
    assert main(["predict", str(run), "-", "--out", "-"]) == 0
    assert pd.read_csv(io.StringIO(capsys.readouterr().out))["id"].tolist() == posts["id"].tolist()
    give(monkeypatch, data)
    assert main(["evaluate", str(run), "-", "--bootstrap", "0", "--out", str(tmp_path / "scores")]) == 0
    assert "standard input" in " ".join(capsys.readouterr().out.split())
    give(monkeypatch, data)
    flags = [
        part
        for name, value in tiny_settings(zoo, tmp_path / "c", tune="frozen").items()
        for part in ("--set", f"{name}={value}")
    ]
    assert main(["fit", "-", "--out", str(tmp_path / "fit"), "--format", "csv", *flags]) == 0
    give(monkeypatch, data)
    assert main(["explain", str(run), "-", "--out", str(tmp_path / "x")]) == 2
    assert "explain reads the table twice" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_predictions_come_while_posts_still_do(run: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [
        sys.executable,
        "-m",
        "cotune",
        "predict",
        str(run),
        "-",
        "--out",
        "-",
        "--chunk-size",
        "1",
        "--device",
        "cpu",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(b"text\ngood\nbad\nbad\n")
            process.stdin.flush()
            begun = time.monotonic()
            assert process.stdout.readline().startswith(b"id,label")
            assert process.stdout.readline().startswith(b"0,class")
            assert time.monotonic() - begun < 60
            assert process.poll() is None
            process.stdin.close()
            assert len(process.stdout.read().splitlines()) == 2
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
