"""A disk that is full or read-only, and Ctrl-C, at the first, a middle and the last change of a file, in every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cotune.cli import main
from cotune.run import save_run
from explained import random_run
from faults import Fault, ctrl_c, faulty, full, read_only
from runs import tiny_settings, write_table
from tiny import Zoo, make_posts


@pytest.fixture(scope="module")
def inputs(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_run(folder / "run", random_run(zoo, classes=2))
    write_table(make_posts(folder / "images", 24, gaps=False), folder / "posts.csv")
    return folder


def words_of(command: str, inputs: Path, zoo: Zoo, folder: Path) -> list[str]:
    run, posts = str(inputs / "run"), str(inputs / "posts.csv")
    out = str(folder / ("out.csv" if command == "predict" else "out"))
    settings = tiny_settings(zoo, folder / "cache", tune="frozen", probe_epochs=2)
    fit = [word for key, value in settings.items() for word in ("--set", f"{key.replace('_', '-')}={value}")]
    given = {
        "fit": [posts, "--no-estimate", *fit],
        "predict": [run, posts, "--chunk-size", "9", "--device", "cpu"],
        "evaluate": [run, posts, "--device", "cpu"],
        "explain": [run, posts, "--limit", "1", "--no-pixels", "--emap", "0", "--word-posts", "0", "--device", "cpu"],
        "check": [posts],
        "drift": [run, posts],
    }
    return [command, *given[command], "--out", out]


def temporary(folder: Path) -> list[Path]:
    return list(folder.rglob(".tmp-*"))


@pytest.mark.parametrize("command", ["fit", "predict", "evaluate", "explain", "check"])
def test_a_fault_at_any_write(
    zoo: Zoo, inputs: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    with faulty(whole) as watch:
        assert main(words_of(command, inputs, zoo, whole)) == 0
    changes = watch.n
    assert changes > 1
    names = sorted(path.name for path in whole.rglob("*"))
    capsys.readouterr()
    faults: list[tuple[Fault, int]] = [
        (fault, at) for fault, places in ((full, (1, changes // 2)), (ctrl_c, (changes // 2, changes - 1)),
                                          (read_only, (changes // 3,))) for at in places
    ]  # fmt: skip
    for number, (fault, at) in enumerate(faults):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        words = words_of(command, inputs, zoo, folder)
        with faulty(folder, fault, max(1, at)):
            code = main(words)
        said = capsys.readouterr().err
        last = said.splitlines()[-1]
        if code:  # it may also do without what it could not keep
            assert code == (130 if fault is ctrl_c else 2), said
            assert last.startswith("stopped" if fault is ctrl_c else "error: "), said
            assert fault is ctrl_c or "full" in said or "No space" in said or "read-only" in said.lower(), said
        assert "Traceback" not in said
        assert temporary(folder) == []
        if code:
            resumed = ["--resume"] if command in ("fit", "predict") else []
            again, said = main([*words, *resumed]), capsys.readouterr().err
            assert again == 0, said
        assert sorted(path.name for path in folder.rglob("*")) == names
        capsys.readouterr()


def test_two_processes_on_one_cache_give_what_one_gives(zoo: Zoo, inputs: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    settings = {**tiny_settings(zoo, tmp_path / "cache", tune="top", probe_epochs=2), "epochs": 1}
    fit = [word for key, value in settings.items() for word in ("--set", f"{key.replace('_', '-')}={value}")]

    def start(name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cotune", "fit", str(inputs / "posts.csv"), "--no-estimate", "--out", name, *fit],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(process: subprocess.Popen[str]) -> None:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said

    for process in [start(name) for name in ("one", "two")]:
        end(process)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    fit[fit.index(f"cache={tmp_path / 'cache'}")] = f"cache={tmp_path / 'own'}"
    end(start("alone"))
    assert (tmp_path / "alone" / "model.safetensors").read_bytes() == one


def test_a_cache_that_cannot_be_written_costs_a_note_and_changes_nothing(
    zoo: Zoo, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for name, cache in (("with", tmp_path / "cache"), ("without", tmp_path / "file" / "cache")):
        words = words_of("fit", inputs, zoo, tmp_path)
        words[words.index(f"cache={tmp_path / 'cache'}")] = f"cache={cache}"
        words[-1] = str(tmp_path / name)
        assert main(words) == 0
    said = capsys.readouterr().err
    assert said.count("a temporary folder is used, and nothing is kept for later") == 1
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("with", "without"))
    assert one == two


def test_a_damaged_cache_is_computed_again_with_a_note(
    zoo: Zoo, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of("fit", inputs, zoo, tmp_path)
    assert main(words) == 0
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    stores = sorted(path.parent for path in (tmp_path / "cache").rglob("store.json"))
    assert len(stores) >= 3
    for store, name in zip(stores, ("data.bin", "index.sqlite", "store.json"), strict=False):
        content = bytearray((store / name).read_bytes())
        content[:40] = bytes(40)
        (store / name).write_bytes(bytes(content))
    for other in set((tmp_path / "cache").rglob("*.json")) - {store / "store.json" for store in stores}:
        other.write_bytes(other.read_bytes()[:-5])
    capsys.readouterr()
    assert main([*words, "--overwrite"]) == 0
    said = capsys.readouterr().err
    assert said.count("was damaged; it begins again") == 2
    assert "damaged, and computed again" in said
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert main([*words, "--overwrite"]) == 0
    assert "damaged" not in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    "command", ["fit", "predict", "evaluate", "explain", "check", "bench", "tune", "hashes", "serve"]
)
def test_a_table_or_run_whose_links_lead_in_a_circle_is_named(
    zoo: Zoo, inputs: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = tmp_path / "loop.csv"
    loop.symlink_to(loop.name)
    if command == "serve":
        words = ["serve", str(loop), "--check"]
    elif command in {"bench", "tune", "hashes"}:
        words = [command, str(loop), "--out", str(tmp_path / "out.csv")]
    else:
        known = str(inputs / "posts.csv")
        words = [str(loop) if word == known else word for word in words_of(command, inputs, zoo, tmp_path)]
    assert main(words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "loop.csv" in last


@pytest.mark.parametrize("command", ["bench", "tune", "explain"])
def test_an_output_folder_whose_links_lead_in_a_circle_is_named(
    zoo: Zoo, inputs: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop.name)
    words = (
        [command, str(inputs / "posts.csv")] if command != "explain" else words_of(command, inputs, zoo, tmp_path)[:-2]
    )
    assert main([*words, "--out", str(loop)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "loop" in last
