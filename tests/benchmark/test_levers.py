"""The benchmark script that measures levers of training one by one."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from cotune.benchmark.folds import FILE, Folds
from cotune.errors import ConfigError
from cotune.model import JointModel
from cotune.settings import FitConfig, make_config
from cotune.tasks import make_task
from cotune.training.build import open_encoders, prepare_posts
from cotune.training.kept import Kept
from cotune.training.model_rows import predict_rows
from cotune.training.trainer import Trainer
from cotune.training.training_data import TrainingData
from runs import tiny_config, write_table
from tiny import Zoo, labels_of, make_posts

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
#: Two of them only score what the others train.
TRIED = ("baseline", "views-test", "views", "views-train", "words", "vader", "image-text", "sam", "confident",
         "weights+smoothing+whole")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def on_path() -> Iterator[None]:
    """Let the scripts find one another, as they do when they are run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield


def script(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write posts with a text and an image each, and the prepared columns beside them."""
    folder = tmp_path_factory.mktemp("levers")
    posts = make_posts(folder / "images", 36, gaps=False, classes=3)
    texts = posts["text"].tolist()
    pd.DataFrame(
        {
            "id": posts["id"],
            "text_hashtags": texts,
            "text_words": [f"{text} so" for text in texts],
            **{name: np.linspace(0, 1, 36) for name in script("lever_recipes").VADER},
            "image_text": ["happy day" if i % 3 else "" for i in range(36)],
        }
    ).to_csv(folder / "columns.csv", index=False)
    return write_table(posts, folder / "posts.csv")


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["levers.py", *map(str, words)])
    script("levers").main()


def settings(zoo: Zoo, cache: Path, **more: Any) -> list[str]:
    """Return the flags that make trainings short, on a CPU."""
    config = tiny_config(zoo, cache, probe_epochs=2, epochs=1, min_epochs=1, **more)
    return [f"--set={name}={getattr(config, name)}" for name in config.model_fields_set if name != "folds_group"]


def test_levers_are_trained_once_and_compared(
    zoo: Zoo, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["train", table, "--columns", table.parent / "columns.csv", "--out", out, "--n-folds", 3]
    words += [*settings(zoo, tmp_path / "cache"), "--levers"]
    tried = [",".join((*TRIED, "hashtags", "emoji")), "--folds", 0]
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, *words, *tried)
    said = capsys.readouterr().out
    assert left.value.code == 0, said
    assert "hashtags is left out: it changes the text of no post" in said
    assert "emoji is left out: no column text_emoji" in said
    assert f"{len(TRIED) - 2} trained, 0 failed" in said
    assert len(list((out / "cells").iterdir())) == len(TRIED)
    for more, trainings in ((tried, 0), (["baseline,words", "--folds", "0,2"], 2)):
        with pytest.raises(SystemExit):
            run(monkeypatch, *words, *more)
        assert f"{trainings} trainings, 1 at once" in capsys.readouterr().out

    run(monkeypatch, "table", out, "--bootstrap", 200)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line for line in lines[2:] if line}
    assert next(iter(rows)) == "baseline"
    assert set(rows) == set(TRIED)
    assert {name for name, row in rows.items() if row[2] == "2 x 1"} == {"baseline", "words"}
    assert rows["words"][8].endswith("of 2")
    assert rows["words"][7]  # a test over folds needs two
    assert rows["sam"][7] == ""
    folds = Folds.load(out / FILE)
    scored = np.concatenate([folds.test(0), folds.test(2)])
    proba = np.concatenate([np.load(out / "cells" / f"baseline-fold{fold}-seed42.npz")["proba"] for fold in (0, 2)])
    expected = folds.task.score(folds.targets[scored], proba)
    assert rows["baseline"][3].startswith(f"{expected['auc']:.4f} [")
    assert rows["baseline"][4].startswith(f"{expected['accuracy']:.4f} [")

    with pytest.raises(SystemExit, match="other posts, folds or settings"):
        run(monkeypatch, *words, *tried, "--set=width=32")


def test_held_features_train_the_same_model_and_compute_nothing_twice(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posts = make_posts(tmp_path / "images", 24)
    config = tiny_config(zoo, tmp_path / "cache")
    targets, task = labels_of(posts), make_task("single-label", posts["label"].tolist())
    rows, test = np.arange(16), np.arange(16, 24)

    def trained(features: Any, settings: FitConfig = config) -> np.ndarray:
        found = Trainer(TrainingData(features, targets, rows), task, settings).fit()
        return predict_rows(found.model, task, features, test, found.source)

    plain = trained(prepare_posts(posts, open_encoders(config), config))
    filled = []
    fill = Kept._fill
    monkeypatch.setattr(Kept, "_fill", lambda self, *args, **more: (filled.append(args[1]), fill(self, *args, **more)))
    opened = script("lever_features").Opened(posts, config)
    features = opened.features(script("lever_recipes").LEVERS["baseline"].fields, ("crop",))
    np.testing.assert_array_equal(trained(features), plain)
    views = opened.features(script("lever_recipes").LEVERS["baseline"].fields, ("crop", "flip"))
    assert filled == []
    np.testing.assert_array_equal(trained(views), plain)  # it shows the first view until it is told otherwise
    assert filled == ["image", "image"]  # activations and embeddings of the mirror images
    trained(views)
    assert len(filled) == 2
    frozen = config.model_copy(update={"tune": "frozen"})
    first = trained(features, frozen)
    trained(features)
    np.testing.assert_array_equal(trained(features, frozen), first)  # embeddings of whole encoders, not of cut ones


def test_views_show_what_they_say(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "images", 12)
    config = tiny_config(zoo, tmp_path / "cache")
    there = np.flatnonzero(posts["image"].notna())
    fields = script("lever_recipes").LEVERS["baseline"].fields
    features = script("lever_features").Opened(posts, config).features(fields, ("crop", "flip", "whole"))
    encoder = features.encoders["image"]
    source = {"image": features.compute("image", "pooled", encoder)}
    pixels = torch.from_numpy(np.stack([features.fields["image"]._image(i) for i in there]))  # type: ignore[attr-defined]
    expected = []
    for shown in (pixels, pixels.flip(3)):
        with torch.inference_mode():
            expected.append(encoder({"pixels": shown}).pooled)
    for view, embedded in enumerate(expected):
        features.kept.show = view  # type: ignore[attr-defined]
        torch.testing.assert_close(features.batch(there, source).inputs["image"]["pooled"], embedded)
    features.kept.show = 2  # type: ignore[attr-defined]
    whole = features.batch(there, source).inputs["image"]["pooled"]
    assert not torch.allclose(whole, expected[0])
    features.kept.show = (np.random.default_rng(0), [0, 1])  # type: ignore[attr-defined]
    mixed = features.batch(there, source).inputs["image"]["pooled"]
    from_crop, from_flip = ((mixed - one).abs().amax(dim=1) < 1e-4 for one in expected)
    assert (from_crop | from_flip).all()
    assert from_crop.any()
    assert from_flip.any()


class Line(JointModel):
    """A model of one weight whose loss is its fourth power."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.tensor([2.0]))

    def forward(self, batch: Any, loss: Any = None) -> Tensor:
        return (self.weight**4).sum()


@pytest.mark.parametrize(("adaptive", "at"), [(False, 2.5), (True, 2 + 0.5 * 2)])
def test_sharp_steps_take_the_gradient_uphill(adaptive: bool, at: float, monkeypatch: pytest.MonkeyPatch) -> None:
    sharp = script("lever_recipes").Sharp
    model = Line()
    model.reach, model.adaptive, model.moved = 0.5, adaptive, ([], [])  # type: ignore[assignment]
    monkeypatch.setattr(script("lever_recipes").JointModel, "forward", Line.forward)
    sharp.tuned(model, None, None).backward()
    assert model.weight.item() == pytest.approx(at)
    assert model.weight.grad is not None
    assert model.weight.grad.item() == pytest.approx(4 * at**3, rel=1e-4)
    sharp.before_step(model)
    assert model.weight.item() == pytest.approx(2.0)


def test_r_drop_is_the_plain_loss_where_nothing_is_dropped(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "images", 12)
    targets, task = labels_of(posts), make_task("single-label", posts["label"].tolist())

    def loss_of(model: str, **more: Any) -> float:
        config: FitConfig = tiny_config(zoo, tmp_path / "cache", epochs=1, probe_epochs=1, **more)
        features = prepare_posts(posts, open_encoders(config), config)
        recipes = script("lever_recipes")
        trainer = recipes.LeverTrainer(
            TrainingData(features, targets, np.arange(12)), task, config, model=recipes.LEVERS[model].model
        )
        for encoder in trainer.model.distinct_encoders.values():
            for module in encoder.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        loss: float = trainer.fit().history[-1]["train_loss"]
        return loss

    still = {"dropout": 0.0, "modality_dropout": 0.0}
    assert loss_of("r-drop", **still) == pytest.approx(loss_of("baseline", **still), rel=1e-4)
    assert loss_of("r-drop") != pytest.approx(loss_of("baseline"), rel=1e-4)


def test_every_lever_changes_something_that_there_is() -> None:
    levers, plain = script("lever_recipes").LEVERS, FitConfig()
    for name, one in levers.items():
        changed = make_config(one.settings).model_dump(exclude_unset=True)
        assert all(getattr(plain, key) != value for key, value in changed.items() if key != "min_epochs"), name
        assert set(one.seen) <= set(script("lever_features").VIEWS)
        assert name == "baseline" or one != replace(levers["baseline"], title=one.title)


def test_levers_join_unless_they_contradict() -> None:
    lever = script("lever_recipes").lever
    both = lever("rate-half+smoothing+views+words")
    assert both.settings == {**lever("rate-half").settings, **lever("smoothing").settings}
    assert (both.views, both.text) == (lever("views").views, "text_words")
    for clash in ("rate-half+rate-double", "words+image-text-joined", "sam+r-drop"):
        with pytest.raises(ConfigError, match="both change"):
            lever(clash)
    with pytest.raises(ConfigError, match="did you mean 'views'"):
        lever("viewes")


def test_columns_are_made_and_read_back(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = script("lever_columns")
    monkeypatch.setattr(columns, "splitter", lambda: lambda text: columns._HASHTAG.sub(r"\1", text))
    monkeypatch.setattr(columns, "namer", lambda: lambda text: text.replace("\N{SNOWMAN}", "snowman"))
    monkeypatch.setattr(columns, "scorer", lambda: lambda text: dict.fromkeys(("neg", "neu", "pos", "compound"), 0.5))
    texts = ["a #good \N{SNOWMAN}", None]
    posts = pd.DataFrame({"id": ["1", "2"], "text": texts, "image": None, "label": "x", "row": [1, 2]}, dtype=object)
    pd.DataFrame({"id": ["2"], "image_text": ["NA"]}).to_csv(tmp_path / "read.csv", index=False)
    columns.prepare(posts, tmp_path / "read.csv", tmp_path / "columns.csv")
    found = columns.with_columns(posts.iloc[::-1].reset_index(drop=True), tmp_path / "columns.csv").set_index("id")
    assert found["text_words"].tolist() == ["", "a good snowman"]
    assert found["image_text"].tolist() == ["NA", ""]
    assert found["text_image_text"].tolist() == ["NA", texts[0]]
    assert found["table"]["2"] != found["table"]["1"]


def test_text_of_images_is_read_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    posts = make_posts(tmp_path / "images", 6)
    (tmp_path / "images" / "1.png").write_bytes(b"no image")
    seen = []

    def read(pixels: np.ndarray) -> str:
        seen.append(pixels.shape)
        return "so, happy"

    out = tmp_path / "read.csv"
    reading = script("read_image_text")
    reading.read_all(posts.iloc[:3], out, read)
    reading.read_all(posts, out, read)
    assert len(seen) == 4  # of six posts one has no image, and one a broken one
    found = pd.read_csv(out, keep_default_na=False).set_index("id")["image_text"]
    assert found.to_dict() == {"p0": "so, happy", "p1": "", "p2": "so, happy", "p3": "so, happy", "p4": "so, happy"}
    assert "3 images read, 2 to go" in capsys.readouterr().out
