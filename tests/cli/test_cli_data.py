from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from cotune.cli.data import check, import_app
from cotune.cli.settings import SettingsCommand
from cotune.cli.table_options import TableOptions
from cotune.data.posts import ColumnNames, read_posts
from cotune.errors import CotuneError, DataError

app = typer.Typer()
app.command("check", cls=SettingsCommand)(check)
app.add_typer(import_app, name="import")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def mvsa(tmp_path: Path) -> Path:
    folder = tmp_path / "mvsa"
    (folder / "data").mkdir(parents=True)
    labels = ["positive,positive", "negative,neutral", "positive,negative", "neutral,neutral"]
    lines = ["ID\ttext,image", *(f"{i}\t{label}" for i, label in enumerate(labels, start=1))]
    (folder / "labelResultAll.txt").write_text("\r\n".join(lines) + "\r\n")
    for i in range(1, 4):
        Image.new("RGB", (8, 8), (i * 40, 0, 0)).save(folder / "data" / f"{i}.jpg")
        (folder / "data" / f"{i}.txt").write_text(f"post {i}")
    return folder


def test_import_then_check(mvsa: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "posts.csv"
    result = run("import", "mvsa", mvsa, "--out", out)
    assert result.exit_code == 0
    for words in (
        "posts written 2",
        "Conflicts: 1",
        "text positive, image negative",
        "Missing text (left out): 1",
    ):
        assert words in " ".join(result.output.split())
    assert read_posts(out)["label"].tolist() == ["positive", "negative"]
    result = run("check", out)
    assert result.exit_code == 0
    assert "2 referenced" in result.output


def test_json_is_all_that_stdout_holds(mvsa: Path, tmp_path: Path) -> None:
    out = tmp_path / "posts.jsonl"
    report = json.loads(run("import", "mvsa", mvsa, "--out", out, "--rule", "majority-text", "--json").stdout)
    assert report["labels"] == {"negative": 1, "positive": 2}
    assert report["out"] == str(out)
    found = json.loads(run("check", out, "--json").stdout)
    assert found["posts"] == 3
    assert found["advice"]


def test_balance_and_seed(mvsa: Path, tmp_path: Path) -> None:
    out = tmp_path / "posts.csv"
    run("import", "mvsa", mvsa, "--out", out, "--rule", "majority-text", "--balance", 1, "--seed", 7)
    assert sorted(read_posts(out)["label"]) == ["negative", "positive"]


def test_import_hateful_memes(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    for number in (1, 2):
        Image.new("RGB", (8, 8)).save(tmp_path / "img" / f"{number:05}.png")
    (tmp_path / "train.jsonl").write_text('{"id": 1, "img": "img/00001.png", "label": 1, "text": "a"}\n{oops\n')
    (tmp_path / "test_seen.jsonl").write_text('{"id": 2, "img": "img/00002.png", "text": "b"}\n')
    result = run("import", "hateful-memes", tmp_path, "--out", tmp_path / "p.csv", "--splits", "train,test_seen")
    assert result.exit_code == 0
    assert "Bad line (left out): 1" in result.output
    assert read_posts(tmp_path / "p.csv")["label"].tolist() == ["1", None]


def test_columns_by_flag(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("n,tweet,y\n1,a,0\n2,b,1\n")
    flags = ("--id-column", "n", "--text-column", "tweet", "--label-column", "y")
    found = json.loads(run("check", tmp_path / "p.csv", *flags, "--json").stdout)
    assert found["labels"] == {"0": 1, "1": 1}
    assert TableOptions().columns().columns() == ColumnNames().columns()
    given = TableOptions(id="a", text=("b",), image=("c",), label=("d",), group="e").columns()
    assert given.columns() == ColumnNames(id="a", text="b", image="c", label="d", group="e").columns()
    assert TableOptions().fields() is None


def test_faults_reach_the_top_as_errors_that_speak(tmp_path: Path) -> None:
    result = run("check", tmp_path / "none.csv")
    assert isinstance(result.exception, DataError)
    (tmp_path / "p.csv").write_text("tweet\na\n")
    assert "--text-column" in str(run("check", tmp_path / "p.csv").exception)
    assert isinstance(run("import", "mvsa", tmp_path, "--out", tmp_path / "o.csv").exception, DataError)
    assert run("import", "mvsa", tmp_path, "--out", tmp_path / "o.csv", "--rule", "best").exit_code == 2
    assert not (tmp_path / "o.csv").exists()


def test_an_output_that_cannot_be_written(mvsa: Path, tmp_path: Path) -> None:
    (tmp_path / "posts.csv").mkdir()
    result = run("import", "mvsa", mvsa, "--out", tmp_path / "posts.csv")
    assert isinstance(result.exception, CotuneError)
    assert "a folder of that name is in the way" in str(result.exception)
