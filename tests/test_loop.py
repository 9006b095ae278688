from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cotune.errors import ConfigError
from cotune.heads import make_head
from cotune.metrics import roc_auc
from cotune.model import JointModel
from cotune.progress import Progress
from cotune.settings import FitConfig, make_config
from cotune.training.device import make_fabric
from cotune.training.features import Features
from cotune.training.held_out import HeldOutScore
from cotune.training.loop import StagePlan, StageState, _warm_cosine, predict_rows, run_stage
from cotune.training.parameters import freeze, parameter_groups
from cotune.training.prepare import prepare
from tiny import PostsMaker, Zoo, labels_of, same_weights, weights_of

POOLED = {"text": "pooled", "image": "pooled"}
RAW = {"text": "raw", "image": "raw"}


class Bench:
    """Everything that a stage needs."""

    def __init__(self, zoo: Zoo, posts: Any, cache: Path, *, image: str = "timm-resnet", **settings: Any) -> None:
        self.config: FitConfig = make_config({"width": 8, "heads": 2, "dropout": 0.0, "device": "cpu", **settings})
        self.fabric = make_fabric(self.config)
        encoders = zoo.pair("distilbert", image)
        self.features: Features = prepare(posts, encoders, root=cache, max_bytes=10**9)
        for name, encoder in encoders.items():
            self.features.compute(name, "pooled", encoder)
        self.labels = labels_of(posts)
        self.rows = np.arange(len(posts))
        torch.manual_seed(0)
        head = make_head(
            "attention", encoders["text"].dim, encoders["image"].dim, int(self.labels.max()) + 1,
            width=8, heads=2, dropout=0.0, modality_dropout=0.0,
        )  # fmt: skip
        self.model = JointModel(encoders["text"], encoders["image"], head)

    def run(self, plan: StagePlan, model: JointModel | None = None, **more: Any) -> tuple[JointModel, StageState]:
        model = copy.deepcopy(model or self.model)
        if plan.source is POOLED:
            for encoder in model.encoders.values():
                encoder.requires_grad_(False)
        else:
            freeze(model)
        groups = parameter_groups(model, self.config)
        rows = more.pop("rows", self.rows)
        return model, run_stage(self.fabric, model, groups, self.features, self.labels, rows, plan, **more)


def plan_of(**settings: Any) -> StagePlan:
    return StagePlan(**{"name": "probe", "source": POOLED, "epochs": 3, "batch_size": 4, "seed": 1, **settings})


@pytest.fixture
def bench(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> Bench:
    return Bench(zoo, new_posts(12, gaps=False), cache)


def test_history_tells_each_epoch(bench: Bench) -> None:
    class Listener(Progress):
        lines: list[str] = []  # noqa: RUF012

        def say(self, line: str) -> None:
            self.lines.append(line)

    model, state = bench.run(plan_of(), progress=Listener())
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
    one, first = bench.run(plan_of())
    torch.randn(5)  # whatever was drawn before does not matter
    two, second = bench.run(plan_of())
    three, _ = bench.run(plan_of(seed=2))
    assert same_weights(weights_of(one), weights_of(two))
    assert [r["train_loss"] for r in first.history] == [r["train_loss"] for r in second.history]
    assert not same_weights(weights_of(one), weights_of(three))


def test_accumulating_equals_a_bigger_batch(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    bench = Bench(zoo, new_posts(12, gaps=False), cache)
    big, _ = bench.run(plan_of(batch_size=12, epochs=2, max_grad_norm=0.0))
    small, _ = bench.run(plan_of(batch_size=4, accumulate=3, epochs=2, max_grad_norm=0.0))
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
    bench.run(plan_of(batch_size=size, accumulate=accumulate, epochs=1), rows=np.arange(n))
    assert len(done) == steps


def test_only_the_rows_asked_for_are_trained_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = Features.batch

    def batch(self: Features, rows: np.ndarray, *args: Any) -> Any:
        seen.extend(rows.tolist())
        return real(self, rows, *args)

    monkeypatch.setattr(Features, "batch", batch)
    bench.run(plan_of(epochs=2), rows=np.asarray([1, 5, 6, 8, 9]))
    assert sorted(seen) == sorted([1, 5, 6, 8, 9] * 2)


def test_class_weights_move_predictions_towards_the_heavy_class(bench: Bench) -> None:
    rows = np.asarray([0, 1, 3, 5, 7, 9, 11])  # one post of class 0
    plain, _ = bench.run(plan_of(epochs=5), rows=rows)
    weighted, _ = bench.run(plan_of(epochs=5, class_weights=(6.0, 1.0)), rows=rows)
    mean = [predict_rows(m, bench.features, bench.rows, POOLED)[:, 0].mean() for m in (plain, weighted)]
    assert mean[1] > mean[0]


def test_label_smoothing_keeps_the_loss_up(bench: Bench) -> None:
    losses = [
        bench.run(plan_of(epochs=20, label_smoothing=smoothing))[1].history[-1]["train_loss"]
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
    bench.run(plan_of(epochs=1, max_grad_norm=0.01))
    assert max(norms) <= 0.0101
    norms.clear()
    bench.run(plan_of(epochs=1, max_grad_norm=0.0))
    assert max(norms) > 0.0101


def scores(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Let validation say one value after another."""
    said = iter(values)

    def validate(*_: Any) -> HeldOutScore:
        value = next(said)
        return HeldOutScore(None if math.isnan(value) else value, None)

    monkeypatch.setattr("cotune.training.loop._validate", validate)


def test_validation_keeps_the_best_epoch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"validation_rows": np.arange(8, 12), "rows": np.arange(8)}
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def remember(state: StageState) -> None:
        kept[state.epoch] = {name: tensor.clone() for name, tensor in state.weights.items()}

    scores(monkeypatch, [0.5, 0.6, 0.9, 0.7, 0.8])
    model, state = bench.run(
        plan_of(epochs=4, min_epochs=4, stop="validation", keep_best=True), on_epoch=remember, **held
    )
    assert [row["validation_auc"] for row in state.history] == [0.6, 0.9, 0.7, 0.8]
    trained = dict(model.named_parameters())
    assert all(torch.equal(trained[name], tensor) for name, tensor in kept[2].items())
    assert state.best == 0.9


def test_a_stage_that_makes_things_worse_is_undone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    scores(monkeypatch, [0.9, 0.8, 0.7, 0.6])
    model, state = bench.run(plan_of(stop="validation", keep_best=True), validation_rows=np.arange(4))
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
    plan = plan_of(epochs=9, min_epochs=min_epochs, patience=patience, stop="validation", keep_best=True)
    _, state = bench.run(plan, validation_rows=np.arange(4))
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
    monkeypatch.setattr("cotune.training.loop._one_epoch", lambda *_: next(said))
    _, state = bench.run(plan_of(epochs=9, min_epochs=min_epochs))
    assert len(state.history) == epochs


def test_validation_on_a_table_of_its_own(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    bench = Bench(zoo, new_posts(12, gaps=False), cache)
    other = Bench(zoo, new_posts(8, gaps=False, seed=5), cache)
    plan = plan_of(epochs=2, stop="validation", keep_best=True)
    model, state = bench.run(plan, validation=(other.features, other.labels))
    proba = predict_rows(model, other.features, other.rows, POOLED)
    assert roc_auc(other.labels, proba) == pytest.approx(state.best)


def test_a_loss_that_is_no_number_stops_the_training(bench: Bench) -> None:
    with torch.no_grad():
        bench.model.head.output.bias.fill_(float("nan"))
    with pytest.raises(ConfigError, match=r"diverged in epoch 1 of probe .*lower the learning rates"):
        bench.run(plan_of())


def test_averaged_weights_lag_behind(bench: Bench) -> None:
    live: dict[str, torch.Tensor] = {}
    model, state = bench.run(plan_of(ema=0.9), on_epoch=lambda s: live.update(s.weights))
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
    model, _ = bench.run(plan_of(name="joint", source=RAW, epochs=1, frozen_norms=frozen))
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
    plan = plan_of(name="joint", source=RAW, epochs=3, frozen_norms=False, ema=ema)
    states: list[StageState] = []
    whole, _ = bench.run(plan, on_epoch=lambda state: states.append(copy.deepcopy(state)))
    again, _ = bench.run(plan, state=states[0])
    a, b = weights_of(whole), weights_of(again)
    counters = {name for name in a if name.endswith("num_batches_tracked")}
    assert same_weights(
        {k: v for k, v in a.items() if k not in counters}, {k: v for k, v in b.items() if k not in counters}
    )


def test_predictions_keep_the_order_of_the_rows(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    bench = Bench(zoo, new_posts(12), cache)
    model = bench.model.eval()
    rows = np.asarray([7, 0, 11, 3])
    together = predict_rows(model, bench.features, rows, POOLED, batch_size=2)
    for i, row in enumerate(rows):
        alone = predict_rows(model, bench.features, np.asarray([row]), POOLED)
        np.testing.assert_allclose(together[i], alone[0], atol=1e-6)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(predict_rows(model, bench.features, rows, RAW), together, atol=1e-5)


def test_no_rows_no_predictions(bench: Bench) -> None:
    assert predict_rows(bench.model, bench.features, np.zeros(0, dtype=int), POOLED).shape == (0, 2)


def test_the_rate_rises_and_falls() -> None:
    factor = _warm_cosine(100, 0.1)
    rates = [factor(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0
    assert all(a < b for a, b in zip(rates[:9], rates[1:10], strict=True))
    assert all(a >= b for a, b in zip(rates[10:-1], rates[11:], strict=True))
    assert 0 < rates[-1] < 0.01
    assert _warm_cosine(1, 0.0)(0) == 1.0


def test_half_precision_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="--precision 16 cannot be had on a CPU"):
        make_fabric(make_config({"precision": "16", "device": "cpu"}))


@pytest.mark.parametrize("values", [[math.nan] * 4, [math.nan, math.nan, 0.2, math.nan]])
def test_a_start_without_a_score_is_not_the_best(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, values: list[float]
) -> None:
    kept: list[dict[str, torch.Tensor]] = []
    scores(monkeypatch, values)
    plan = plan_of(epochs=3, min_epochs=3, stop="validation", keep_best=True)
    model, _ = bench.run(
        plan,
        validation_rows=np.arange(4),
        on_epoch=lambda state: kept.append({name: tensor.clone() for name, tensor in state.weights.items()}),
    )
    trained = dict(model.named_parameters())
    expected = kept[1] if 0.2 in values else kept[-1]
    assert all(torch.equal(trained[name], tensor) for name, tensor in expected.items())


def test_weights_that_break_in_the_last_step_stop_the_training(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fabric: Any, forward: Any, *_: Any) -> float:
        with torch.no_grad():
            forward.module.head.output.bias.fill_(float("inf"))
        return 0.5

    monkeypatch.setattr("cotune.training.loop._one_epoch", broken)
    with pytest.raises(ConfigError, match="diverged in epoch 1 of probe .weights that are no numbers"):
        bench.run(plan_of())


def test_an_untrained_start_is_never_the_best(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    bench = Bench(zoo, new_posts(12, gaps=False), cache)
    other = 1 - bench.labels  # every epoch scores worse on these than a head that knows nothing
    watched = {"stop": "validation", "keep_best": True, "epochs": 3}
    begun = weights_of(bench.model)
    more = {"validation": (bench.features, other)}
    model, state = bench.run(plan_of(**watched, trained_start=False), **more)
    assert not same_weights(
        weights_of(model.head), {k.removeprefix("head."): v for k, v in begun.items() if "head." in k}
    )
    assert state.best == max(row["validation_auc"] for row in state.history)
    model, _ = bench.run(plan_of(**watched, trained_start=True), **more)
    assert same_weights(weights_of(model), begun), "a start that was trained may be the best"
