"""``check --out`` and ``--run``, and the decisions that ``fit`` and others take."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cotune.cli import main
from cotune.files import read_json
from cotune.run import load_run
from pages import check_page
from runs import tiny_settings, write_table
from tiny import Zoo, make_posts


@dataclass
class Answer:
    code: int
    out: str
    err: str


Cli = Callable[..., Answer]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Answer:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Answer(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def home(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with posts.csv, settings.json, decisions.csv and a run that was trained by them."""
    home = tmp_path_factory.mktemp("home")
    write_table(make_posts(home / "images", 24, classes=2), home / "posts.csv")
    settings = {**tiny_settings(zoo, home / "cache", tune="frozen"), "probe_epochs": 4}
    (home / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    lines = [
        "id,row,label,decision,given",
        "p0,1,class1,change,class0",
        "p1,2,,exclude,class1",
        "p2,3,class0,keep,class0",
    ]
    (home / "decisions.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    code = main(["fit", str(home / "posts.csv"), "--out", str(home / "run"), "--config", str(home / "settings.json"),
                 "--labels-from", str(home / "decisions.csv")])  # fmt: skip
    assert code == 0
    return home


def test_a_run_records_the_decisions_it_was_trained_by(home: Path) -> None:
    run = load_run(home / "run")
    assert run.metrics["labels_from"] == {
        "file": "decisions.csv", "matched_by": "id", "keep": 1, "change": 1, "exclude": 1
    }  # fmt: skip
    assert run.metrics["posts"]["read"] == 23
    assert run.metrics["posts"]["labels"] == {"class0": 11, "class1": 12}


def test_evaluate_takes_them_too(cli: Cli, home: Path, tmp_path: Path) -> None:
    given = (
        "evaluate",
        home / "run",
        home / "posts.csv",
        "--bootstrap",
        0,
        "--chunk-size",
        10,
        "--out",
        tmp_path / "e",
    )
    found = cli(*given, "--labels-from", home / "decisions.csv")
    assert (found.code, "matched by id: 1 changed, 1 post left out, 1 kept" in found.err) == (0, True)
    metrics = read_json(tmp_path / "e" / "metrics.json")
    assert metrics["n"] == 23
    assert any("labels from decisions.csv" in note for note in metrics["notes"])
    assert any("trained on" in note for note in metrics["notes"]), "they are the very posts of its training"


def test_decisions_on_other_posts_are_refused_in_a_line(cli: Cli, home: Path, tmp_path: Path) -> None:
    other = make_posts(tmp_path / "images", 12, classes=2)
    table = write_table(
        other.assign(label=other["label"].map({"class0": "class1", "class1": "class0"})), tmp_path / "o.csv"
    )
    for command in (("fit", table, "--out", tmp_path / "r", "--config", home / "settings.json"), ("check", table)):
        found = cli(*command, "--labels-from", home / "decisions.csv")
        assert found.code == 2
        assert "row 2 of decisions.csv: the post with the id 'p1' had the label 'class1'" in found.err
        assert len(found.err.strip().splitlines()) == 1
    assert not (tmp_path / "r").exists()
    found = cli("predict", home / "run", table, "--out", tmp_path / "p.csv", "--labels-from", home / "decisions.csv")
    assert found.code == 2
    assert "no such option: --labels-from" in found.err


def test_check_writes_its_page_and_what_json_prints(cli: Cli, home: Path, tmp_path: Path) -> None:
    found = cli("check", home / "posts.csv", "--out", tmp_path / "c", "--json")
    assert found.code == 0, found.err
    printed, kept = json.loads(found.out), read_json(tmp_path / "c" / "check.json")
    assert kept["written_by"] == "cotune"
    assert {name: value for name, value in kept.items() if name not in ("written_by", "kind")} == printed
    assert printed["labels"] == {"class0": 12, "class1": 12}
    assert [advice["level"] for advice in printed["advice"]]
    check_page((tmp_path / "c" / "report.html").read_text(encoding="utf-8"))
    assert not (tmp_path / "c" / "review.html").exists()


def test_check_with_a_run_reviews_labels(cli: Cli, home: Path, tmp_path: Path) -> None:
    pytest.importorskip("cleanlab", reason="wrong labels are looked for with the extra clean")
    wrong = make_posts(home / "images", 24, classes=2)  # the same images, some labels wrong
    wrong.loc[[3, 12], "label"] = ["class0", "class1"]
    table = write_table(wrong, home / "wrong.csv")
    found = cli("check", table, "--run", home / "run", "--folds", 2, "--out", tmp_path / "c")
    assert found.code == 0, found.err
    review = read_json(tmp_path / "c" / "check.json")["label_review"]
    assert (review["checked"], review["folds"], review["labels"]) == (24, 2, ["class0", "class1"])
    page = (tmp_path / "c" / "review.html").read_text(encoding="utf-8")
    check_page(page)
    assert page.count('class="done"') == len(review["issues"])
    assert "2 folds, the run's frozen encoders" in found.out
    named = cli(
        "check", table, "--run", home / "run", "--folds", 2, "--where", "label=class0", "--where", "label=class1"
    )
    assert "--where label=class0 --where label=class1 --labels-from decisions.csv" in " ".join(named.out.split())
    assert cli("check", table, "--out", tmp_path / "c").code == 0
    assert not (tmp_path / "c" / "review.html").exists(), "a review of an earlier check is out of date"


def test_check_replaces_nothing_of_others(cli: Cli, home: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine", encoding="utf-8")
    found = cli("check", home / "posts.csv", "--out", tmp_path)
    assert (found.code, "did not write and would replace (report.html)" in found.err) == (2, True)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "mine"
    assert cli("check", home / "posts.csv", "--out", home / "posts.csv").code == 2


def test_several_columns_and_tasks_are_checked(cli: Cli, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "title": [f"title {i}" for i in range(30)],
            "body": [f"body {i % 28}" for i in range(30)],
            "price": range(30),
            "label": [f"{1.5 * i}" for i in range(30)],
        }
    )
    frame.to_csv(tmp_path / "p.csv", index=False)
    columns: list[Any] = ["--text-column", "title", "--text-column", "body", "--table-column", "price"]
    found = cli("check", tmp_path / "p.csv", *columns, "--json", "--out", tmp_path / "c")
    assert found.code == 0, found.err
    report = json.loads(found.out)
    assert report["task"] == "regression"
    assert report["fields"]["title"] == report["fields"]["body"] == "text"
    assert report["imbalance"] is None
    check_page((tmp_path / "c" / "report.html").read_text(encoding="utf-8"))


def test_a_run_that_is_none(cli: Cli, home: Path, tmp_path: Path) -> None:
    found = cli("check", home / "posts.csv", "--run", tmp_path / "none")
    assert found.code == 2
    assert len(found.err.strip().splitlines()) == 1
