"""Posts that a run was trained on are known again: the same, near-duplicates, and never a word of them is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cotune.cli import main
from cotune.data.posts import read_posts
from cotune.data.seen import NEAR, NEW, SAME, SEEN, TRAINED, WATCHED, PostKeys, SeenPosts
from cotune.decide.calibrate import calibrate
from cotune.decide.choose import score_labelled
from cotune.errors import DataError
from cotune.evaluation import evaluate_posts
from cotune.fields import DEFAULT_FIELDS
from cotune.metrics import Evaluation
from cotune.predict import Predictor
from cotune.run import Run, load_run, save_run
from cotune.seen_check import SEEN_POSTS, TOO_HIGH, SeenCheck
from runs import Told, tiny_fit, write_table
from tiny import Zoo, make_posts, scene


def keys(rows: list[tuple[str | None, str | None]]) -> PostKeys:
    posts = pd.DataFrame(rows, columns=["text", "image"], dtype=object)
    return PostKeys.of(posts, DEFAULT_FIELDS)


def test_the_same_and_near_duplicates_are_told_from_others(tmp_path: Path) -> None:
    for i in range(3):
        scene(i).save(tmp_path / f"{i}.png")
    scene(0).save(tmp_path / "again.jpg", quality=60)
    scene(0).resize((90, 70)).save(tmp_path / "small.png")
    Image.new("RGB", (50, 50), "white").save(tmp_path / "white.png")
    Image.new("RGB", (50, 50), (254, 254, 254)).save(tmp_path / "white too.png")
    a, b, c = (str(tmp_path / f"{i}.png") for i in range(3))
    trained = keys([("A sunny day", a), ("words alone", None), (None, b), ("a page", str(tmp_path / "white.png")),
                    ("by address", "https://nowhere.example/x.png"), (None, None)])  # fmt: skip
    seen = SeenPosts(trained, np.full(6, TRAINED), ("text", "image"))
    rows: list[tuple[tuple[str | None, str | None], int]] = [
        (("A sunny day", a), SAME),
        (("words alone", None), SAME),
        (("a text of its own", a), NEAR),  # the very image
        (("another", str(tmp_path / "again.jpg")), NEAR),
        ((None, str(tmp_path / "small.png")), NEAR),
        (("RT @me: a SUNNY day https://t.co/x", c), NEAR),
        (("quite different", c), NEW),  # like the one before, which was not trained on
        (("another page", str(tmp_path / "white too.png")), NEW),  # all pages of one shade look alike
        (("by address", "https://nowhere.example/x.png"), SAME),
        ((None, None), NEW),  # nothing is like nothing
        (("", str(tmp_path / "missing.png")), NEW),
    ]
    found, watched = seen.compare(keys([row for row, _ in rows]))
    assert found.tolist() == [what for _, what in rows]
    assert not watched.any()
    part = SeenPosts(trained, np.asarray([WATCHED, *[TRAINED] * 5]), ("text", "image"))
    found, watched = part.compare(keys([("A sunny day", a), ("words alone", None)]))
    assert (found.tolist(), watched.tolist()) == ([NEW, SAME], [True, False])


def test_the_file_holds_eight_bytes_each_and_is_read_again(tmp_path: Path) -> None:
    rows = [(f"a secret text {i}", None) for i in range(50)]
    seen = SeenPosts(keys(rows), np.full(50, TRAINED), ("text", "image"))
    seen.save(tmp_path / SEEN)
    raw = (tmp_path / SEEN).read_bytes()
    assert b"secret" not in raw
    assert len(raw) < 50 * (4 * 8 + 1) + 1000
    back = SeenPosts.load(tmp_path / SEEN)
    assert back.fields == seen.fields
    assert (back.compare(keys(rows))[0] == SAME).all()
    for harm in (raw[:100], b"", raw.replace(b'form\\": 1', b'form\\": 9')):
        assert harm != raw
        (tmp_path / SEEN).write_bytes(harm)
        with pytest.raises(DataError):
            SeenPosts.load(tmp_path / SEEN)


@pytest.fixture(scope="module")
def fitted(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    folder = tmp_path_factory.mktemp("run")
    run = tiny_fit(zoo, folder, tune="frozen", n=24).run
    save_run(folder / "run", run)
    return run, folder


def mixed(folder: Path, new: int = 12) -> pd.DataFrame:
    """Six posts that were trained on, two near-duplicates and some that are new."""
    old = make_posts(folder / "posts", 24).iloc[:8].reset_index(drop=True)
    near = old.iloc[6:8].assign(image=None)
    near["text"] = [f"RT @somebody {text.upper()}" for text in near["text"]]
    other = make_posts(folder / "new", new, gaps=False, seed=9)
    other["text"] = [f"{text} number {i} xyz" for i, text in enumerate(other["text"])]
    found = pd.concat([old.iloc[:6], near, other], ignore_index=True)
    return found.assign(id=[f"m{i}" for i in range(len(found))], row=range(1, len(found) + 1))


def values(evaluation: Evaluation) -> dict[str, float]:
    return {"n": evaluation.n, **{name: score.value for name, score in evaluation.scores.items()}}


def test_evaluating_counts_them_and_scores_without(fitted: tuple[Run, Path]) -> None:
    run, folder = fitted
    posts, told = mixed(folder), Told()
    whole = evaluate_posts(Predictor(run, device="cpu"), [posts[:7], posts[7:]], n_bootstrap=0, progress=told)
    assert whole.seen == {"same": 6, "near": 2, "watched": 0}
    assert whole.unseen is not None
    alone = evaluate_posts(Predictor(run, device="cpu"), [posts[8:].reset_index(drop=True)], n_bootstrap=0)
    assert (alone.notes, alone.unseen, alone.seen) == ([], None, {"same": 0, "near": 0, "watched": 0})
    assert values(whole.unseen) == pytest.approx(values(alone.evaluation), abs=1e-5)
    (note,) = whole.notes
    assert note.startswith("8 of 20 posts were trained on (6 the same, 2 nearly the same); without them the AUC is ")
    assert note.endswith(f"on 12 posts; {TOO_HIGH}")
    assert f"note: {note}" in told.lines
    without = evaluate_posts(Predictor(run, device="cpu"), [posts], n_bootstrap=0, seen="leave-out")
    assert values(without.evaluation) == pytest.approx(values(alone.evaluation), abs=1e-5)
    assert without.left_out["a duplicate in training"] == 8
    assert len(without.predictions) == 20


def test_no_threshold_and_no_temperature_rests_on_posts_of_training(fitted: tuple[Run, Path]) -> None:
    run, folder = fitted
    posts = mixed(folder, new=40)
    found = score_labelled(Predictor(run, device="cpu"), [posts[:7], posts[7:]], run.task.outputs[0])
    alone = score_labelled(Predictor(run, device="cpu"), [posts[8:].reset_index(drop=True)], run.task.outputs[0])
    assert found.left_out["a duplicate in training"] == 8
    assert found.positive.tolist() == alone.positive.tolist()
    np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
    calibration = calibrate(Predictor(run, device="cpu"), [posts], n_bootstrap=0)
    assert calibration.posts == len(alone.scores)
    with pytest.raises(DataError, match="10 with a duplicate in training.*give posts that are not those that the run"):
        score_labelled(Predictor(run, device="cpu"), [make_posts(folder / "posts", 24)[:10]], run.task.outputs[0])


def test_only_posts_of_training_leave_nothing_to_score(fitted: tuple[Run, Path]) -> None:
    run, folder = fitted
    posts = make_posts(folder / "posts", 24).iloc[:10]
    found = evaluate_posts(Predictor(run, device="cpu"), [posts], n_bootstrap=0)
    assert (found.notes, found.unseen) == ([SEEN_POSTS], None)
    with pytest.raises(DataError, match="10 with a duplicate in training"):
        evaluate_posts(Predictor(run, device="cpu"), [posts], n_bootstrap=0, seen="leave-out")


def test_posts_that_were_held_out_are_not_trained_on_and_those_that_decided_are_told(zoo: Zoo, tmp_path: Path) -> None:
    how: dict[str, Any] = {"tune": "frozen", "validation": 0.25}
    posts = make_posts(tmp_path / "posts", 24)
    for more, watched in (({}, 0), ({"stop": "validation"}, 6)):
        run = tiny_fit(zoo, tmp_path, **how, **more).run
        found = SeenCheck(Predictor(run, device="cpu"))
        found.update(posts)
        assert found.found().counts() == {"same": 18, "near": 0, "watched": watched}
    assert found.found().notes()[1].startswith("6 of 24 posts decided when training stopped")


def test_a_model_of_one_field_counts_that_field_alone(zoo: Zoo, tmp_path: Path) -> None:
    run = tiny_fit(zoo, tmp_path, tune="frozen", fusion="text").run
    posts = make_posts(tmp_path / "posts", 24)
    check = SeenCheck(Predictor(run, device="cpu"))
    check.update(posts.assign(image=None))
    assert check.found().counts()["same"] == posts["text"].notna().sum()


def test_the_command_says_it_and_a_damaged_file_harms_no_prediction(
    fitted: tuple[Run, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = fitted
    mine = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    table = write_table(mixed(folder), folder / "mixed.csv")
    assert main(["evaluate", str(mine), str(table), "--bootstrap", "20"]) == 0
    out, err = capsys.readouterr()
    assert "Without posts that were trained on, 12 posts" in out
    assert "note: 8 of 20 posts were trained on" in err
    assert main(["evaluate", str(mine), str(table), "--seen", "leave-out", "--json", "--out", str(tmp_path / "e")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["left_out"]["a duplicate in training"]) == (12, 8)
    assert main(["explain", str(mine), str(table), "--out", str(tmp_path / "x"), "--limit", "0"]) == 0
    assert "note: 8 of 20 posts were trained on" in capsys.readouterr().err
    before = Predictor(load_run(mine), device="cpu").scores(read_posts(table)).predictions
    (mine / SEEN).write_bytes(b"x")
    run = load_run(mine)
    assert "seen.safetensors was changed" in run.notes[0]
    assert run.seen is None
    assert np.array_equal(Predictor(run, device="cpu").scores(read_posts(table)).predictions, before, equal_nan=True)
    assert evaluate_posts(Predictor(run, device="cpu"), [read_posts(table)], n_bootstrap=0).seen == {}


def test_saving_again_keeps_it(fitted: tuple[Run, Path], tmp_path: Path) -> None:
    save_run(tmp_path / "run", load_run(fitted[1] / "run"))
    assert (tmp_path / "run" / SEEN).read_bytes() == (fitted[1] / "run" / SEEN).read_bytes()
    assert "sha256" in json.loads((tmp_path / "run" / "config.json").read_text())["checksums"][SEEN]
