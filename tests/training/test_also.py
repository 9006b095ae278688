"""Further tables to train on: they teach, they are never held out, and what stands in the held-out posts is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

import cotune.training.fit as fitting
from cotune.data.also import ALSO, is_own, own_posts, with_also
from cotune.data.posts import ColumnNames
from cotune.errors import DataError, RunError
from cotune.estimators.classifier import JointClassifier
from cotune.run import load_run, save_run
from cotune.settings import make_config
from cotune.tasks.single_label import SingleLabel
from cotune.training.callbacks import CheckpointCallback
from cotune.training.fit import fit_posts
from cotune.training.trainer import Trainer
from runs import Told, tiny_config, tiny_settings
from tiny import Zoo, make_posts

OTHER = ["a good happy dog", "love and food again", "so bad and sad", "hate every bit of it"]


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return make_posts(tmp_path_factory.mktemp("posts"), 24, gaps=False)


def table(folder: Path, rows: list[dict[str, Any]], name: str = "other.csv") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / name, index=False)
    return str(folder / name)


def texts(*given: str) -> list[dict[str, Any]]:
    """Return rows without images, labelled in turn."""
    return [{"id": f"p{i}", "text": text, "label": f"class{i // 2 % 2}"} for i, text in enumerate(given)]


class Kept:
    """Keeps what trainers are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data: list[Any] = []

        def made(data: Any, *args: Any, **more: Any) -> Trainer:
            self.data.append(data)
            return Trainer(data, *args, **more)

        monkeypatch.setattr(fitting, "Trainer", made)


def test_texts_without_images_are_trained_on_and_never_held_out(
    zoo: Zoo, tmp_path: Path, posts: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, told = Kept(monkeypatch), Told()
    other = table(tmp_path / "t", [*texts(*OTHER), {"id": "none", "text": "no label here", "label": None}])
    settings = {"tune": "frozen", "validation": 0.25, "also_weight": 0.5}
    result = fit_posts(posts, tiny_config(zoo, tmp_path / "c", also=other, **settings), progress=told)
    alone = fit_posts(posts, tiny_config(zoo, tmp_path / "c", **settings))
    with_table, without = kept.data
    assert with_table.held_out.rows.tolist() == without.held_out.rows.tolist()
    further = [row for row in with_table.rows if row >= len(posts)]
    assert [row for row in with_table.rows if row < len(posts)] == without.rows.tolist()
    assert len(further) == 4
    assert with_table.weights[further].tolist() == [0.5] * 4
    assert with_table.features.present[further].tolist() == [[True, False]] * 4
    metrics = result.run.metrics
    assert metrics["posts"]["read"] == 24
    assert metrics["posts"]["train"] == alone.run.metrics["posts"]["train"] + 4
    assert metrics["validation"]["n"] == alone.run.metrics["validation"]["n"]
    about = metrics["also"]
    assert [(each["table"], each["train"], each["left_out"]) for each in about] == [(other, 4, 0)]
    assert result.run.environment["data_hash"] == alone.run.environment["data_hash"] != about[0]["data_hash"]
    text = "\n".join(told.lines)
    assert "(row 5 of other.csv)" in text
    assert "4 posts of other.csv to train on as well" in text
    save_run(tmp_path / "run", result.run)
    assert "further tables are among them: 4 of `other.csv`" in (tmp_path / "run" / "README.md").read_text()
    assert load_run(tmp_path / "run").config.also == (other,)


@pytest.mark.parametrize("by_table", [False, True])
def test_posts_that_stand_in_the_held_out_ones_are_left_out(
    zoo: Zoo, tmp_path: Path, posts: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, by_table: bool
) -> None:
    kept, told = Kept(monkeypatch), Told()
    held = make_posts(tmp_path / "held", 8, gaps=False, seed=3) if by_table else None
    config = tiny_config(zoo, tmp_path / "c", tune="frozen", validation=None if by_table else 0.25)
    fit_posts(posts, config, validation_posts=held)
    apart = held if held is not None else posts.iloc[kept.data[0].held_out.rows]
    first, second = apart.iloc[0], apart.iloc[1]
    rows = [
        {"id": "text", "text": f"RT @you: {first['text'].upper()} http://t.co/x", "label": "class0"},
        {"id": "image", "text": "another text", "image": second["image"], "label": "class1"},
        {"id": "new", "text": "good food", "label": "class0"},
    ]
    other = table(tmp_path / "t", rows)
    more = table(tmp_path / "t", [{"text": second["text"], "label": "class0"}, *texts(*OTHER)], "more.csv")
    config = config.model_copy(update={"also": (other, more)})
    found = fit_posts(posts, config, validation_posts=held, progress=told, allow_outside=True).run.metrics["also"]
    assert [(each["train"], each["left_out"]) for each in found] == [(1, 2), (4, 1)]
    text = "\n".join(told.lines)
    assert "2 posts of other.csv also stand in the held-out posts, left out" in text
    assert "1 post of more.csv also stands" in text


def test_labels_of_fields_in_a_further_table_teach(
    zoo: Zoo, tmp_path: Path, posts: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(monkeypatch)
    rows = [{"text": text, "label:text": votes} for text, votes in zip(OTHER, ["a|a|b", "a", "b", "b"], strict=True)]
    other = table(tmp_path / "t", rows)
    run = fit_posts(posts, tiny_config(zoo, tmp_path / "c", tune="frozen", also=other)).run
    assert run.task.name == "annotated"
    assert run.classes == ("class0", "class1")
    data = kept.data[0]
    assert (data.learned[data.rows].sum(axis=1) > 0.99).all()
    assert (data.targets[data.rows[-4:]] == -1).all()


@pytest.mark.parametrize("how", ["distill", "soup"])
def test_members_are_chosen_and_scored_by_posts_of_the_main_table(
    zoo: Zoo, tmp_path: Path, posts: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    scored: set[int] = set()
    watch = SingleLabel.watch

    def watched(task: SingleLabel, targets: np.ndarray, found: np.ndarray) -> Any:
        scored.add(len(targets))
        return watch(task, targets, found)

    monkeypatch.setattr(SingleLabel, "watch", watched)
    settings = {"tune": "top", "epochs": 1, "probe_epochs": 1, "members": 2, how: True}
    rows = texts(*(f"{text} {i}" for i in range(10) for text in OTHER))
    run = fit_posts(posts, tiny_config(zoo, tmp_path / "c", also=table(tmp_path / "t", rows), **settings)).run
    counts = run.metrics["posts"]
    assert counts["train"] + counts["held_out"] == 64
    chosen_on = 24 if how == "distill" else run.metrics["members"]["chosen_on"]
    assert scored == {chosen_on}
    assert how == "distill" or chosen_on <= 6


def test_a_checkpoint_is_not_resumed_with_another_table(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame) -> None:
    config = tiny_config(zoo, tmp_path / "c", tune="frozen", also=table(tmp_path / "t", texts(*OTHER)))
    fit_posts(posts, config, callbacks=[CheckpointCallback(tmp_path / "k", resume=False)])
    table(tmp_path / "t", texts(*OTHER[:3], "bad bad bad"))
    with pytest.raises(RunError, match="begun with other posts of .*other.csv"):
        fit_posts(posts, config, callbacks=[CheckpointCallback(tmp_path / "k", resume=True)])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"id": 1, "caption": "a", "label": "class0"}], r"other.csv has no column of a field \('text', 'image'\)"),
        ([{"id": 1, "text": "a", "class": "class0"}], "no column of labels .'label', 'label:text', 'label:image'"),
        ([*texts("one"), {"id": "x", "text": "a", "label": "odd"}], "row 2 of other.csv has the label 'odd'"),
        ([{"id": 1, "text": "a", "label": "class0"}] * 2, "id '1' occurs in rows 1, 2"),
    ],
)  # fmt: skip
def test_tables_that_cannot_join_are_refused(
    zoo: Zoo, tmp_path: Path, posts: pd.DataFrame, rows: list[dict[str, Any]], words: str
) -> None:
    config = tiny_config(zoo, tmp_path / "c", tune="frozen", also=table(tmp_path / "t", rows))
    with pytest.raises(DataError, match=words):
        fit_posts(posts, config)


def test_a_table_joins_once_and_not_itself(tmp_path: Path, posts: pd.DataFrame) -> None:
    other = table(tmp_path, texts(*OTHER))
    with pytest.raises(DataError, match="is given twice"):
        with_also(posts, [other, str(tmp_path / ".." / tmp_path.name / "other.csv")], ColumnNames())
    with pytest.raises(DataError, match="is the posts table itself"):
        with_also(posts, [other], ColumnNames(), main=Path(other))
    with pytest.raises(DataError, match="absent.csv"):
        with_also(posts, [str(tmp_path / "absent.csv")], ColumnNames())


def test_joined_posts_keep_their_table_and_their_paths(tmp_path: Path, posts: pd.DataFrame) -> None:
    rows = [{"caption": "a", "image": "x/y.png", "label": "class0"}, {"caption": None, "image": None, "label": None}]
    other = table(tmp_path / "sub", rows)
    found = with_also(posts.assign(weight=2.0), [other], ColumnNames(text="caption"), weight=0.25)
    assert is_own(found).tolist() == [True] * 24 + [False] * 2
    assert found["image"].iloc[24] == str(tmp_path / "sub" / "x" / "y.png")
    assert found["weight"].tolist() == [2.0] * 24 + [0.25] * 2
    assert found["row"].iloc[-1] == "2 of other.csv"
    assert found.iloc[-1][["image", "label", "group", "error"]].tolist() == [None] * 4
    assert own_posts(found)["id"].tolist() == posts["id"].tolist()
    assert np.asarray(found[ALSO].iloc[24:] == other).all()


def test_the_classifier_takes_further_tables(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame) -> None:
    rows = [{"text": text, "label": label} for text, label in zip(OTHER, [0, 0, 1, 1], strict=True)]
    settings = tiny_settings(zoo, tmp_path / "c", tune="frozen", also=[table(tmp_path / "t", rows)])
    model = clone(JointClassifier(**settings)).fit(posts[["text", "image"]], [0, 1] * 12)
    assert model.run_.metrics["posts"]["train"] == 28
    assert model.classes_.tolist() == [0, 1]
    with pytest.raises(DataError, match="absent.csv does not exist"):
        JointClassifier(**{**settings, "also": ["absent.csv"]}).fit(posts[["text", "image"]], [0, 1] * 12)


def test_settings_take_one_table_or_several() -> None:
    assert make_config({"also": "a.csv"}).also == ("a.csv",)
    assert make_config({"also": ["a.csv", "b.csv"]}).also == ("a.csv", "b.csv")
