"""What commands print on a terminal and in a pipe, with and without ``--quiet``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench_tiny import made_up, tiny_plan
from cotune.benchmark.tables import Table
from cotune.cli import main
from cotune.cli.bench import _rich
from cotune.cli.table_options import TableOptions
from cotune.console import open_console, show
from cotune.data.checks.quality import check_posts
from cotune.explain.explainer import Explainer
from cotune.export.choose import EngineChoice
from cotune.export.package import open_export
from cotune.report.numbers import every_post, plural
from cotune.report.terminal import probabilities_table, pushing_words
from explained import random_run
from runs import tiny_settings, write_table
from tiny import Zoo, make_posts

Run = Callable[..., tuple[int, str, str]]
_ONE = re.compile(r"\b1 (more |other |held-out |test |finished )?[a-z]*[a-rt-z]s\b(?! to)|\(s\)")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("COLUMNS", raising=False)

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return (code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def saved(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a run that was fitted, and a table of posts with columns of other names."""
    home = tmp_path_factory.mktemp("output")
    posts = make_posts(home / "posts", 24, gaps=False)
    table = write_table(posts.rename(columns={"text": "tweet"}).assign(image=posts["image"]), home / "posts.csv")
    settings = tiny_settings(zoo, home / "cache", tune="frozen", probe_epochs=1)
    (home / "settings.json").write_text(json.dumps(settings))
    words = ["fit", table, "--text-column", "tweet", "--config", home / "settings.json", "--out", home / "run", "-q"]
    assert main([str(word) for word in words]) == 0
    return home / "run", table


def test_fit_proposes_other_posts_than_its_own(saved: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    folder, table = saved
    settings = folder.parent / "settings.json"
    words = ("fit", table, "--text-column", "tweet", "--config", settings, "--out", tmp_path / "run")
    code, out, err = run(*words, "--where", "label=class0", "--where", "label=class1")
    assert code == 0, err
    assert f"  cotune evaluate {tmp_path / 'run'} other.csv --text-column tweet\n" in out
    assert (
        f"  cotune explain {tmp_path / 'run'} other.csv --text-column tweet --out {tmp_path / 'run'}-explained" in out
    )
    assert str(table) not in out, "its own training posts are not to be scored"
    code, out, err = run(*words, "--overwrite", "--validation", table)
    assert code == 0, err
    assert f"cotune explain {tmp_path / 'run'} {table} --text-column tweet" in out
    assert "other.csv" not in out


def test_quiet_leaves_results_and_errors(saved: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    folder, table = saved
    words = ("evaluate", folder, table, "--text-column", "tweet", "--bootstrap", "10")
    loud = run(*words)
    assert "note: these are the posts that the run was trained on" in loud[2]
    for quiet in (run(*words, "--quiet"), run("-q", *words)):
        assert quiet == (0, loud[1], "")
    assert run(*words) == loud, "of one call alone"
    out = tmp_path / "out.csv"
    assert run("predict", folder, table, "--text-column", "tweet", "--out", out, "-q") == (0, "", "")
    assert out.is_file()
    code, said, err = run("predict", folder, tmp_path / "none.csv", "--out", out, "-q")
    assert (code, said, err.startswith("error: ")) == (2, "", True)


def test_wrong_usage_is_an_error_like_others(run: Run) -> None:
    code, out, err = run("fit", "posts.csv", "--outt", "x")
    assert (code, out) == (2, "")
    assert err.startswith("error: no such option: --outt")
    assert err.endswith("fit --help\n")
    assert err.count("\n") == 1
    code, out, _ = run("predict", "--help")
    assert code == 0
    assert "--quiet" in out


def test_a_single_post_gets_bars_and_words(saved: tuple[Path, Path], run: Run) -> None:
    folder, _ = saved
    code, out, err = run("predict", folder, "--text", "good day sad", "--engine", "torch")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[1] == "class   probability"
    assert re.fullmatch(r"class\d +0\.\d{4}  ━*╸?", lines[2])
    assert re.search(
        r"^words that .*(support|oppose) .*\b(good|day|sad) [+−]\d\.\d\d.*\(log-odds lost", out, re.MULTILINE
    )
    assert not any(line != line.rstrip() for line in lines)


def test_an_export_has_bars_alone(tiny_export: Path, run: Run) -> None:
    code, out, err = run("predict", tiny_export, "--text", "good day", "--engine", "onnx")
    assert (code, err) == (0, "")
    assert "━" in out
    assert "words" not in out


def test_words_come_too_where_the_export_of_a_run_scores_it(
    saved: tuple[Path, Path], tiny_export: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EngineChoice, "ready", open_export(tiny_export))
    code, out, err = run("predict", saved[0], "--text", "good day sad", "--engine", "auto")
    assert (code, err) == (0, "")
    assert re.search(r"^words that .*(support|oppose) ", out, re.MULTILINE)


def test_words_are_left_out_only_where_it_takes_a_moment(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer = Explainer(random_run(zoo, classes=2))
    posts = make_posts(tmp_path, 6)
    output, words = explainer.pushing_words(posts.iloc[[0]].reset_index(drop=True))["text"]
    assert output in explainer.run.classes
    sizes = [abs(lost) for _, lost in words]
    assert sizes == sorted(sizes, reverse=True)
    assert {word for word, _ in words} == set(posts["text"][0].split())
    assert explainer.pushing_words(posts.iloc[[4]].reset_index(drop=True)) == {}, "it has no text"
    monkeypatch.setattr("cotune.explain.explainer._MOMENT", 1)
    assert explainer.pushing_words(posts.iloc[[0]].reset_index(drop=True)) == {}


def test_words_of_several_texts_and_of_values() -> None:
    assert pushing_words(("a", [("x", 2.0), ("y", -0.5)]), "title", "log-odds") == (
        "words of title that support a: x +2.00; that oppose it: y −0.50 (log-odds lost without the word)"
    )
    assert pushing_words(("y", [("x", -2.0)]), None, "value") == (
        "words that oppose a higher value: x −2.00 (value lost without the word)"
    )
    assert pushing_words(("a", []), None, "log-odds") == ""


def test_many_classes_are_not_all_listed(capsys: pytest.CaptureFixture[str]) -> None:
    show(probabilities_table("c1", {f"c{i}": 1 / (i + 2) for i in range(30)}))
    out = capsys.readouterr().out.splitlines()
    assert out[2].startswith("c0 ")
    assert out[-1] == "... and 10 classes more (--json has all)"


def test_check_prints_advice_first_and_no_zeros(run: Run, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "p", 12, gaps=False)
    code, out, err = run("check", write_table(posts, tmp_path / "posts.csv"))
    assert (code, err) == (0, "")
    first = out.splitlines()[0]
    assert first in ("What to do", "Nothing to fix.")
    assert not re.search(r"\b0$", out, re.MULTILINE)
    assert "without" not in out
    report = check_posts(posts)
    assert report.posts == 12


def test_table_1_has_the_difference_and_p_and_fits(
    zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cotune.report.benchmark_report import write_all

    plan = tiny_plan(zoo, tmp_path / "cache", methods=("svm", "text", "joint"))
    made_up(tmp_path / "out", plan, {"joint": 2.0, "text": 1.0, "svm": 0.5})
    written = write_all(tmp_path / "out", n_bootstrap=20)
    table = next(table for table in written.tables if table.name == "table1")
    show(_rich(table))
    whole = capsys.readouterr().out
    assert re.search(r"joint − row \[95 %\] +p \(Holm\) +p over folds \(Holm\)", whole)
    for columns in (60, 80, 120):
        console = open_console()
        console._width = columns
        monkeypatch.setattr("cotune.console.open_console", lambda console=console, **_: console)
        show(_rich(table))
        out = capsys.readouterr().out
        monkeypatch.undo()
        assert max(len(line) for line in out.splitlines()) <= columns
        gaps = re.findall(r"\[[+−]0\.\d{4}, [+−]0\.\d{4}\]", out)
        assert len(gaps) == 2, "no interval is cut in two"
        assert "…" not in out


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (plural(1, "post"), "1 post"),
        (plural(2, "post"), "2 posts"),
        (plural(1, "class", "classes"), "1 class"),
        (plural(1200, "class", "classes"), "1,200 classes"),
        (plural(0, "group"), "0 groups"),
        (every_post(1), "the only post has"),
        (every_post(3), "all 3 posts have"),
    ],
)
def test_plurals(said: str, what: str) -> None:
    assert said == what


def test_no_message_says_1_posts(run: Run, saved: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = saved
    posts = make_posts(tmp_path / "p", 6, gaps=False)
    one = write_table(posts.iloc[[0]], tmp_path / "one.csv")
    same = posts.assign(text="same words", image=None)
    copies = write_table(same.iloc[:2], tmp_path / "copies.csv")
    said: list[Any] = [
        run("check", one),
        run("check", copies),
        run("predict", folder, one, "--out", tmp_path / "o.csv"),
        run("evaluate", folder, one, "--bootstrap", "5"),
        run("fit", one, "--out", tmp_path / "x", "--config", folder.parent / "settings.json"),
        run("explain", folder, one, "--find", "conflicts", "--no-words", "--no-pixels", "--emap", "0"),
    ]
    for _, out, err in said:
        assert not _ONE.search(out + err), out + err
    assert "1 group of 2 posts" in said[1][1]
    assert "the only post has the label" in said[4][2] or "1 post" in said[4][2]


def test_what_comes_next_reads_the_same_columns() -> None:
    given = TableOptions(
        "key", ("tweet",), ("photo", "second photo"), ("likes",), ("a", "b"), "user", ("split=train",), "csv"
    )
    columns = ["--id-column", "key", "--text-column", "tweet", "--image-column", "photo", "--image-column",
               "second photo", "--table-column", "likes", "--label-column", "a", "--label-column", "b",
               "--group-column", "user"]  # fmt: skip
    assert given.flags() == [*columns, "--format", "csv"]
    assert given.flags(where=True) == [*columns, "--where", "split=train", "--format", "csv"]
    assert TableOptions().flags(where=True) == []


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_other_tables_show_values_alone_where_spreads_do_not_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    rows = [["Joint fine-tuning", *["0.6040 ± 0.0151"] * 5], ["Text encoder alone", *["0.5777 ± 0.0181"] * 5]]
    table = Table("learning_curve", "Learning curve", ["posts per class", "8", "16", "32", "64", "128"], rows)
    console = open_console()
    console._width = columns
    monkeypatch.setattr("cotune.console.open_console", lambda **_: console)
    show(_rich(table))
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines()) <= columns
    assert out.count("0.6040") == 5
    assert out.count("0.0151") == (0 if columns == 60 else 5)
