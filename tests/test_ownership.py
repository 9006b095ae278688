"""Only what cotune wrote is replaced or deleted; the folders of others stay as they are, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotune.cli import main
from cotune.data.store import ArrayStore, evict
from cotune.errors import CotuneError, RunError
from cotune.estimators.classifier import JointClassifier
from cotune.explain.table.second_pass import Kept
from cotune.ownership import BENCHMARK, EVALUATION, EXPLANATIONS, RUN
from cotune.run import load_run, read_settings, save_run
from cotune.tasks.single_label import SingleLabel
from cotune.training.checkpoint import remove_state
from explained import random_run
from runs import tiny_settings, write_table
from tiny import Zoo, make_posts


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def flags(zoo: Zoo, cache: Path, **more: Any) -> list[str]:
    given = tiny_settings(zoo, cache, **{"tune": "frozen", **more})
    return [word for key, value in given.items() for word in ("--set", f"{key.replace('_', '-')}={value}")]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(make_posts(tmp_path / "images", 16, gaps=False), tmp_path / "posts.csv")


@pytest.fixture
def encoder(zoo: Zoo, tmp_path: Path) -> Path:
    return zoo.copy("bert", tmp_path / "bert")


@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--resume"]])
def test_fit_leaves_the_folder_of_an_encoder_alone(
    zoo: Zoo, table: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    before = contents(encoder)
    given = flags(zoo, tmp_path / "cache", text_encoder=str(encoder))
    capsys.readouterr()
    assert main(["fit", str(table), "--out", str(encoder), *given, *more]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "did not write and would replace (config.json" in said
    assert contents(encoder) == before


@pytest.mark.parametrize("rival", ["an unfinished training", "a log"])
def test_a_foreign_config_outweighs_what_lies_beside_it(
    zoo: Zoo, table: Path, encoder: Path, tmp_path: Path, rival: str
) -> None:
    if rival == "a log":
        (encoder / "log.csv").write_text("stage,epoch,train_loss,validation_auc\n")
    else:
        (encoder / "checkpoint").mkdir()
        (encoder / "checkpoint" / "state.json").write_text("{}")
    before = contents(encoder)
    assert main(["fit", str(table), "--out", str(encoder), "--overwrite", *flags(zoo, tmp_path / "cache")]) == 2
    assert contents(encoder) == before


def test_save_leaves_the_folders_of_others_alone(zoo: Zoo, encoder: Path, tmp_path: Path) -> None:
    model = JointClassifier.from_run(random_run(zoo))
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "README.md").write_text("years of work")
    for folder in (encoder, thesis):
        before = contents(folder)
        with pytest.raises(RunError, match="did not write and would replace"):
            model.save(folder)
        assert contents(folder) == before
    (thesis / "README.md").rename(thesis / "notes.md")
    model.save(thesis)
    assert (thesis / "notes.md").read_text() == "years of work"
    model.save(thesis)


def old(folder: Path, name: str) -> None:
    """Make a file look as before there were marks."""
    said = json.loads((folder / name).read_text())
    (folder / name).write_text(
        json.dumps({k: v for k, v in said.items() if k not in ("written_by", "kind", "checksum")})
    )


def test_runs_without_a_mark_are_runs_still(zoo: Zoo, tmp_path: Path) -> None:
    run = random_run(zoo)
    save_run(tmp_path / "run", run)
    assert read_settings(tmp_path / "run")["written_by"] == "cotune"
    old(tmp_path / "run", "config.json")
    assert RUN.owns(tmp_path / "run")
    assert load_run(tmp_path / "run").classes == run.classes
    save_run(tmp_path / "run", run)


def test_a_run_whose_config_is_damaged_can_be_replaced(zoo: Zoo, tmp_path: Path) -> None:
    run = random_run(zoo)
    run.environment = {"cotune": "0.1", "packages": {}, "data_hash": "x"}
    for harm in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        save_run(tmp_path / "run", run)
        harm(tmp_path / "run" / "config.json")
        save_run(tmp_path / "run", run)
        assert load_run(tmp_path / "run").classes == run.classes


def test_a_folder_of_the_users_named_unfinished_survives_saving(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "run" / "unfinished").mkdir(parents=True)
    (tmp_path / "run" / "unfinished" / "mine.txt").write_text("keep")
    save_run(tmp_path / "run", random_run(zoo))
    assert (tmp_path / "run" / "unfinished" / "mine.txt").read_text() == "keep"


def test_links_are_replaced_and_what_they_point_to_stays(zoo: Zoo, tmp_path: Path) -> None:
    run = random_run(zoo)
    save_run(tmp_path / "run", run)
    (tmp_path / "run" / "text_encoder").rename(tmp_path / "elsewhere")
    (tmp_path / "run" / "text_encoder").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    before = contents(tmp_path / "elsewhere")
    save_run(tmp_path / "run", run)
    assert contents(tmp_path / "elsewhere") == before
    assert not (tmp_path / "run" / "text_encoder").is_symlink()


@pytest.mark.parametrize(
    ("command", "name", "kind"),
    [
        ("evaluate", "metrics.json", EVALUATION),
        ("evaluate", "report.html", EVALUATION),
        ("explain", "summary.json", EXPLANATIONS),
        ("explain", "index.html", EXPLANATIONS),
        ("explain", "posts/post-000001.html", EXPLANATIONS),
        ("explain", ".unfinished/mine.txt", EXPLANATIONS),
    ],
)
def test_results_replace_results_alone(
    zoo: Zoo, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str, kind: Any
) -> None:
    save_run(tmp_path / "run", random_run(zoo, classes=2))
    run_ = load_run(tmp_path / "run")
    posts = make_posts(tmp_path / "p", 8, gaps=False)
    run_.model.task = SingleLabel(sorted(posts["label"].unique()))
    save_run(tmp_path / "run", run_)
    mine = tmp_path / "mine"
    (mine / name).parent.mkdir(parents=True)
    (mine / name).write_text('{"mine": 1}')
    words = [command, str(tmp_path / "run"), str(table), "--device", "cpu"]
    words += ["--bootstrap", "0"] if command == "evaluate" else ["--no-words", "--no-pixels", "--limit", "1"]
    assert main([*words, "--out", str(mine)]) == 2
    assert f"did not write and would replace ({name.split('/mine')[0]}" in capsys.readouterr().err
    assert contents(mine) == {name: b'{"mine": 1}'}
    results = tmp_path / "results"
    for _ in range(2):
        assert main([*words, "--out", str(results)]) == 0, capsys.readouterr().err
    assert kind.owns(results)
    old(results, next(iter(kind.markers)))
    assert kind.owns(results), "those of before there was a mark"
    assert not BENCHMARK.owns(results)


@pytest.mark.parametrize("name", ["report.html", "summary.json", "table1.md", "bench.json", "config.json"])
def test_a_benchmark_replaces_benchmarks_alone(
    zoo: Zoo, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / name).write_text('{"mine": 1}')
    words = ["bench", str(table), "--out", str(mine), "--methods", "svm", "--folds", "2", "--protocol", "paper"]
    assert main([*words, *flags(zoo, tmp_path / "cache")]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].endswith("choose another folder"), said
    assert contents(mine) == {name: b'{"mine": 1}'} | ({".lock": b""} if (mine / ".lock").exists() else {})


def spare(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.txt").write_text("keep")
    return folder


@pytest.mark.parametrize("remove", [remove_state, lambda folder: Kept(folder, {}).remove()])
def test_removing_leaves_files_of_others(tmp_path: Path, remove: Callable[[Path], None]) -> None:
    folder = spare(tmp_path / "folder")
    for name in ("state.json", "tensors-1.safetensors", "key.json", "chunk-000001.jsonl", "post-000000001.json"):
        (folder / name).write_text("{}")
    remove(folder)
    assert (folder / "mine.txt").read_text() == "keep"
    (folder / "mine.txt").unlink()
    for path in folder.iterdir():
        path.unlink()
    remove(folder)
    assert not folder.exists()


def test_what_was_kept_under_another_key_goes_and_nothing_else(tmp_path: Path) -> None:
    kept = Kept(spare(tmp_path / "kept"), {"a": 1})
    kept.begin()
    kept.chunk(0).write_text("{}")
    (tmp_path / "kept" / "key.json").write_text("{")
    again = Kept(tmp_path / "kept", {"a": 1})
    again.begin()
    assert again.chunks() == []
    assert (tmp_path / "kept" / "mine.txt").read_text() == "keep"


def test_eviction_spares_folders_that_are_no_stores(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path / "store", dtype="uint8", row_shape=(4,))
    store.add(["a"], [np.zeros((1, 4), dtype=np.uint8)])
    for name, said in (("shop", {"name": "corner shop"}), ("torn", None)):
        spare(tmp_path / name)
        (tmp_path / name / "store.json").write_text("{" if said is None else json.dumps(said))
    spare(tmp_path / "store")
    assert evict(tmp_path, 0) == [tmp_path / "store"]
    assert sorted(contents(tmp_path)) == ["shop/mine.txt", "shop/store.json", "store/mine.txt", "torn/mine.txt",
                                          "torn/store.json"]  # fmt: skip
    with pytest.raises(CotuneError, match="the cache is damaged .*delete the folder"):
        ArrayStore(tmp_path / "torn", dtype="uint8", row_shape=(4,))
