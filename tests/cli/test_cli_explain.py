from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from cotune.cli import main
from cotune.data.posts import data_hash, read_posts
from cotune.explain import explainer as explainer_module
from cotune.explain.table.explain_posts import UNFINISHED
from cotune.heads import make_head
from cotune.model import JointModel
from cotune.run import Run, save_run
from explained import random_run
from runs import write_table
from tiny import Zoo, make_posts, stir

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    made = random_run(zoo)
    # Seeded here, after the encoders, as making a zoo's encoders draws random numbers too and loading them other ones;
    # by this head text and image pull apart over most posts.
    torch.manual_seed(11)
    head = stir(make_head("attention", made.model.head.dims, 3, width=16, heads=2), 1)
    model = JointModel(made.model.encoders, head, made.model.task)
    save_run(folder, Run(model.requires_grad_(False).eval(), made.config))
    return folder


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    return write_table(make_posts(tmp_path / "images", 24, classes=3), tmp_path / "posts.csv")


def explain(*arguments: Any) -> int:
    return main(["explain", *(str(a) for a in arguments), "--device", "cpu"])


def test_a_table_gets_its_pages_and_numbers(run: Path, posts: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert explain(run, posts, "--out", out, "--limit", "3", "--chunk-size", "7") == 0
    assert "3 posts explained" in capsys.readouterr().out
    table = pd.read_csv(out / "modality.csv")
    assert table["row"].tolist() == list(range(1, 25))
    assert table["id"].tolist() == [f"p{i}" for i in range(24)]
    assert (table["text_share"] + table["image_share"]).round(6).eq(1).all()
    pages = sorted((out / "posts").iterdir())
    assert len(pages) == 3
    said = [json.loads(line) for line in (out / "explanations.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [f"post-{row['row']:06}.html" for row in said] == [page.name for page in pages]
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["posts"] == 24
    assert summary["with_both"] == 16
    assert set(summary["lists"]) == {"conflicts", "image_driven", "text_driven", "mistakes"}
    assert (out / "index.html").is_file()
    assert not (out / UNFINISHED).exists()
    assert not list(out.rglob(".tmp-*"))


def test_conflicts_as_table_csv_and_json(run: Path, posts: Path, tmp_path: Path, capsys: Any) -> None:
    assert explain(run, posts, "--find", "conflicts", "--limit", "4") == 0
    assert "disagree in" in capsys.readouterr().out
    assert explain(run, posts, "--find", "conflicts", "--limit", "4", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["find"] == "conflicts"
    assert 0 < len(said["posts"]) <= 4
    sizes = [row["conflict"] for row in said["posts"]]
    assert sizes == sorted(sizes, reverse=True)
    for row in said["posts"]:
        assert row["text"] * row["image"] < 0
        assert row["conflict"] == pytest.approx(min(abs(row["text"]), abs(row["image"])))
        assert row["snippet"]
    out = tmp_path / "out"
    assert explain(run, posts, "--find", "conflicts", "--limit", "4", "--out", out, "--no-words", "--no-pixels") == 0
    with (out / "conflicts.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["id"] for row in rows] == [row["id"] for row in said["posts"]]
    assert len(list((out / "posts").iterdir())) == len(rows)


@pytest.mark.parametrize("find", ["image-driven", "text-driven", "mistakes"])
def test_other_lists(run: Path, posts: Path, find: str, capsys: Any) -> None:
    assert explain(run, posts, "--find", find, "--limit", "2", "--json") == 0
    said = json.loads(capsys.readouterr().out)["posts"]
    assert len(said) == 2
    if find == "mistakes":
        assert all(row["label"] != row["true"] for row in said)


def test_json_tells_everything(run: Path, posts: Path, tmp_path: Path, capsys: Any) -> None:
    assert explain(run, posts, "--out", tmp_path / "o", "--limit", "1", "--json", "--no-pixels") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["summary"]["emap"]["posts"] == 16
    assert set(said["summary"]["classes"]) == {"class0", "class1", "class2"}


def test_bad_usage_is_one_line(run: Path, posts: Path, tmp_path: Path, capsys: Any) -> None:
    for arguments, words in (
        ([run, posts], "specify an output folder"),
        ([tmp_path / "none", posts, "--out", tmp_path / "o"], "there is no run folder"),
        ([run, tmp_path / "none.csv", "--out", tmp_path / "o"], "none.csv"),
        ([run, posts, "--out", posts], "posts.csv"),
    ):
        assert explain(*arguments) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1, told
        assert words in told[0]
        assert "Traceback" not in told[0]


def test_broken_posts_are_counted(run: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    table = tmp_path / "t.csv"
    table.write_text("id,text,image\na,good dog,bad.png\nb,,\nc,good dog,\nd,bad cat,missing.png\n", encoding="utf-8")
    out = tmp_path / "out"
    assert explain(run, table, "--out", out) == 0
    assert "3 posts without a prediction" in capsys.readouterr().err
    rows = pd.read_csv(out / "modality.csv")
    assert rows["error"].notna().tolist() == [True, True, False, True]
    assert rows["label"].notna().tolist() == [False, False, True, False]
    assert explain(run, table, "--out", out, "--bad-images", "text-only") == 0
    rows = pd.read_csv(out / "modality.csv")
    assert rows["label"].notna().tolist() == [True, False, True, True]
    assert len(list((out / "posts").iterdir())) == 3


def test_a_stopped_run_goes_on(run: Path, posts: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    real_frame = explainer_module.Explainer.contribution_frame
    real_explain = explainer_module.Explainer.explain
    calls = {"frames": 0, "explained": 0}

    def frame(self: Any, chunk: Any) -> Any:
        calls["frames"] += 1
        if calls["frames"] == 3:
            raise KeyboardInterrupt
        return real_frame(self, chunk)

    def single(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls["explained"] += 1
        if calls["explained"] == 2:
            raise KeyboardInterrupt
        return real_explain(self, *args, **kwargs)

    monkeypatch.setattr(explainer_module.Explainer, "contribution_frame", frame)
    monkeypatch.setattr(explainer_module.Explainer, "explain", single)
    out = tmp_path / "out"
    arguments = (run, posts, "--out", out, "--limit", "3", "--chunk-size", "6", "--word-posts", "0")
    assert explain(*arguments) == 130
    assert "resumes from there" in capsys.readouterr().err
    assert len(list((out / UNFINISHED).glob("chunk-*"))) == 2
    assert explain(*arguments) == 130
    assert calls["frames"] == 5, "two of four chunks were done already"
    assert explain(*arguments) == 0
    assert calls == {"frames": 5, "explained": 4}
    straight = tmp_path / "straight"
    assert explain(run, posts, "--out", straight, *arguments[4:]) == 0
    for name in ("modality.csv", "summary.json", "explanations.jsonl", "index.html"):
        assert (out / name).read_bytes() == (straight / name).read_bytes(), name
    assert sorted(p.name for p in (out / "posts").iterdir()) == sorted(p.name for p in (straight / "posts").iterdir())


def test_what_was_kept_for_other_posts_is_not_used(run: Path, posts: Path, tmp_path: Path, monkeypatch: Any) -> None:
    real = explainer_module.Explainer.contribution_frame

    def stop(self: Any, chunk: Any) -> Any:
        if chunk["row"].iloc[0] > 6:
            raise KeyboardInterrupt
        return real(self, chunk)

    monkeypatch.setattr(explainer_module.Explainer, "contribution_frame", stop)
    out = tmp_path / "out"
    arguments = (run, posts, "--out", out, "--limit", "0", "--chunk-size", "6", "--word-posts", "0")
    assert explain(*arguments) == 130
    monkeypatch.setattr(explainer_module.Explainer, "contribution_frame", real)
    lines = posts.read_text(encoding="utf-8").splitlines()
    posts.write_text("\n".join([lines[0], *lines[3:]]) + "\n", encoding="utf-8")
    assert explain(*arguments) == 0
    assert len(pd.read_csv(out / "modality.csv")) == 22
    assert pd.read_csv(out / "modality.csv")["id"].iloc[0] == "p2"


def test_what_was_kept_without_fetching_is_not_used(run: Path, posts: Path, tmp_path: Path, monkeypatch: Any) -> None:
    real = explainer_module.Explainer.contribution_frame
    calls: list[int] = []

    def frame(self: Any, chunk: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, chunk)

    monkeypatch.setattr(explainer_module.Explainer, "contribution_frame", frame)
    arguments = (run, posts, "--out", tmp_path / "out", "--limit", "0", "--chunk-size", "6", "--word-posts", "0")
    assert explain(*arguments) == 130
    assert explain(*arguments, "--allow-remote") == 0
    assert len(calls) == 3 + 4


def test_pictures_that_go_between_the_two_passes(run: Path, posts: Path, tmp_path: Path, monkeypatch: Any) -> None:
    real = explainer_module.Explainer.complete_embeddings

    def gone(self: Any, sample: Any) -> Any:
        for picture in sample["image"].iloc[:1] if len(sample) > 1 else sample["image"]:
            Path(picture).unlink(missing_ok=True)
        return real(self, sample)

    monkeypatch.setattr(explainer_module.Explainer, "complete_embeddings", gone)
    out = tmp_path / "out"
    assert explain(run, posts, "--out", out, "--limit", "0", "--word-posts", "0", "--chunk-size", "6") == 0
    summary = json.loads((out / "summary.json").read_text())
    assert 0 < summary["emap"]["posts"] < 24


def test_line_separators_within_an_id_do_no_harm(run: Path, tmp_path: Path) -> None:
    frame = make_posts(tmp_path / "images", 12, classes=3)
    frame.loc[3, "id"] = "odd\u2028name\u0085here"
    table = write_table(frame, tmp_path / "posts.csv")
    arguments = (run, table, "--out", tmp_path / "out", "--limit", "0", "--word-posts", "0")
    assert explain(*arguments) == 0
    assert "odd\u2028name\u0085here" in set(pd.read_csv(tmp_path / "out" / "modality.csv")["id"])


def test_memory_is_bounded_by_the_chunk(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    table = tmp_path / "many.csv"
    with table.open("w", encoding="utf-8") as handle:
        handle.write("text\n")
        handle.writelines(f"good dog {i % 7}\n" for i in range(2000))
    largest = {"posts": 0}
    real = explainer_module.Explainer.contribution_frame

    def watch(self: Any, chunk: Any) -> Any:
        largest["posts"] = max(largest["posts"], len(chunk))
        return real(self, chunk)

    monkeypatch.setattr(explainer_module.Explainer, "contribution_frame", watch)
    out = tmp_path / "out"
    assert explain(run, table, "--out", out, "--limit", "1", "--chunk-size", "100", "--word-posts", "3") == 0
    assert largest["posts"] == 100
    assert len(pd.read_csv(out / "modality.csv")) == 2000


def test_without_captum_the_command_says_what_to_install(
    run: Path, posts: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    from cotune.errors import CotuneError
    from cotune.explain import words

    def missing() -> Any:
        raise CotuneError("word explanations need captum; install it with: pip install 'cotune[explain]'")

    monkeypatch.setattr(words, "need_captum", missing)
    assert explain(run, posts, "--out", tmp_path / "o") == 2
    assert "cotune[explain]" in capsys.readouterr().err
    assert explain(run, posts, "--out", tmp_path / "o", "--no-words", "--limit", "1") == 0
    assert explain(run, posts, "--find", "conflicts") == 0


def test_damaged_pieces_of_a_stopped_run_are_computed_again(
    run: Path, posts: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    real = explainer_module.Explainer.explain
    calls = {"explained": 0}

    def single(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls["explained"] += 1
        if calls["explained"] == 3:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(explainer_module.Explainer, "explain", single)
    out, straight = tmp_path / "out", tmp_path / "straight"
    arguments = ("--limit", "3", "--chunk-size", "6", "--word-posts", "0")
    assert explain(run, posts, "--out", out, *arguments) == 130
    kept = out / UNFINISHED
    first, second, third, _ = sorted(kept.glob("chunk-*"))
    first.write_text(first.read_text()[:200])
    second.write_text("".join(second.read_text().splitlines(keepends=True)[:2]))
    third.write_bytes(b"\xff\xfe")
    explained = sorted(kept.glob("post-*"))
    explained[0].write_text("{")
    explained[1].write_text("[]")
    assert explain(run, posts, "--out", out, *arguments) == 0
    assert explain(run, posts, "--out", straight, *arguments) == 0
    for name in ("modality.csv", "summary.json", "explanations.jsonl", "index.html"):
        assert (out / name).read_bytes() == (straight / name).read_bytes(), name


def test_training_posts_are_noted_in_both_commands_their_pages_and_json(
    zoo: Zoo, posts: Path, tmp_path: Path, capsys: Any
) -> None:
    table = read_posts(posts)
    run = random_run(zoo)
    run.environment["data_hash"] = data_hash(table)
    save_run(tmp_path / "run", run)
    words = "hese are the posts that the run was trained on"
    for command, more, page in (
        ("evaluate", ["--bootstrap", "0"], "report.html"),
        ("explain", ["--limit", "1", "--no-words", "--no-pixels", "--chunk-size", "7"], "index.html"),
    ):
        for name, given, expected in (("seen", posts, True), ("new", tmp_path / "new.csv", False)):
            if name == "new":
                pd.read_csv(posts).iloc[1:].to_csv(given, index=False)
            out = tmp_path / f"{command}-{name}"
            arguments = [command, str(tmp_path / "run"), str(given), "--device", "cpu", "--out", str(out), *more]
            capsys.readouterr()
            assert main([*arguments, "--json"]) == 0
            said = capsys.readouterr()
            found = json.loads(said.out)
            notes = found["notes"] if command == "evaluate" else found["summary"]["notes"]
            assert (words in " ".join(said.err.split())) == expected
            assert (words in " ".join(notes)) == expected
            assert (words in (out / page).read_text(encoding="utf-8")) == expected
