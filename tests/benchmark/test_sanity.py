"""Shuffled labels: methods are at chance, and one that sees what it is scored by is flagged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench_tiny import tiny_plan, tiny_posts
from cotune.benchmark import METHODS, Method, Outcome, read_results, run_plan, summarise
from cotune.benchmark.methods import Trial
from cotune.benchmark.sanity import check_sanity, shuffled, table_sanity
from cotune.cli import main
from cotune.errors import RunError
from cotune.report.benchmark_report import write_all
from runs import tiny_settings, write_table
from tiny import Zoo

HONEST = ("svm", "image", "text", "concat", "joint", "probe", "ensemble")


def leaking(trial: Trial) -> Outcome:
    """Look at the labels of the posts that are scored, with some noise on top."""
    random = np.random.default_rng(0)
    found = random.random((len(trial.test), trial.task.n_outputs))
    found[np.arange(len(trial.test)), trial.targets[trial.test]] += 0.4
    return Outcome(found / found.sum(axis=1, keepdims=True), {})


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[None]:
    METHODS.add("leaky", Method("Leaky", run=leaking))
    yield
    del METHODS._items["leaky"]


def test_labels_are_shuffled_once_all_columns_together_and_nothing_else() -> None:
    posts = pd.DataFrame(
        {
            "id": list("abcdef"),
            "label": ["x", "y", None, "z", "w", "v"],
            "label:text": ["x1", "y1", None, "z1", "w1", "v1"],
        },
        dtype=object,
    )
    found = shuffled(posts, 1)
    assert found["id"].tolist() == posts["id"].tolist()
    assert found["label"].isna().tolist() == posts["label"].isna().tolist()
    assert sorted(found["label"].dropna()) == sorted(posts["label"].dropna())
    assert found["label"].tolist() != posts["label"].tolist()
    assert [f"{label}1" for label in found["label"].dropna()] == found["label:text"].dropna().tolist()
    assert shuffled(posts, 1).equals(found)
    assert not shuffled(posts, 2).equals(found)
    assert posts["label"].tolist() == ["x", "y", None, "z", "w", "v"]


@pytest.fixture(scope="module")
def checked(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every method on 60 posts whose words and colours tell the label perfectly, were it not shuffled."""
    folder = tmp_path_factory.mktemp("sanity")
    plan = tiny_plan(zoo, folder / "cache", methods=(*HONEST, "leaky"), emap=0, sanity=True, protocol="grouped",
                     fit={"tune": "frozen"})  # fmt: skip
    session = run_plan(tiny_posts(folder, 60, gaps=False), plan, folder / "out")
    assert not session.failures
    return folder / "out"


def test_every_method_is_at_chance_and_the_leaking_one_is_flagged(checked: Path) -> None:
    results = read_results(checked)
    found = check_sanity(results, summarise(results, n_bootstrap=200))
    assert found is not None
    by_name = {each.key.method: each for each in found}
    assert by_name.keys() == {*HONEST, "leaky"}
    assert [name for name, each in by_name.items() if each.leaks] == ["leaky"]
    assert by_name["leaky"].score.low > 0.6
    for name in HONEST:
        assert by_name[name].score.low < 0.5 < by_name[name].score.high, name
    assert all(abs(each.chance - 0.5) < 0.1 for each in found)
    rows = {row[0]: row for row in table_sanity(results, found).rows}
    assert [name for name, row in rows.items() if row[-1] == "LEAKS"] == ["Leaky"]
    assert [name for name, row in rows.items() if row[2] == "no"] == ["Leaky"]


def test_the_tables_the_page_and_programs_are_told(checked: Path) -> None:
    written = write_all(checked, n_bootstrap=50)
    assert written.tables[0].name == "sanity"
    page, words = (checked / "report.html").read_text(), (checked / "results.md").read_text()
    for text in (page, words):
        assert "Sanity: AUC on shuffled labels" in text
        assert "LEAKS" in text
    assert "Leaky (AUC" in page
    assert "Does joint fine-tuning pay?" not in page
    found = json.loads((checked / "summary.json").read_text())["sanity"]
    assert [row["method"] for row in found if row["leaks"]] == ["leaky"]


def test_a_check_and_a_benchmark_do_not_share_a_folder(zoo: Zoo, tmp_path: Path) -> None:
    posts, plan = tiny_posts(tmp_path), tiny_plan(zoo, tmp_path / "cache")
    run_plan(posts, plan, tmp_path / "out")
    assert check_sanity(read_results(tmp_path / "out"), []) is None
    with pytest.raises(RunError, match="holds results on labels as they are"):
        run_plan(posts, replace(plan, sanity=True), tmp_path / "out", resume=True)
    run_plan(posts, replace(plan, sanity=True), tmp_path / "check")
    with pytest.raises(RunError, match="holds a check on shuffled labels"):
        run_plan(posts, plan, tmp_path / "check", resume=True)


def test_the_command_ends_with_code_1_where_a_method_leaks(
    zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tiny_posts(tmp_path, 60, gaps=False), tmp_path / "posts.csv")
    given = tiny_settings(zoo, tmp_path / "cache", tune="frozen")
    words = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]

    def bench(methods: str, out: str) -> tuple[int, Any]:
        how = ["--methods", methods, "--folds", "3", "--sanity", "--bootstrap", "50", "--out", str(tmp_path / out)]
        code = main(["bench", str(table), *how, *words])
        return code, capsys.readouterr()

    code, said = bench("leaky", "a")
    assert code == 1
    assert "error: the method leaky is above chance on shuffled labels" in said.err
    assert "LEAKS" in said.out
    code, said = bench("svm,probe", "b")
    assert (code, "error" in said.err, "no leak found" in said.out) == (0, False, True)
