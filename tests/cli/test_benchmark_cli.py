from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import cotune.cli
from bench_tiny import tiny_posts
from cotune.benchmark import predictions
from cotune.cli.bench import bench
from cotune.cli.settings import SettingsCommand
from runs import write_table
from tiny import Zoo


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test not depend on where in the command line the command stands."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("bench", cls=SettingsCommand)(bench)
    app.callback()(lambda: None)
    monkeypatch.setattr(cotune.cli, "app", app)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tiny_posts(tmp_path), tmp_path / "posts.csv")


def run(zoo: Zoo, *words: object, encoders: bool = True) -> int:
    pair = ["--text-encoder", zoo("distilbert"), "--image-encoder", zoo("timm-resnet")] if encoders else []
    quick = ["--epochs", 1, "--set", "probe-epochs=1", "--set", "width=16", "--bootstrap", 50, "--device", "cpu"]
    return cotune.cli.main([str(word) for word in ["bench", *words, *pair, *quick]])


def test_published_folds(zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    posts = tiny_posts(tmp_path)
    write_table(posts.assign(split=["train"] * 20 + ["val"] * 3 + ["test"] * 7), tmp_path / "posts.csv")
    words = (tmp_path / "posts.csv", "--out", tmp_path / "out", "--methods", "fast,probe", "--folds-from", "split")
    assert run(zoo, *words) == 0
    said = capsys.readouterr()
    assert "3 validation posts of the published folds are not trained on" in said.err
    assert "is not used" not in said.err
    table = (tmp_path / "out" / "results.md").read_text()
    assert "| weighted F1 |" in table
    assert "7 posts, 2 classes (class0, class1), 1 published fold" in table
    assert "0 posts of the published test parts have a near-duplicate in the same fold's training part." in table
    assert run(zoo, *words, "--resume", "--set", "stop=train-loss") == 0
    assert run(zoo, *words[:-1], tmp_path / "posts.csv", "--resume") == 2
    assert "was begun with other settings: published" in capsys.readouterr().err
    assert run(zoo, *words, "--folds", 2) == 2
    assert "leave --folds and --protocol away" in capsys.readouterr().err


def test_published_folds_stop_by_their_validation_part(zoo: Zoo, tmp_path: Path) -> None:
    posts = tiny_posts(tmp_path)
    write_table(posts.assign(split=["train"] * 20 + ["val"] * 3 + ["test"] * 7), tmp_path / "posts.csv")
    words = (tmp_path / "posts.csv", "--out", tmp_path / "out", "--methods", "probe", "--folds-from", "split")
    assert run(zoo, *words, "--set", "stop=validation") == 0
    (record,) = predictions.read(tmp_path / "out")
    assert record.ids == posts["id"].astype(str).tolist()[23:]
    assert record.history[-1]["validation_loss"] is not None


def test_tables_and_report(zoo: Zoo, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = (table, "--out", out, "--methods", "svm,probe,joint,clip", "--folds", 2, "--paper", "mvsa")
    assert run(zoo, *words) == 0
    said = capsys.readouterr()
    assert "Table 1. AUC by method" in said.out
    assert "not run: needs" in said.out
    assert "6 of 6 cells done" in said.err
    rebuild = next(line for line in said.out.splitlines() if line.startswith("  cotune bench"))
    assert (out / "report.html").is_file()
    assert run(zoo, *words) == 2
    assert "--resume" in capsys.readouterr().err
    assert run(zoo, *words, "--resume", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in answer["rows"]] == ["svm", "probe", "joint"]
    made = {name: (out / name).read_bytes() for name in ("report.html", "results.md", "summary.json")}
    for name in made:
        (out / name).unlink()
    assert cotune.cli.main(shlex.split(rebuild)[1:]) == 0
    assert {name: (out / name).read_bytes() for name in made} == made
    assert cotune.cli.main([*shlex.split(rebuild)[1:], "--tables-format", "csv,tex"]) == 0
    assert len([path for path in out.iterdir() if path.suffix in (".csv", ".tex")]) == 2 * 3
    assert cotune.cli.main([*shlex.split(rebuild)[1:], "--tables-format", "txt"]) == 2


def test_the_paper_protocol_trains_three_epochs(zoo: Zoo, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(zoo, table, "--out", out, "--methods", "joint", "--folds", 2, "--protocol", "paper") == 0
    fit = json.loads((out / "bench.json").read_text())["settings"]["fit"]
    assert (fit["epochs"], fit["min_epochs"], fit["stop"]) == (3, 3, "train-loss")


def test_a_grid_with_an_encoder_that_is_not_there(
    zoo: Zoo, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.yaml"
    texts, images = [zoo("distilbert"), zoo("bert")], [zoo("timm-resnet"), tmp_path / "gone"]
    grid.write_text(f"text: [{texts[0]}, {texts[1]}]\nimage: [{images[0]}, {images[1]}]\nfolds: 2\nmethods: [probe]\n")
    out = tmp_path / "out"
    assert run(zoo, table, "--out", out, "--grid", grid, encoders=False) == 1
    said = capsys.readouterr()
    assert "error: 4 cells failed" in said.err
    assert "there is no folder" in said.err
    assert "Pairs of encoders" in said.out
    page = (out / "report.html").read_text()
    assert "4 cells failed." in page
    assert "Heat map" in page
    assert "Pairs of encoders" in (out / "results.md").read_text()


def test_when_every_cell_fails_there_is_no_table(
    zoo: Zoo, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("text: [bundled:nothing]\nimage: [bundled:nothing, bundled:no]\nfolds: 2\n")
    assert run(zoo, table, "--out", tmp_path / "out", "--grid", grid, encoders=False) == 1
    assert "no bundled text encoder" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.html").exists()


def test_the_only_pair_of_encoders_must_be_there(
    zoo: Zoo, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--image-encoder", "bundled:nothing", "--text-encoder", zoo("bert"), "--methods", "probe", "--folds", 2)
    assert run(zoo, table, "--out", tmp_path / "out", *words, encoders=False) == 2
    assert "error: no bundled image encoder" in capsys.readouterr().err


def test_some_folds_first(zoo: Zoo, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--out", tmp_path / "out", "--methods", "probe", "--folds", 3)
    assert run(zoo, table, *words, "--only-folds", "2") == 0
    assert predictions.count(tmp_path / "out") == 1
    assert "(1 of 3 folds)" in (tmp_path / "out" / "results.md").read_text()
    assert run(zoo, table, *words, "--resume") == 0
    assert predictions.count(tmp_path / "out") == 3
    assert "of 3 folds" not in (tmp_path / "out" / "results.md").read_text()
    capsys.readouterr()
    assert run(zoo, table, *words, "--resume", "--only-folds", "4") == 2
    assert "there is no fold 4; the plan has 3" in capsys.readouterr().err
    assert run(zoo, table, *words, "--resume", "--only-folds", "0") == 2
    assert "from 1 on, not '0'" in capsys.readouterr().err


def test_learning_curve(zoo: Zoo, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--methods", "probe", "--folds", 2, "--shots", "2,4,all", "--draws", 2)
    assert run(zoo, table, "--out", tmp_path / "out", *words) == 0
    assert "Learning curve" in capsys.readouterr().out
    assert "With few labelled posts" in (tmp_path / "out" / "report.html").read_text()


def test_methods_of_ones_own(
    zoo: Zoo, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_methods.py").write_text(
        "import numpy as np\n"
        "from cotune.benchmark import METHODS, Method, Outcome\n"
        "def prior(task):\n"
        "    counts = np.bincount(task.targets[task.train], minlength=task.task.n_outputs)\n"
        "    return Outcome(np.tile(counts / counts.sum(), (len(task.test), 1)), {'total': 0, 'trained': 0})\n"
        "METHODS.add('prior', Method('Class frequencies', run=prior))\n"
        "from cotune.benchmark.methods import fit\n"
        "from cotune.heads.concat import ConcatHead\n"
        "from cotune.heads.base import HEADS\n"
        "HEADS.add('mine', type('Mine', (ConcatHead,), {}))\n"
        "METHODS.add('own_head', Method('My head', run=fit, settings={'fusion': 'mine', 'tune': 'frozen'}))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = (table, "--methods", "prior,own_head", "--folds", 2, "--plugin", "my_methods")
    assert run(zoo, *words, "--out", tmp_path / "out", "--jobs", 2) == 0
    assert "Class" in capsys.readouterr().out
    assert run(zoo, table, "--out", tmp_path / "other", "--plugin", "not_there") == 2
    assert "--plugin not_there cannot be imported" in capsys.readouterr().err
    (tmp_path / "at_fault.py").write_text("1 / 0\n")
    assert run(zoo, table, "--out", tmp_path / "other", "--plugin", "at_fault") == 2
    assert "--plugin at_fault cannot be imported: ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "jiont"], "did you mean 'joint'"),
        (["--methods", ","], "--methods is empty"),
        (["--seeds", "a"], "--seeds takes numbers"),
        (["--shots", "some"], "--shots takes numbers"),
        (["--group-by", "txt"], "did you mean 'text'"),
        (["--grid", "bundled"], "--grid names the encoders"),
        (["--set", "layer_dekay=1"], "did you mean 'layer_decay'"),
        (["--folds", "500"], "cannot be shared among 500 folds"),
    ],
)
def test_bad_usage_is_told_in_a_line(
    zoo: Zoo, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run(zoo, table, "--out", tmp_path / "out", *words) == 2
    assert said in capsys.readouterr().err


def test_posts_are_needed(zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(zoo, "--out", tmp_path / "out") == 2
    assert "name a posts table" in capsys.readouterr().err
    assert run(zoo, "--out", tmp_path / "out", "--tables-only") == 2
    assert "is no results folder" in capsys.readouterr().err


def test_ctrl_c(
    zoo: Zoo, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cotune.benchmark import runner

    compute, calls = runner.compute, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return compute(*args)

    monkeypatch.setattr(runner, "compute", interrupted)
    assert run(zoo, table, "--out", tmp_path / "out", "--methods", "probe", "--folds", 2) == 130
    assert "1 finished cell kept" in capsys.readouterr().err
