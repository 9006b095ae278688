"""A stage of training: epochs, steps, what is kept of them, and when it ends."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cotune.encoders.prepared import ReadOptions
from cotune.errors import ConfigError
from cotune.heads import make_head
from cotune.metrics import roc_auc
from cotune.model import Batch, JointModel
from cotune.progress import Progress
from cotune.settings import make_config
from cotune.tasks import Watched
from cotune.tasks.single_label import SingleLabel
from cotune.training.callbacks import Callback, History
from cotune.training.features import Features, prepare
from cotune.training.model_rows import predict_rows
from cotune.training.parameters import set_gradients
from cotune.training.stages import Stage, StageState, learning_rate_factor, make_stages
from cotune.training.trainer import Trainer
from cotune.training.training_data import HeldOut, TrainingData
from tiny import PostsMaker, Zoo, labels_of, same_weights, weights_of

POOLED = {"text": "pooled", "image": "pooled"}
RAW = {"text": "raw", "image": "raw"}


class Told(Callback):
    """Hands the state on after every epoch."""

    def __init__(self, on_epoch: Callable[[StageState], object]) -> None:
        self.on_epoch = on_epoch

    def on_epoch_end(self, stage: Stage, state: StageState, history: History) -> None:
        self.on_epoch(state)


class Bench:
    """Everything that a stage needs."""

    def __init__(self, zoo: Zoo, posts: Any, cache: Path, *, image: str = "timm-resnet") -> None:
        encoders = zoo.pair("distilbert", image)
        self.features: Features = prepare(posts, encoders, ReadOptions(root=cache, max_bytes=10**9))
        for name, encoder in encoders.items():
            self.features.compute(name, "pooled", encoder)
        self.labels = labels_of(posts)
        self.rows = np.arange(len(posts))
        self.task = SingleLabel([f"class{i}" for i in range(int(self.labels.max()) + 1)])
        torch.manual_seed(0)
        dims = {name: encoder.dim for name, encoder in encoders.items()}
        head = make_head("attention", dims, self.task.n_outputs, width=8, heads=2, dropout=0.0, modality_dropout=0.0)
        self.model = JointModel(encoders, head, self.task)

    def held(self, rows: np.ndarray) -> HeldOut:
        return HeldOut(self.features, self.labels, rows)

    def run(
        self,
        stage: Stage,
        *,
        rows: np.ndarray | None = None,
        held_out: HeldOut | None = None,
        state: StageState | None = None,
        on_epoch: Callable[[StageState], object] | None = None,
        progress: Progress | None = None,
        weights: np.ndarray | None = None,
        **settings: Any,
    ) -> tuple[JointModel, StageState]:
        """Train a copy of the model for one stage."""
        config = make_config({"width": 8, "heads": 2, "dropout": 0.0, "device": "cpu", "seed": 1, "tune": "joint",
                              **settings})  # fmt: skip
        data = TrainingData(self.features, self.labels, self.rows if rows is None else rows, weights, held_out)
        callbacks = [] if on_epoch is None else [Told(on_epoch)]
        trainer = Trainer(data, self.task, config, callbacks=callbacks, progress=progress)
        trainer.model = copy.deepcopy(self.model)
        set_gradients(trainer.model, stage.name, config)
        state = state or StageState()
        trainer.run_stage(stage, state)
        return trainer.model, state

    def predict(self, model: JointModel, rows: np.ndarray, source: Mapping[str, Any], **more: Any) -> np.ndarray:
        return predict_rows(model, self.task, self.features, rows, source, **more)


def stage_of(**settings: Any) -> Stage:
    return Stage(**{"name": "probe", "place": 0, "source": POOLED, "epochs": 3, "batch_size": 4, **settings})


@pytest.fixture
def bench(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> Bench:
    return Bench(zoo, new_posts(12, gaps=False), cache)


def test_history_tells_each_epoch(bench: Bench) -> None:
    class Listener(Progress):
        lines: list[str] = []  # noqa: RUF012

        def say(self, line: str) -> None:
            self.lines.append(line)

    model, state = bench.run(stage_of(), progress=Listener())
    assert [row["epoch"] for row in state.history] == [1, 2, 3]
    assert {row["stage"] for row in state.history} == {"probe"}
    assert all(row["validation_auc"] is None for row in state.history)
    assert all(row["posts_per_second"] > 0 for row in state.history)
    assert state.history[-1]["train_loss"] < state.history[0]["train_loss"]
    assert len(Listener.lines) == 3
    assert not model.training


def test_same_seed_same_numbers_and_another_seed_others(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    bench = Bench(zoo, new_posts(12), cache)
    bench.model.head.dropout.p = 0.5
    bench.model.head.modality_dropout = 0.3
    one, first = bench.run(stage_of())
    torch.randn(5)  # whatever was drawn before does not matter
    two, second = bench.run(stage_of())
    three, _ = bench.run(stage_of(), seed=2)
    assert same_weights(weights_of(one), weights_of(two))
    assert [r["train_loss"] for r in first.history] == [r["train_loss"] for r in second.history]
    assert not same_weights(weights_of(one), weights_of(three))


def test_accumulating_equals_a_bigger_batch(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    bench = Bench(zoo, new_posts(12, gaps=False), cache)
    big, _ = bench.run(stage_of(batch_size=12, epochs=2), max_grad_norm=0.0)
    small, _ = bench.run(stage_of(batch_size=4, accumulate=3, epochs=2), max_grad_norm=0.0)
    # In relation to the steps taken: AdamW blows rounding up where a gradient is near zero.
    begun, one, three = (torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (bench.model, big, small))
    assert (one - begun).norm() > 0.01
    assert (one - three).norm() < 0.01 * (one - begun).norm()


@pytest.mark.parametrize(
    ("n", "size", "accumulate", "steps"), [(12, 4, 2, 2), (12, 4, 5, 1), (10, 4, 2, 2), (9, 4, 1, 2)]
)
def test_every_batch_takes_part_in_a_step(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, n: int, size: int, accumulate: int, steps: int
) -> None:
    done = []
    real = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a, **k: done.append(1) or real(self, *a, **k))
    bench.run(stage_of(batch_size=size, accumulate=accumulate, epochs=1), rows=np.arange(n))
    assert len(done) == steps


def test_only_the_rows_asked_for_are_trained_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = Features.batch

    def batch(self: Features, rows: np.ndarray, *args: Any) -> Any:
        seen.extend(rows.tolist())
        return real(self, rows, *args)

    monkeypatch.setattr(Features, "batch", batch)
    bench.run(stage_of(epochs=2), rows=np.asarray([1, 5, 6, 8, 9]))
    assert sorted(seen) == sorted([1, 5, 6, 8, 9] * 2)


def test_class_weights_move_predictions_towards_the_heavy_class(bench: Bench) -> None:
    rows = np.asarray([0, 1, 3, 5, 7, 9, 11])  # one post of class 0
    plain, _ = bench.run(stage_of(epochs=5), rows=rows)
    weighted, _ = bench.run(stage_of(epochs=5), rows=rows, class_weights="balanced")
    mean = [bench.predict(m, bench.rows, POOLED)[:, 0].mean() for m in (plain, weighted)]
    assert mean[1] > mean[0]


def test_label_smoothing_keeps_the_loss_up(bench: Bench) -> None:
    losses = [
        bench.run(stage_of(epochs=20), label_smoothing=smoothing)[1].history[-1]["train_loss"]
        for smoothing in (0.0, 0.4)
    ]
    assert losses[1] > losses[0]


def test_clipping_limits_the_step(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    real = torch.optim.AdamW.step

    def step(self: Any, *args: Any, **more: Any) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.cat([g.flatten() for g in grads]).norm()))
        return real(self, *args, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    bench.run(stage_of(epochs=1), max_grad_norm=0.01)
    assert max(norms) <= 0.0101
    norms.clear()
    bench.run(stage_of(epochs=1), max_grad_norm=0.0)
    assert max(norms) > 0.0101


def scores(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Let validation say one value after another."""
    said = iter(values)

    def watch(*_: Any) -> Watched:
        value = next(said)
        return Watched(None if math.isnan(value) else value, None)

    monkeypatch.setattr(Trainer, "_watch", watch)


def test_validation_keeps_the_best_epoch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"held_out": bench.held(np.arange(8, 12)), "rows": np.arange(8)}
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def remember(state: StageState) -> None:
        kept[state.epoch] = {name: tensor.clone() for name, tensor in state.weights.items()}

    scores(monkeypatch, [0.5, 0.6, 0.9, 0.7, 0.8])
    model, state = bench.run(stage_of(epochs=4, min_epochs=4), stop="validation", on_epoch=remember, **held)
    assert [row["validation_auc"] for row in state.history] == [0.6, 0.9, 0.7, 0.8]
    trained = dict(model.named_parameters())
    assert all(torch.equal(trained[name], tensor) for name, tensor in kept[2].items())
    assert state.best == 0.9


def test_a_stage_that_makes_things_worse_is_undone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    scores(monkeypatch, [0.9, 0.8, 0.7, 0.6])
    model, state = bench.run(stage_of(), stop="validation", held_out=bench.held(np.arange(4)))
    assert same_weights(weights_of(model), weights_of(bench.model))
    assert state.best == 0.9


@pytest.mark.parametrize(
    ("values", "min_epochs", "patience", "epochs"),
    [
        ([0.5, 0.6, 0.5, 0.4, 0.3], 1, 1, 2),
        ([0.5, 0.6, 0.5, 0.4, 0.3], 3, 1, 3),
        ([0.5, 0.6, 0.5, 0.7, 0.6, 0.5, 0.4], 1, 2, 5),
        ([0.5, math.nan, math.nan, math.nan], 2, 1, 2),
    ],
)
def test_stopping_on_validation(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, values: list[float], min_epochs: int, patience: int, epochs: int
) -> None:
    scores(monkeypatch, values)
    stage = stage_of(epochs=9, min_epochs=min_epochs, patience=patience)
    _, state = bench.run(stage, stop="validation", held_out=bench.held(np.arange(4)))
    assert len(state.history) == epochs
    assert state.finished


@pytest.mark.parametrize(
    ("losses", "min_epochs", "epochs"),
    [([3.0, 2.0, 2.5, 1.0], 1, 3), ([3.0, 4.0, 5.0, 1.0, 2.0], 4, 5), ([1.0] * 9, 1, 2)],
)
def test_stopping_on_the_training_loss(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, losses: list[float], min_epochs: int, epochs: int
) -> None:
    said = iter(losses)
    monkeypatch.setattr(Trainer, "_train_epoch", lambda *_: next(said))
    _, state = bench.run(stage_of(epochs=9, min_epochs=min_epochs))
    assert len(state.history) == epochs


def test_validation_on_a_table_of_its_own(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    bench = Bench(zoo, new_posts(12, gaps=False), cache)
    other = Bench(zoo, new_posts(8, gaps=False, seed=5), cache)
    model, state = bench.run(stage_of(epochs=2), stop="validation", held_out=other.held(other.rows))
    proba = other.predict(model, other.rows, POOLED)
    assert roc_auc(other.labels, proba) == pytest.approx(state.best)


def test_a_loss_that_is_no_number_stops_the_training(bench: Bench) -> None:
    with torch.no_grad():
        bench.model.head.output.bias.fill_(float("nan"))
    with pytest.raises(ConfigError, match=r"diverged in epoch 1 of probe .*lower the learning rates"):
        bench.run(stage_of())


def test_averaged_weights_lag_behind(bench: Bench) -> None:
    live: dict[str, torch.Tensor] = {}
    model, state = bench.run(stage_of(ema=0.9), on_epoch=lambda s: live.update(s.weights))
    trained = dict(model.named_parameters())
    assert all(torch.equal(trained[name], tensor) for name, tensor in state.average.items())
    start = dict(bench.model.named_parameters())
    name = "head.output.weight"
    assert (trained[name] - start[name]).norm() < (live[name] - start[name]).norm()


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norm_statistics_move_only_when_they_may(
    zoo: Zoo, new_posts: PostsMaker, cache: Path, frozen: bool
) -> None:
    bench = Bench(zoo, new_posts(8, gaps=False), cache, image="timm-efficientnet")
    model, _ = bench.run(stage_of(name="joint", source=RAW, epochs=1, frozen_norms=frozen))
    before, after = weights_of(bench.model), weights_of(model)
    statistics = [name for name in before if "running_" in name]
    assert statistics
    same = [torch.equal(before[name], after[name]) for name in statistics]
    assert all(same) if frozen else not any(same)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_moving_statistics_are_resumed_and_restored_too(
    zoo: Zoo, new_posts: PostsMaker, cache: Path, ema: float
) -> None:
    bench = Bench(zoo, new_posts(8, gaps=False), cache, image="timm-efficientnet")
    stage = stage_of(name="joint", source=RAW, epochs=3, frozen_norms=False, ema=ema)
    states: list[StageState] = []
    whole, _ = bench.run(stage, on_epoch=lambda state: states.append(copy.deepcopy(state)))
    again, _ = bench.run(stage, state=states[0])
    a, b = weights_of(whole), weights_of(again)
    counters = {name for name in a if name.endswith("num_batches_tracked")}
    assert same_weights(
        {k: v for k, v in a.items() if k not in counters}, {k: v for k, v in b.items() if k not in counters}
    )


def test_predictions_keep_the_order_of_the_rows(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    bench = Bench(zoo, new_posts(12), cache)
    model = bench.model.eval()
    rows = np.asarray([7, 0, 11, 3])
    together = bench.predict(model, rows, POOLED, batch_size=2)
    for i, row in enumerate(rows):
        alone = bench.predict(model, np.asarray([row]), POOLED)
        np.testing.assert_allclose(together[i], alone[0], atol=1e-6)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(bench.predict(model, rows, RAW), together, atol=1e-5)


def test_no_rows_no_predictions(bench: Bench) -> None:
    assert bench.predict(bench.model, np.zeros(0, dtype=int), POOLED).shape == (0, 2)


def test_the_rate_rises_and_falls() -> None:
    rates = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0
    assert all(a < b for a, b in zip(rates[:9], rates[1:10], strict=True))
    assert all(a >= b for a, b in zip(rates[10:-1], rates[11:], strict=True))
    assert 0 < rates[-1] < 0.01
    assert learning_rate_factor(0, 1, 0.0) == 1.0


@pytest.mark.parametrize("values", [[math.nan] * 4, [math.nan, math.nan, 0.2, math.nan]])
def test_a_start_without_a_score_is_not_the_best(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, values: list[float]
) -> None:
    kept: list[dict[str, torch.Tensor]] = []
    scores(monkeypatch, values)
    model, _ = bench.run(
        stage_of(epochs=3, min_epochs=3),
        stop="validation",
        held_out=bench.held(np.arange(4)),
        on_epoch=lambda state: kept.append({name: tensor.clone() for name, tensor in state.weights.items()}),
    )
    trained = dict(model.named_parameters())
    expected = kept[1] if 0.2 in values else kept[-1]
    assert all(torch.equal(trained[name], tensor) for name, tensor in expected.items())


def test_weights_that_break_in_the_last_step_stop_the_training(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(trainer: Trainer, *_: Any) -> float:
        with torch.no_grad():
            trainer.model.head.output.bias.fill_(float("inf"))
        return 0.5

    monkeypatch.setattr(Trainer, "_train_epoch", broken)
    with pytest.raises(ConfigError, match="diverged in epoch 1 of probe .weights that are no numbers"):
        bench.run(stage_of())


def test_an_untrained_start_is_never_the_best(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    bench = Bench(zoo, new_posts(12, gaps=False), cache)
    other = 1 - bench.labels  # every epoch scores worse on these than a head that knows nothing
    begun = weights_of(bench.model)
    more: dict[str, Any] = {"stop": "validation", "held_out": HeldOut(bench.features, other, bench.rows)}
    model, state = bench.run(stage_of(trained_start=False), **more)
    assert not same_weights(
        weights_of(model.head), {k.removeprefix("head."): v for k, v in begun.items() if "head." in k}
    )
    assert state.best == max(row["validation_auc"] for row in state.history)
    model, _ = bench.run(stage_of(trained_start=True), **more)
    assert same_weights(weights_of(model), begun), "a start that was trained may be the best"


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_each_post_keeps_its_own_weight_in_every_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, class_weights: str
) -> None:
    seen: dict[int, float] = {}
    real = JointModel.forward

    def forward(self: JointModel, batch: Batch, loss: Any = None) -> torch.Tensor:
        if loss is not None:
            assert batch.rows is not None
            assert batch.weights is not None
            assert batch.weights.dtype == torch.float32, "MPS has no other"
            seen.update(zip(batch.rows.tolist(), batch.weights.tolist(), strict=True))
        return real(self, batch, loss)

    monkeypatch.setattr(JointModel, "forward", forward)
    rows = np.asarray([1, 5, 6, 8, 9])
    bench.run(stage_of(epochs=1), rows=rows, weights=np.arange(12.0), class_weights=class_weights)
    mean = rows.mean()  # only their proportions matter
    assert seen == {int(row): pytest.approx(row / mean) for row in rows}


# ---- which stages there are ------------------------------------------------------------------------------


SOURCES = {"raw": RAW, "hidden": {"text": "hidden:1", "image": "hidden:2"}, "pooled": POOLED}


def test_the_probe_comes_first_and_reads_embeddings() -> None:
    probe, tuned = make_stages(make_config({"tune": "top", "probe_epochs": 4}), SOURCES, started=False)
    assert (probe.name, probe.source, probe.epochs, probe.min_epochs) == ("probe", POOLED, 4, 4)
    assert (tuned.name, tuned.source) == ("top", SOURCES["hidden"])
    assert not probe.trained_start
    assert tuned.trained_start
    (alone,) = make_stages(make_config({"tune": "joint", "probe_epochs": 0}), SOURCES, started=False)
    assert (alone.name, alone.source, alone.trained_start) == ("joint", RAW, False)
    assert alone.place == 1, "random numbers do not depend on whether the probe ran"


@pytest.mark.parametrize(
    ("asked", "batch_size", "frozen"), [("auto", 16, True), ("auto", 64, False), ("yes", 64, True), ("no", 16, False)]
)
def test_batch_norms_are_frozen_where_batches_are_small(asked: str, batch_size: int, frozen: bool) -> None:
    config = make_config({"tune": "joint", "freeze_batch_norm": asked, "batch_size": batch_size})
    assert make_stages(config, SOURCES, started=False)[-1].frozen_norms is frozen


def test_a_stage_of_few_epochs_does_not_wait_for_more() -> None:
    config = make_config({"tune": "joint", "epochs": 1, "min_epochs": 3})
    assert make_stages(config, SOURCES, started=False)[-1].min_epochs == 1


def test_no_stage_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing would be trained"):
        make_stages(make_config({"tune": "frozen", "probe_epochs": 0}), SOURCES, started=False)
