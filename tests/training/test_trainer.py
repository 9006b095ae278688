"""From prepared posts to a trained model: every way of tuning, validation, interruption and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from cotune.errors import ConfigError, RunError
from cotune.metrics import roc_auc
from cotune.progress import Progress
from cotune.settings import FitConfig, make_config
from cotune.tasks.single_label import SingleLabel
from cotune.training.build import open_encoders, prepare_posts
from cotune.training.callbacks import Callback, CheckpointCallback, HistoryCallback
from cotune.training.device import make_fabric
from cotune.training.features import Features
from cotune.training.model_rows import predict_rows
from cotune.training.trainer import Trained, Trainer
from cotune.training.training_data import HeldOut, TrainingData
from tiny import IMAGES, TEXTS, PostsMaker, Zoo, labels_of, same_weights, weights_of

RAW = {"text": "raw", "image": "raw"}
TUNES = ("joint", "top", "lora", "frozen")


class Bench:
    """Prepared posts and the settings that fit them."""

    def __init__(self, zoo: Zoo, posts: pd.DataFrame, text: str = "distilbert", image: str = "timm-resnet") -> None:
        self.posts = posts
        self.labels = labels_of(posts)
        self.task = SingleLabel([f"class{i}" for i in range(int(self.labels.max()) + 1)])
        self.names = {"text_encoder": str(zoo(text)), "image_encoder": str(zoo(image))}
        config = self.config()
        self.features: Features = prepare_posts(posts, open_encoders(config), config)
        self.before = {name: weights_of(encoder.model) for name, encoder in self.features.encoders.items()}

    def config(self, **settings: Any) -> FitConfig:
        small: dict[str, Any] = {
            "width": 8, "heads": 2, "batch_size": 4, "probe_batch_size": 4, "probe_epochs": 2, "epochs": 2, "min_epochs": 2, "device": "cpu",
            "tune": "joint",
        }  # fmt: skip
        return make_config({**self.names, **small, **settings})

    def trainer(
        self,
        rows: np.ndarray | None = None,
        *,
        held_out: HeldOut | None = None,
        callbacks: tuple[Callback, ...] = (),
        progress: Progress | None = None,
        **settings: Any,
    ) -> Trainer:
        rows = np.arange(len(self.posts)) if rows is None else rows
        data = TrainingData(self.features, self.labels, rows, held_out=held_out)
        return Trainer(data, self.task, self.config(**settings), callbacks=callbacks, progress=progress)

    def fit(self, rows: np.ndarray | None = None, **more: Any) -> Trained:
        return self.trainer(rows, **more).fit()

    def held(self, rows: np.ndarray) -> HeldOut:
        return HeldOut(self.features, self.labels, rows)

    def changed(self, trained: Trained, field: str) -> set[str]:
        after = weights_of(trained.model.encoders[field].model)
        assert after.keys() == self.before[field].keys()
        return {name for name, tensor in after.items() if not torch.equal(tensor, self.before[field][name])}

    def proba(self, trained: Trained, source: dict[str, Any]) -> np.ndarray:
        return predict_rows(trained.model, self.task, self.features, np.arange(len(self.posts)), source)


@pytest.fixture
def bench(zoo: Zoo, new_posts: PostsMaker) -> Bench:
    return Bench(zoo, new_posts(12))


# ---- any text encoder with any image encoder ---------------------------------------------------------


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    from tiny import make_posts

    return make_posts(tmp_path_factory.mktemp("eight"), 8)


MATRIX = [(text, image) for text in TEXTS[:6] for image in IMAGES[:5]]
MATRIX += [("modernbert", IMAGES[5]), ("electra", IMAGES[6]), ("modernbert", IMAGES[7]), ("electra", IMAGES[8])]


@pytest.mark.parametrize(("text", "image"), MATRIX)
def test_joint_training_reaches_both_encoders(zoo: Zoo, eight: pd.DataFrame, text: str, image: str) -> None:
    """Two steps; weight decay is off, so that what changes has had a gradient."""
    bench = Bench(zoo, eight, text, image)
    trained = bench.fit(probe_epochs=0, epochs=1, min_epochs=1, weight_decay=0.0, modality_dropout=0.0)
    for field in ("text", "image"):
        encoder = trained.model.encoders[field]
        changed = bench.changed(trained, field)
        for unit in encoder.units:
            assert any(name.startswith(unit + ".") for name in changed), f"{unit} of {field} has not moved"
        depths = encoder.depths()
        assert any(depths.get(name) == 0 for name in changed), "not even the lowest layer is left out"
    assert np.isfinite(trained.history[-1]["train_loss"])


PAIRS = [("deberta-v2", "swin"), ("mpnet", "resnet"), ("modernbert", "timm-efficientnet"), ("electra", "dinov2")]


@pytest.mark.parametrize(("text", "image"), PAIRS)
def test_top_trains_the_upper_part_on_kept_activations(
    zoo: Zoo, eight: pd.DataFrame, text: str, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(zoo, eight, text, image)
    trained = bench.fit(tune="top", weight_decay=0.0, lr_text=1e-3, lr_image=1e-3)
    for field in ("text", "image"):
        encoder = trained.model.encoders[field]
        changed = bench.changed(trained, field)
        assert changed
        assert changed <= encoder.upper_parameters()
        pretrained = dict(bench.features.encoders[field].model.named_parameters())
        for name, parameter in encoder.model.named_parameters():
            shared = parameter.data_ptr() == pretrained[name].data_ptr()
            assert shared == (name not in encoder.upper_parameters()), name
    for field, source in trained.source.items():
        assert source == f"hidden:{trained.model.encoders[field].n_lower}"
    # The whole network on raw posts says what the upper part says on kept activations.
    np.testing.assert_allclose(bench.proba(trained, trained.source), bench.proba(trained, RAW), atol=5e-3)


def test_models_cut_at_different_depths_share_features(zoo: Zoo, eight: pd.DataFrame) -> None:
    """The activations of the second do not take the place of the first's."""
    bench = Bench(zoo, eight, "modernbert", "dinov2")
    first, second = (bench.fit(tune="top", text_top=top, image_top=top, epochs=1, min_epochs=1) for top in (1, 2))
    assert first.source != second.source
    for trained in (first, second):
        np.testing.assert_allclose(bench.proba(trained, trained.source), bench.proba(trained, RAW), atol=5e-3)


@pytest.mark.parametrize(("text", "image"), [("bert", "timm-resnet"), *PAIRS])
def test_lora_trains_both_and_leaves_plain_networks(zoo: Zoo, eight: pd.DataFrame, text: str, image: str) -> None:
    bench = Bench(zoo, eight, text, image)
    trained = bench.fit(tune="lora", lr_text=1e-2, lr_image=1e-2)
    for field in ("text", "image"):
        changed = bench.changed(trained, field)
        assert changed
        assert not any("norm" in name.lower() or name.endswith("bias") for name in changed)
    assert not [name for name, _ in trained.model.named_modules() if "lora" in name]


@pytest.mark.parametrize("head", ["attention", "reference", "concat", "text", "image"])
@pytest.mark.parametrize("tune", TUNES)
def test_every_head_with_every_way_of_tuning(zoo: Zoo, eight: pd.DataFrame, head: str, tune: str) -> None:
    bench = Bench(zoo, eight)
    trained = bench.fit(tune=tune, fusion=head, probe_epochs=1, epochs=1, min_epochs=1)
    stages = [row["stage"] for row in trained.history]
    assert stages == (["probe"] if tune == "frozen" else ["probe", tune])
    proba = bench.proba(trained, trained.source)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert not trained.model.training
    assert not any(p.requires_grad for p in trained.model.parameters())


# ---- what each way of tuning leaves alone ------------------------------------------------------------


def test_frozen_leaves_the_encoders_bitwise_unchanged(bench: Bench) -> None:
    trained = bench.fit(tune="frozen")
    assert bench.changed(trained, "text") == bench.changed(trained, "image") == set()
    assert trained.source == {"text": "pooled", "image": "pooled"}
    np.testing.assert_allclose(bench.proba(trained, trained.source), bench.proba(trained, RAW), atol=1e-5)


@pytest.mark.parametrize("tune", TUNES)
def test_the_pretrained_encoders_of_the_features_stay_untouched(bench: Bench, tune: str) -> None:
    marks = {name: encoder.fingerprint() for name, encoder in bench.features.encoders.items()}
    trained = bench.fit(tune=tune)
    for name, encoder in bench.features.encoders.items():
        assert same_weights(weights_of(encoder.model), bench.before[name])
        assert encoder.n_lower == 0
        assert encoder.fingerprint() == marks[name]
        if tune != "frozen":
            assert trained.model.encoders[name].fingerprint() != marks[name]


def test_batch_norm_statistics_stay_as_they_were_pretrained(zoo: Zoo, new_posts: PostsMaker) -> None:
    bench = Bench(zoo, new_posts(8), image="timm-efficientnet")
    for tune in ("joint", "top", "lora"):
        changed = bench.changed(bench.fit(tune=tune), "image")
        assert not [name for name in changed if "running" in name or "tracked" in name], tune


def test_moving_batch_norms_of_top_are_those_above_the_cut(zoo: Zoo, new_posts: PostsMaker) -> None:
    bench = Bench(zoo, new_posts(8), image="timm-efficientnet")
    trained = bench.fit(tune="top", freeze_batch_norm="no", image_top=1)
    moved = {name for name in bench.changed(trained, "image") if "running" in name}
    last = trained.model.encoders["image"].units[-1]
    assert moved
    assert not [name for name in moved if name.startswith("blocks.") and not name.startswith(last + ".")]
    assert not [name for name in moved if name.startswith("bn1")]


def test_equal_settings_equal_numbers_whatever_ran_before(zoo: Zoo, new_posts: PostsMaker) -> None:
    """Neither a cache that another way of tuning has filled nor the state of the random numbers matters."""
    posts = new_posts(12)
    first = {tune: Bench(zoo, posts).fit(tune=tune) for tune in TUNES}
    shared = Bench(zoo, posts)
    for tune in reversed(TUNES):
        torch.randn(3)
        again = shared.fit(tune=tune)
        assert same_weights(weights_of(again.model), weights_of(first[tune].model)), tune
        for one, two in zip(first[tune].history, again.history, strict=True):
            assert one["train_loss"] == two["train_loss"]
    other = shared.fit(tune="joint", seed=7)
    assert not same_weights(weights_of(other.model), weights_of(first["joint"].model))


# ---- does it learn? ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", ["joint", "top", "lora", "frozen"])
def test_separable_posts_are_learned(zoo: Zoo, new_posts: PostsMaker, tune: str) -> None:
    bench = Bench(zoo, new_posts(24, gaps=False))
    trained = bench.fit(
        tune=tune, probe_epochs=30, probe_lr=1e-2, epochs=8, batch_size=8, dropout=0.0, modality_dropout=0.0,
        lr_head=3e-3, lr_text=1e-3, lr_image=1e-3,
    )  # fmt: skip
    assert roc_auc(bench.labels, bench.proba(trained, trained.source)) == 1.0
    assert roc_auc(bench.labels, bench.proba(trained, RAW)) == 1.0


def test_three_classes_one_of_them_rare(zoo: Zoo, new_posts: PostsMaker) -> None:
    bench = Bench(zoo, new_posts(15, classes=3, gaps=False))
    rows = np.asarray([0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 2])
    trained = bench.fit(rows, class_weights="balanced")
    assert bench.proba(trained, trained.source).shape == (15, 3)


def test_balanced_class_weights_have_mean_one_over_the_posts(bench: Bench) -> None:
    rows = np.asarray([0, 2, 4, 1])
    weights = bench.trainer(rows, class_weights="balanced").loss.mean.weight.numpy()
    np.testing.assert_allclose(weights, [4 / 6, 2])
    assert weights[bench.labels[rows]].mean() == pytest.approx(1)


def test_a_class_without_training_posts(bench: Bench) -> None:
    trained = bench.fit(np.asarray([0, 2, 6, 8]), class_weights="balanced", epochs=1, min_epochs=1)
    assert np.isfinite(bench.proba(trained, trained.source)).all()


def test_one_training_post(bench: Bench) -> None:
    assert np.isfinite(bench.fit(np.asarray([3])).history[-1]["train_loss"])


# ---- validation --------------------------------------------------------------------------------------


def test_validation_rows_choose_the_best(bench: Bench) -> None:
    held = bench.held(np.asarray([8, 9, 10, 11]))
    trained = bench.fit(np.arange(8), held_out=held, stop="validation", epochs=4, min_epochs=4, lr_head=0.01)
    joint = [row["validation_auc"] for row in trained.history if row["stage"] == "joint"]
    score = roc_auc(bench.labels[8:], bench.proba(trained, RAW)[8:])
    assert score >= max(joint) - 1e-9


@pytest.mark.parametrize("tune", ["joint", "top", "frozen"])
def test_a_validation_table_of_its_own(zoo: Zoo, new_posts: PostsMaker, bench: Bench, tune: str) -> None:
    other = Bench(zoo, new_posts(8, seed=3))
    trained = bench.fit(held_out=other.held(np.arange(8)), stop="validation", tune=tune)
    assert all(row["validation_auc"] is not None for row in trained.history)


# ---- interrupted and resumed -------------------------------------------------------------------------


def checkpoint(folder: Path, *, resume: bool = False, **key: Any) -> CheckpointCallback:
    """Return what keeps the state of a training made of `key`."""
    callback = CheckpointCallback(folder, resume=resume)
    callback.on_begin(key or {"a": 1})
    return callback


class Killed(RuntimeError):
    """Stands for the end of the process."""


def kill_after(n: int, fault: BaseException) -> Any:
    """Return a hook that ends the run once `n` epochs, of all stages, are done."""

    def hook(history: list[dict[str, Any]]) -> None:
        if len(history) == n:
            raise fault

    return hook


SETTINGS: dict[str, dict[str, Any]] = {
    "joint": {"ema": 0.5},
    "top": {"stop": "validation"},
    "lora": {},
    "frozen": {"probe_epochs": 5},
}


# In the midst of a stage, between two, and after the last epoch.
KILLS = [*(("joint", n) for n in (1, 2, 3, 5)), ("top", 2), ("top", 4), ("lora", 2), ("lora", 4), ("frozen", 3)]


@pytest.mark.parametrize(("tune", "epochs_done"), KILLS)
def test_resumed_equals_uninterrupted(
    zoo: Zoo, new_posts: PostsMaker, tmp_path: Path, tune: str, epochs_done: int
) -> None:
    bench = Bench(zoo, new_posts(12))
    settings = {"tune": tune, "epochs": 3, "min_epochs": 3, **SETTINGS[tune]}
    rows, held = np.arange(9), np.arange(9, 12)
    whole = bench.fit(rows, held_out=bench.held(held), **settings)
    assert len(whole.history) == 5
    fault = Killed()
    with pytest.raises(Killed):
        kept = (checkpoint(tmp_path / "state"), HistoryCallback(kill_after(epochs_done, fault)))
        bench.fit(rows, held_out=bench.held(held), callbacks=kept, **settings)
    later = Bench(zoo, bench.posts)
    again = (checkpoint(tmp_path / "state", resume=True),)
    resumed = later.fit(rows, held_out=later.held(held), callbacks=again, **settings)
    assert same_weights(weights_of(resumed.model), weights_of(whole.model))
    for one, two in zip(whole.history, resumed.history, strict=True):
        assert {k: one[k] for k in ("stage", "epoch", "train_loss", "validation_auc")} == {
            k: two[k] for k in ("stage", "epoch", "train_loss", "validation_auc")
        }


def test_resuming_in_float16_goes_on_with_its_scaling(
    zoo: Zoo, new_posts: PostsMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fabric(config: FitConfig) -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=3e38)  # far too much: steps are left out until it has fallen
        return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))

    monkeypatch.setattr("cotune.training.trainer.make_fabric", fabric)
    bench = Bench(zoo, new_posts(12))
    settings = {"tune": "frozen", "probe_epochs": 8}
    whole = bench.fit(**settings)
    with pytest.raises(Killed):
        bench.fit(callbacks=(checkpoint(tmp_path / "state"), HistoryCallback(kill_after(6, Killed()))), **settings)
    again = checkpoint(tmp_path / "state", resume=True)
    resumed = bench.fit(callbacks=(again,), **settings)
    last = again.last("probe")
    assert last is not None
    assert 1 <= last.precision["scale"] < 3e38
    assert same_weights(weights_of(resumed.model), weights_of(whole.model))


def test_resuming_a_finished_run_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    first = bench.fit(callbacks=(checkpoint(tmp_path / "s"),))
    second = bench.fit(callbacks=(checkpoint(tmp_path / "s", resume=True),))
    assert same_weights(weights_of(first.model), weights_of(second.model))
    assert len(second.history) == len(first.history)


def test_resuming_without_a_checkpoint_starts_anew(bench: Bench, tmp_path: Path) -> None:
    trained = bench.fit(callbacks=(checkpoint(tmp_path / "s", resume=True),))
    assert len(trained.history) == 4


def test_resuming_with_other_settings_is_refused(bench: Bench, tmp_path: Path) -> None:
    bench.fit(callbacks=(checkpoint(tmp_path / "s", seed=1),))
    with pytest.raises(RunError, match="begun with other seed"):
        bench.fit(callbacks=(checkpoint(tmp_path / "s", resume=True, seed=2),))


@pytest.mark.parametrize("tune", ["joint", "top", "lora"])
@pytest.mark.parametrize("epochs_done", [1, 2, 3])
def test_ctrl_c_leaves_the_model_of_the_last_finished_epoch(
    zoo: Zoo, new_posts: PostsMaker, tmp_path: Path, tune: str, epochs_done: int
) -> None:
    """The user stops it in the middle of the epoch that follows."""
    bench = Bench(zoo, new_posts(12))

    class Impatient(Progress):
        epochs = 0

        def track(self, items: Any, what: str, total: int) -> Any:
            stage = "epoch" in what
            self.epochs += stage
            for i, item in enumerate(items):
                if stage and self.epochs > epochs_done and i == 1:
                    raise KeyboardInterrupt
                yield item

    kept: list[Any] = []
    settings = {"tune": tune, "epochs": 3, "min_epochs": 3, "lr_text": 1e-3, "lr_image": 1e-3}
    callbacks = (checkpoint(tmp_path / "s"), HistoryCallback(lambda history: kept.append(list(history))))
    stopped = bench.fit(callbacks=callbacks, progress=Impatient(), **settings)
    assert stopped.interrupted
    assert [(row["stage"], row["epoch"]) for row in stopped.history] == [
        (row["stage"], row["epoch"]) for row in kept[-1]
    ]
    assert len(stopped.history) == epochs_done
    if epochs_done <= 2:  # the probe alone is done
        assert bench.changed(stopped, "text") == bench.changed(stopped, "image") == set()
    assert np.isfinite(bench.proba(stopped, RAW)).all()
    whole = bench.fit(**settings)
    resumed = bench.fit(callbacks=(checkpoint(tmp_path / "s", resume=True),), **settings)
    assert same_weights(weights_of(resumed.model), weights_of(whole.model))


def test_ctrl_c_before_anything_is_done(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    bench.fit(callbacks=(checkpoint(tmp_path / "s", run="older"),))
    monkeypatch.setattr(Trainer, "run_stage", stop)
    with pytest.raises(KeyboardInterrupt):
        bench.fit(callbacks=(checkpoint(tmp_path / "s"),))
    with pytest.raises(KeyboardInterrupt):
        bench.fit()


# ---- what cannot be done -----------------------------------------------------------------------------


def test_nothing_to_train(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="nothing would be trained"):
        bench.fit(tune="frozen", probe_epochs=0)


def test_half_precision_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="--precision 16 is not available on a CPU"):
        make_fabric(make_config({"precision": "16", "device": "cpu"}))
