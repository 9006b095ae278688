"""From posts to a run: what is left out is counted, what cannot be learned is refused, a stop can be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cotune.errors import ConfigError, DataError
from cotune.predict import Predictor
from cotune.progress import Progress
from cotune.report.run_report import run_report
from cotune.run import load_run, save_run
from cotune.settings import make_config
from cotune.tasks.single_label import SingleLabel
from cotune.training.callbacks import Callback, CheckpointCallback, HistoryCallback
from cotune.training.fit import fit_posts
from cotune.training.notes import below_the_probe
from cotune.training.stages import Stage, StageState
from runs import tiny_config, write_table
from tiny import Zoo, make_posts, same_weights, weights_of


class Told(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class StopAt(Progress):
    """Ctrl-C in the second batch of an epoch."""

    def __init__(self, stage: str, epoch: int) -> None:
        self.what = f"{stage}, epoch {epoch} "

    def track(self, items: Any, what: str, total: int | None) -> Any:
        for i, item in enumerate(items):
            if what.startswith(self.what) and i == 1:
                raise KeyboardInterrupt
            yield item

    def say(self, line: str) -> None:
        pass


def test_posts_that_cannot_be_used_are_counted_and_named(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 24, gaps=False)
    posts.loc[3, "label"] = None
    Path(posts["image"][6]).write_bytes(b"")
    Path(posts["image"][8]).write_bytes(b"no picture at all")
    posts.loc[10, "image"] = str(tmp_path)  # a folder
    posts.loc[12, ["text", "image"]] = None
    told = Told()
    result = fit_posts(posts, tiny_config(zoo, tmp_path / "c", tune="frozen"), progress=told)
    counts = result.run.metrics["posts"]
    assert (counts["read"], counts["train"], counts["unlabelled"], counts["unreadable_images"]) == (24, 19, 1, 3)
    text = "\n".join(told.lines)
    for words in ("(row 4)", "row 7: ", "0 bytes", "row 9: ", "row 11: ", "is a folder", "3 training posts", "nothing"):
        assert words in text, words


def test_text_only_keeps_posts_with_broken_images(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 16, gaps=False)
    Path(posts["image"][6]).write_bytes(b"broken")
    told = Told()
    result = fit_posts(posts, tiny_config(zoo, tmp_path / "c", tune="frozen", bad_images="text-only"), progress=told)
    assert result.run.metrics["posts"]["train"] == 16
    assert any("used by their text alone" in line for line in told.lines)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a"] * 8, "all 8 posts have the label 'a'"),
        (["a", "b", "c", "d", "e", "f", "g", "h"], "only one usable post has the label 'a', 'b'.* and 3 more"),
        (["a"] * 7 + ["b"], "only one usable post has the label 'b'"),
        ([None] * 8, "the posts have no labels"),
    ],
)
def test_labels_that_cannot_be_learned(zoo: Zoo, tmp_path: Path, labels: list[Any], words: str) -> None:
    posts = make_posts(tmp_path / "posts", 8, gaps=False)
    posts["label"] = pd.Series(labels, dtype=object)
    with pytest.raises(DataError, match=words):
        fit_posts(posts, tiny_config(zoo, tmp_path / "c"))


def test_a_label_left_without_usable_posts_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 8, gaps=False)
    for i in range(1, 8, 2):
        Path(posts["image"][i]).write_bytes(b"")
    with pytest.raises(DataError, match="not even two usable posts have the label 'class1'"):
        fit_posts(posts, tiny_config(zoo, tmp_path / "c"))


def test_number_labels_are_in_the_order_of_numbers(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 12, classes=3)
    posts["label"] = posts["label"].map({"class0": "10", "class1": "2", "class2": "-1"})
    run = fit_posts(posts, tiny_config(zoo, tmp_path / "c", tune="frozen")).run
    assert run.classes == ("-1", "2", "10")


def test_a_text_of_a_million_characters(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 12, gaps=False)
    posts.loc[0, "text"] = "good " * 200_000
    run = fit_posts(posts, tiny_config(zoo, tmp_path / "c", tune="frozen")).run
    scores = Predictor(run, device="cpu").scores(posts)
    proba, errors = scores.predictions, scores.errors
    assert np.isfinite(proba).all()
    assert not any(errors)


@pytest.mark.parametrize("tune", ["joint", "top"])
@pytest.mark.parametrize(("stage", "epoch"), [("probe", 2), ("tune", 1), ("tune", 2)])
def test_an_interrupted_fit_is_usable_and_resumes_to_the_same(
    zoo: Zoo, tmp_path: Path, tune: str, stage: str, epoch: int
) -> None:
    posts = make_posts(tmp_path / "posts", 24)
    watched = {"validation": 0.25, "stop": "validation", "min_epochs": 2}
    config = tiny_config(zoo, tmp_path / "c", tune=tune, batch_size=4, probe_batch_size=4, **watched)
    whole = fit_posts(posts, config).run
    at = tune if stage == "tune" else stage
    stopped = fit_posts(
        posts,
        config,
        callbacks=[CheckpointCallback(tmp_path / "run" / "checkpoint")],
        progress=StopAt(at, epoch),  # type: ignore[arg-type]
    )
    assert stopped.interrupted
    metrics = stopped.run.metrics
    assert metrics["status"] == "interrupted"
    done = [(row["stage"], row["epoch"]) for row in metrics["history"]]
    expected = [(row["stage"], row["epoch"]) for row in whole.metrics["history"]]
    assert done == expected[: expected.index((at, epoch))]
    save_run(tmp_path / "run", stopped.run)
    probabilities = Predictor(load_run(tmp_path / "run"), device="cpu").scores(posts).predictions
    assert np.isfinite(probabilities).all()
    resumed = fit_posts(posts, config, callbacks=[CheckpointCallback(tmp_path / "run" / "checkpoint", resume=True)])
    assert not resumed.interrupted
    assert same_weights(weights_of(resumed.run.model), weights_of(whole.model))
    losses = [[row["train_loss"] for row in run.metrics["history"]] for run in (resumed.run, whole)]
    assert losses[0] == losses[1]


def test_a_stop_in_the_first_epoch_leaves_nothing_to_save(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 140, gaps=False)
    with pytest.raises(KeyboardInterrupt):
        fit_posts(
            posts,
            tiny_config(zoo, tmp_path / "c", tune="frozen", image_encoder="", fusion="text"),
            callbacks=[CheckpointCallback(tmp_path / "checkpoint")],
            progress=StopAt("probe", 1),  # type: ignore[arg-type]
        )


def test_a_kill_between_the_last_checkpoint_and_the_log_leaves_no_gap_in_the_log(zoo: Zoo, tmp_path: Path) -> None:
    class Killed(Callback):
        def on_epoch_end(self, stage: Stage, state: StageState, history: Any) -> None:
            if state.epoch == 3:
                raise MemoryError

    posts, config = make_posts(tmp_path / "posts", 24), tiny_config(zoo, tmp_path / "cache", tune="frozen")
    with pytest.raises(MemoryError):
        fit_posts(posts, config, callbacks=[CheckpointCallback(tmp_path / "kept"), Killed()])
    rows: list[Any] = []
    kept = CheckpointCallback(tmp_path / "kept", resume=True)
    run = fit_posts(posts, config, callbacks=[kept, HistoryCallback(rows.append)]).run
    assert rows[-1] == run.metrics["history"]
    assert [row["epoch"] for row in rows[-1]] == [1, 2, 3]


def test_a_checkpoint_of_other_posts_or_settings_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 12)
    config = tiny_config(zoo, tmp_path / "c", tune="frozen", fusion="text")
    fit_posts(posts, config, callbacks=[CheckpointCallback(tmp_path / "checkpoint")])
    other = posts.assign(text=["other " + str(text) for text in posts["text"]])
    with pytest.raises(Exception, match="other posts"):
        fit_posts(other, config, callbacks=[CheckpointCallback(tmp_path / "checkpoint", resume=True)])
    changed = tiny_config(zoo, tmp_path / "c", tune="frozen", fusion="text", seed=1)
    with pytest.raises(Exception, match=r"other seed \(42, now 1\)"):
        fit_posts(posts, changed, callbacks=[CheckpointCallback(tmp_path / "checkpoint", resume=True)])
    fit_posts(other, config, callbacks=[CheckpointCallback(tmp_path / "checkpoint")])  # anew is fine
    other.loc[0, "image"] = "memory://nowhere/a.jpg"
    fit_posts(other, config, callbacks=[CheckpointCallback(tmp_path / "checkpoint")])
    with pytest.raises(Exception, match="other images by URL"):
        fit_posts(
            other, config, callbacks=[CheckpointCallback(tmp_path / "checkpoint", resume=True)], allow_remote=True
        )


def test_validation_by_part_by_table_and_by_name(zoo: Zoo, tmp_path: Path) -> None:
    posts, held = make_posts(tmp_path / "posts", 24), make_posts(tmp_path / "held", 12, seed=3)
    part = fit_posts(posts, tiny_config(zoo, tmp_path / "c", tune="frozen", validation=0.25)).run
    assert part.metrics["validation"]["n"] == part.metrics["posts"]["held_out"] == 6
    assert part.metrics["posts"]["train"] == 18
    bins = part.metrics["validation"]["calibration"]
    assert sum(each["n"] for each in bins) == 6
    config = tiny_config(zoo, tmp_path / "c", tune="frozen")
    table = fit_posts(posts, config, validation_posts=held).run
    assert table.metrics["validation"]["n"] == 12
    path = write_table(held, tmp_path / "held.csv")
    named = fit_posts(posts, tiny_config(zoo, tmp_path / "c", tune="frozen", validation=str(path))).run
    assert named.metrics["validation"]["scores"] == table.metrics["validation"]["scores"]


@pytest.mark.parametrize("table", [False, True])
def test_held_out_posts_come_with_the_predictions_of_the_saved_run(zoo: Zoo, tmp_path: Path, table: bool) -> None:
    posts, held = make_posts(tmp_path / "posts", 24), make_posts(tmp_path / "held", 12, seed=3)
    held.loc[4, ["text", "image"]] = None  # left out
    config = tiny_config(zoo, tmp_path / "c", tune="joint", validation=None if table else 0.25)
    result = fit_posts(posts, config, validation_posts=held if table else None)
    assert result.held_out is not None
    shown, predictions = result.held_out
    assert len(shown) == len(predictions) == result.run.metrics["validation"]["n"]
    again = Predictor(result.run, device="cpu").frame(shown)
    assert list(again.columns) == list(predictions.columns)
    numbers = predictions.select_dtypes("number").columns
    assert "text_share" in numbers
    np.testing.assert_allclose(again[numbers], predictions[numbers], atol=1e-5)
    assert again["id"].tolist() == predictions["id"].tolist()


def test_a_validation_label_that_nobody_trained_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    posts, held = make_posts(tmp_path / "posts", 12), make_posts(tmp_path / "held", 12, seed=3)
    held.loc[4, "label"] = "nonsense"
    with pytest.raises(
        DataError, match="the validation post of row .* has the label .*, which is not known .known are"
    ):
        fit_posts(posts, tiny_config(zoo, tmp_path / "c"), validation_posts=held)


def test_groups_are_asked_for(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 12)
    with pytest.raises(DataError, match="--group-column"):
        fit_posts(posts, tiny_config(zoo, tmp_path / "c", folds_group="group", validation=0.3))


def test_nothing_to_train_is_an_error(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 12)
    with pytest.raises(ConfigError, match="nothing would be trained"):
        fit_posts(posts, tiny_config(zoo, tmp_path / "c", tune="frozen", probe_epochs=0))


@pytest.mark.parametrize("table", [False, True])
def test_held_out_posts_of_one_class_still_choose_a_trained_model(zoo: Zoo, tmp_path: Path, table: bool) -> None:
    posts = make_posts(tmp_path / "posts", 40, gaps=False)
    odd = np.flatnonzero(posts["label"] == posts["label"].iloc[1])
    rare = pd.concat([posts[posts["label"] == posts["label"].iloc[0]], posts.iloc[odd[:2]]]).reset_index(drop=True)
    rare["row"] = range(1, len(rare) + 1)
    one_class = make_posts(tmp_path / "held", 12, gaps=False, seed=3)
    one_class = one_class[one_class["label"] == posts["label"].iloc[0]].reset_index(drop=True)
    heard = Told()
    config = tiny_config(zoo, tmp_path / "cache", tune="frozen", stop="validation", probe_epochs=8, probe_lr=0.02)
    run = fit_posts(rare, config, validation_posts=one_class if table else None, progress=heard).run
    assert any("AUC is not defined; --stop validation watches their log loss" in line for line in heard.lines)
    assert run.metrics["notes"]
    assert run.metrics["validation"]["scores"]["accuracy"]["value"] > 0.9
    assert all(row["validation_auc"] is None and row["validation_loss"] > 0 for row in run.metrics["history"])
    assert "validation loss" in heard.lines[-1]


def row(stage: str, auc: float | None, loss: float) -> dict[str, Any]:
    return {"stage": stage, "epoch": 1, "train_loss": 0.1, "validation_auc": auc, "validation_loss": loss}


@pytest.mark.parametrize(
    ("probe", "tuned", "settings", "words"),
    [
        (row("probe", 0.714, 0.5), row("top", 0.70, 0.4), {}, "validation AUC of 0.700, worse than the 0.714"),
        (row("probe", None, 0.4), row("top", None, 0.5), {}, "validation log loss of 0.500, worse than the 0.400"),
        (row("probe", 0.714, 0.5), row("top", 0.7139, 0.6), {}, None),
        (row("probe", 0.7, 0.4), row("top", 0.8, 0.5), {}, None),
        (row("probe", 0.714, 0.5), row("top", 0.70, 0.4), {"stop": "validation"}, None),
        (row("probe", 0.714, 0.5), row("probe", 0.70, 0.4), {"tune": "frozen"}, None),
    ],
)
def test_a_score_below_the_probe_is_noted(
    probe: dict[str, Any], tuned: dict[str, Any], settings: dict[str, Any], words: str | None
) -> None:
    said = below_the_probe([probe, tuned], SingleLabel(["no", "yes"]), make_config(settings))
    assert said is None if words is None else said is not None and words in said and "--stop validation" in said


def test_notes_reach_the_metrics_and_the_report(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    posts = make_posts(tmp_path / "posts", 16, gaps=False)
    monkeypatch.setattr("cotune.training.fit.below_the_probe", lambda *_: "fine-tuning <ended> below the probe")
    told = Told()
    run = fit_posts(posts, tiny_config(zoo, tmp_path / "cache"), validation_posts=posts, progress=told).run
    notes = run.metrics["notes"]
    assert notes == ["fine-tuning <ended> below the probe"]
    said = [line for line in told.lines if line.startswith("note:")]
    assert f"note: {notes[0]}" in said
    assert any("16 of 16 validation posts are training posts too" in line for line in said)
    page = run_report(run, name="run")
    assert "Validation posts that are training posts too" in page
    assert "Fine-tuning &lt;ended&gt;" in page
