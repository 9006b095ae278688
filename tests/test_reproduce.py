"""A run trained once more from its own record: the same bit by bit, or what differs; and what cannot be repeated."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from cotune.cli import main
from cotune.decide.calibrate import calibrated
from cotune.errors import RunError
from cotune.progress import Progress
from cotune.reproduce import compare, reproduce
from cotune.run import load_run, save_calibration, save_run
from cotune.training.callbacks import Callback, CheckpointCallback
from cotune.training.fit import fit_posts
from cotune.training.stages import Stage, StageState
from runs import tiny_config, tiny_settings, write_table
from tiny import Zoo, make_posts

torch.set_num_threads(1)


def words(zoo: Zoo, cache: Path, **more: Any) -> list[str]:
    given = {"dropout": 0.1, "validation": 0.25, **tiny_settings(zoo, cache, **more)}
    return [word for key, value in given.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def home(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with posts.csv, further.csv and the finished run `run`, fit from within it."""
    home = tmp_path_factory.mktemp("home")
    write_table(make_posts(home / "posts", 24), home / "posts.csv")
    write_table(make_posts(home / "more", 8, seed=3).assign(id=[f"q{i}" for i in range(8)]), home / "further.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        given = [
            "posts.csv",
            "--out",
            "run",
            "--also",
            "further.csv",
            "--where",
            "label=class0",
            "--where",
            "label=class1",
        ]
        assert main(["fit", *given, *words(zoo, home / "cache", tune="top", epochs=1)]) == 0
    return home


def again(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    capsys.readouterr()
    code = main(["--quiet", "reproduce", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, json.loads(out) if "--json" in arguments and out else out + err


def test_the_same_bit_by_bit_from_another_folder_and_kept(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = again(capsys, home / "run", "--out", tmp_path / "second", "--json")
    assert (code, found["same"], found["figures"], found["environment"]) == (0, True, [], [])
    assert found["weights"]["n"] > 10_000
    assert found["weights"]["hash_before"] == found["weights"]["hash_now"]
    assert (found["weights"]["differ"], found["predictions"]["differ"]) == (0, 0)
    assert "held-out post" in found["predictions"]["of"]
    assert load_run(tmp_path / "second").metrics["also"][0]["train"] == 8
    assert (home / "run" / "model.safetensors").read_bytes() == (tmp_path / "second" / "model.safetensors").read_bytes()
    code, said = again(capsys, home / "run", "--out", tmp_path / "second")
    assert (code, said.count("\n")) == (2, 1)
    assert "is not empty" in said


@pytest.mark.parametrize(
    "more",
    [
        {"tune": "joint", "stop": "validation", "validation": 0.25},
        {"tune": "top", "members": 2, "distill": True},
        {"tune": "joint", "members": 2, "soup": True},
        {"tune": "frozen", "members": 2, "validation": 0.25},
    ],
    ids=lambda more: "-".join(map(str, more.values())),
)
def test_fits_of_every_kind_and_interrupted_ones_are_the_same(
    zoo: Zoo, home: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    posts = make_posts(home / "posts", 24)
    config = tiny_config(zoo, tmp_path / "cache", **{"dropout": 0.1, "epochs": 2, "probe_epochs": 2, **more})

    class Stops(Callback):
        """Ends a training, or that of the second member, after its first epoch."""

        def __init__(self, member: int = 0) -> None:
            self.member = member

        def of_member(self, member: int) -> Stops:
            return Stops(member)

        def on_epoch_end(self, stage: Stage, state: StageState, history: Any) -> None:
            if self.member == config.members - 1:
                raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        fit_posts(posts, config, callbacks=[CheckpointCallback(tmp_path / "kept"), Stops()])
    assert list((tmp_path / "kept").glob("**/state.json"))
    first = fit_posts(posts, config, callbacks=[CheckpointCallback(tmp_path / "kept", resume=True)]).run
    save_run(tmp_path / "run", first)
    run = load_run(tmp_path / "run")
    cold = config.model_copy(update={"cache": str(tmp_path / "cold")})
    found, _ = reproduce(run, posts, cold, name="run")
    assert found.same, found.to_dict()


def test_what_differs_is_told_with_code_1(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = load_run(home / "run")
    with torch.no_grad():
        next(iter(run.model.head.parameters())).view(-1)[0] += 0.5
    run.metrics["history"][0]["train_loss"] += 1
    run.environment["packages"]["torch"] = "1.0"
    save_run(tmp_path / "run", run)
    code, found = again(capsys, tmp_path / "run", "--json")
    assert (code, found["same"], found["weights"]["differ"]) == (1, False, 1)
    assert found["weights"]["largest"] == pytest.approx(0.5, abs=1e-6)
    assert found["weights"]["where"].startswith("head.")
    assert found["predictions"]["differ"] > 0
    (figure,) = found["figures"]
    assert (figure["name"], figure["by"]) == ("history[1].train_loss", pytest.approx(1))
    assert [(row["name"], row["before"]) for row in found["environment"]] == [("packages.torch", "1.0")]
    code, said = again(capsys, tmp_path / "run")
    assert code == 1
    assert "not repeated bit by bit" in said
    assert "packages.torch" in said


def test_a_run_that_was_calibrated_is_the_same(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(home / "run", tmp_path / "run")
    save_calibration(tmp_path / "run", calibrated(load_run(home / "run").task, 2.5), {"temperature": 2.5, "posts": 40})
    code, found = again(capsys, tmp_path / "run", "--json")
    assert (code, found["same"], found["predictions"]["differ"]) == (0, True, 0)
    assert "without the temperature" in again(capsys, tmp_path / "run")[1]


def test_a_run_that_differs_in_its_labels_alone_has_no_same_predictions(home: Path) -> None:
    run = load_run(home / "run")
    posts = make_posts(home / "posts", 24)
    other = load_run(home / "run")
    with torch.no_grad():
        for parameter in other.model.head.parameters():
            parameter.neg_()

    class Result:
        run, held_out = other, None

    found = compare(run, Result, posts, Progress())  # type: ignore[arg-type]
    assert not found.same
    assert found.scored == "24 training posts"
    assert found.labels > 0


def edit_posts(folder: Path) -> None:
    table = pd.read_csv(folder / "posts.csv")
    table.loc[3, "text"] = "another text"
    table.to_csv(folder / "posts.csv", index=False)


def other_image(folder: Path) -> None:
    shutil.copy(folder / "posts" / "0.png", folder / "posts" / "1.png")


def edit_further(folder: Path) -> None:
    table = pd.read_csv(folder / "further.csv")
    table.loc[0, "label"] = "class1"
    table.to_csv(folder / "further.csv", index=False)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (edit_posts, "not the posts that"),
        (other_image, "not the posts that"),
        (edit_further, "posts of further.csv: not what"),
        (lambda folder: (folder / "posts.csv").unlink(), "is gone"),
        (lambda folder: (folder / "further.csv").unlink(), "are gone"),
    ],
)
def test_what_cannot_be_repeated_is_one_line(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Any, told: str
) -> None:
    mine = Path(shutil.copytree(home, tmp_path / "mine"))
    run = load_run(mine / "run")
    run.environment["made_from"]["folder"] = str(mine)
    save_run(mine / "run", run)
    harm(mine)
    code, said = again(capsys, mine / "run")
    assert (code, said.count("\n")) == (2, 1), said
    assert told in said
    if "posts.csv" in said and "is gone" in said:  # the same posts elsewhere
        assert again(capsys, mine / "run", "--posts", home / "posts.csv")[0] == 0


def test_the_run_to_start_from_must_be_there_and_the_same(
    zoo: Zoo, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = Path(shutil.copytree(home / "run", tmp_path / "start"))
    fit = ["fit", home / "posts.csv", "--out", tmp_path / "on", "--start-from", start, "--no-estimate"]
    given = {"tune": "joint", "epochs": 1, "cache": home / "cache", "device": "cpu", "batch_size": 8}
    assert main([*map(str, fit), *(word for k, v in given.items() for word in ("--set", f"{k}={v}"))]) == 0
    assert again(capsys, tmp_path / "on")[0] == 0
    other = load_run(start)
    with torch.no_grad():
        next(iter(other.model.head.parameters())).add_(1)
    save_run(start, other)
    code, said = again(capsys, tmp_path / "on")
    assert (code, "run to start from: not what" in said) == (2, True)
    shutil.rmtree(start)
    code, said = again(capsys, tmp_path / "on")
    assert (code, said.count("\n"), "not there any more" in said) == (2, 1, True)


def test_an_unfinished_run_and_one_without_a_record(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_run(home / "run")
    run.metrics["status"] = "interrupted"
    save_run(tmp_path / "run", run)
    assert "--resume" in again(capsys, tmp_path / "run")[1]
    run.metrics["status"] = "finished"
    del run.environment["made_from"]
    save_run(tmp_path / "run", run)
    code, said = again(capsys, tmp_path / "run")
    assert (code, "name it with --posts" in said) == (2, True)
    del run.environment["data_hash"]
    with pytest.raises(RunError, match="no hash of its posts"):
        reproduce(run, make_posts(home / "posts", 24), run.config, name="it")
