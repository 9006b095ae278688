"""Messages as the person who gets them reads them: short, about their words, without a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cotune import JointClassifier
from cotune.cli import main
from cotune.data.posts import read_posts
from cotune.errors import ConfigError, CotuneError, DataError, did_you_mean, python_words
from runs import tiny_settings
from tiny import Zoo, make_posts

LONG = "x" * 300


def raw_memes(folder: Path) -> Path:
    (folder / "img").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "img" / "00001.png")
    for name in ("train", "dev_seen"):
        line = {"id": 1, "img": "img/00001.png", "label": 1, "text": "a"}
        (folder / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    return folder


@pytest.mark.parametrize("splits", ["train,dev", "dev", "dev,train"])
def test_a_split_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], splits: str) -> None:
    raw = raw_memes(tmp_path / "raw")
    assert main(["import", "hateful-memes", str(raw), "--out", str(tmp_path / "o.csv"), "--splits", splits]) == 2
    assert capsys.readouterr().err == (
        f"error: {raw} holds no dev.jsonl (did you mean 'dev_seen'?); splits there: dev_seen, train\n"
    )
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.parametrize("command", ["fit", "check", "import", "predict", "evaluate", "explain"])
def test_a_name_of_300_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("text,label\n" + "a,x\nb,y\n" * 4)
    arguments = {
        "fit": ["fit", "a.csv", "--out", LONG],
        "check": ["check", f"{LONG}.csv"],
        "import": ["import", "hateful-memes", str(raw_memes(tmp_path / "raw")), "--out", f"{LONG}.csv"],
        "predict": ["predict", LONG, "a.csv", "--out", "p.csv"],
        "evaluate": ["evaluate", LONG, "a.csv"],
        "explain": ["explain", LONG, "a.csv", "--out", "o", "--no-words"],
    }[command]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "too long" in err
    assert err.count("\n") == 1
    assert len(err) < 420
    assert not any(path.name.startswith((".tmp", "x")) for path in tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_standard_output_on_a_full_device(tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,x\nb,y\n")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cotune", "check", str(tmp_path / "a.csv"), *more],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert (
        done.stderr == "error: cannot write to standard output: no space left on device; write to a place with room\n"
    )


def test_a_place_that_may_not_be_read_is_no_bug(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(tmp_path / "a.csv"))

    (tmp_path / "a.csv").write_text("text\na\n")
    monkeypatch.setattr(Path, "exists", refuse)
    assert main(["check", str(tmp_path / "a.csv")]) == 2
    assert "permission denied" in capsys.readouterr().err.lower()


def test_the_nearest_names_are_others_and_each_once() -> None:
    assert did_you_mean("dev", ["dev", "dev_seen", "dev_seen"]) == " (did you mean 'dev_seen'?)"
    assert did_you_mean("zzz", ["dev"]) == ""
    assert len(did_you_mean("x" * 500, ["x" * 490])) < 120


def test_errors_in_python_name_arguments() -> None:
    with (
        pytest.raises(ConfigError, match="^`device` cuda is not there; use `max_tokens` or --other-thing$"),
        python_words({"device", "max_tokens"}),
    ):
        raise ConfigError("--device cuda is not there; use --max-tokens or --other-thing")
    with pytest.raises(DataError, match="^no labels; fill the column$"), python_words(set()):
        raise DataError("no labels; fill the column, or name it with --label-column")


def test_the_classifier_names_arguments_and_columns(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 12)
    for settings, words in (
        ({"folds_group": "group", "validation": 0.2}, "`folds_group` group needs a `group` column$"),
        ({"tune": "frozen", "device": "mps"}, "`device` mps"),
    ):
        with pytest.raises(CotuneError, match=words) as caught:
            JointClassifier(**{**tiny_settings(zoo, tmp_path / "cache"), **settings}).fit(posts)
        assert "--" not in str(caught.value)
    with pytest.raises(DataError, match="rename a column") as caught_too:
        JointClassifier().fit(pd.DataFrame({"words": ["a"]}), ["x"])
    assert "--" not in str(caught_too.value)
    remote = pd.DataFrame({"text": ["a"], "image": ["https://example.org/a.png"]})
    assert "allow_remote=True" in JointClassifier.from_run(_run(zoo, tmp_path)).predict_frame(remote)["error"][0]


def _run(zoo: Zoo, folder: Path) -> Any:
    from runs import tiny_fit

    return tiny_fit(zoo, folder / "run", tune="frozen").run


def test_a_file_read_in_python_names_both(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("words\na\n")
    with pytest.raises(
        DataError,
        match=r"--text-column or --image-column \(in Python: columns=ColumnNames\(text=\.\.\., image=\.\.\.\)\)",
    ):
        read_posts(tmp_path / "a.csv")


def test_labels_that_look_like_quantities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "".join(f"t{i},{value}\n" for i, value in enumerate(np.linspace(0, 1, 30)))
    (tmp_path / "a.csv").write_text("text,label\n" + lines)
    assert main(["check", str(tmp_path / "a.csv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "regression"
    assert any("--task single-label" in advice["text"] for advice in found["advice"])


@pytest.mark.parametrize(("missing", "code"), [("torch", 2), ("torch.nn", 2), ("mine", 1)])
def test_an_installation_without_torch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, missing: str, code: int
) -> None:
    def run(_: object) -> int:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr("cotune.cli.run", run)
    assert main(["predict", "run", "--text", "a"]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert ("use an export" in err) == (code == 2)
