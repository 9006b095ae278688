"""Which number format is chosen and why, and that what it promises stays in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cotune.errors import ConfigError
from cotune.predict import Predictor
from cotune.training import fit, precision
from cotune.training.callbacks import CheckpointCallback
from cotune.training.fit import FitResult, fit_posts
from cotune.training.precision import Precision, choose_precision, encoding
from cotune.training.trainer import Trained, Trainer
from runs import Told, tiny_config
from tiny import Zoo, make_posts


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that says which processor there is, and how fast it is found to be in bf16."""

    def become(flags: dict[str, bool], machine: str = "x86_64", ratio: float | None = None) -> None:
        def measured() -> float:
            assert ratio is not None, "the flags say it, and nothing is to be measured"
            return ratio

        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
        monkeypatch.setattr(precision.platform, "machine", lambda: machine)
        monkeypatch.setattr(precision, "_measured", measured)

    return become


@pytest.mark.parametrize(
    ("flags", "machine", "ratio", "name", "why"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "x86_64", None, "bf16", "AMX"),
        ({"avx512_f": True}, "x86_64", None, "32", "no bf16 units"),
        ({"avx2": True}, "AMD64", None, "32", "no bf16 units"),
        ({"avx512_bf16": True}, "x86_64", 1.8, "bf16", "1.8 times"),
        ({"avx512_bf16": True}, "x86_64", 1.1, "32", "1.1 times"),
        ({"bf16": True}, "arm64", 2.0, "bf16", "2.0 times"),
        ({}, "aarch64", 0.2, "32", "0.2 times"),
    ],
)
def test_flags_decide_and_else_a_measurement(
    processor: Any, flags: dict[str, bool], machine: str, ratio: float | None, name: str, why: str
) -> None:
    processor(flags, machine, ratio)
    found = choose_precision("auto", "cpu")
    assert found.name == name
    assert why in str(found)


def test_the_measurement_gives_a_ratio_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_SECONDS", 0.0)
    monkeypatch.setattr(precision, "_SIDE", 64)
    assert 0 < precision._measured() < 1000


def test_what_is_asked_for_is_taken_and_emulation_named(processor: Any) -> None:
    processor({"avx2": True})
    assert choose_precision("32", "cpu") == Precision("32", "as asked for")
    assert "emulated" in choose_precision("bf16", "cpu").why
    assert choose_precision("auto", "mps").name == "32"
    with pytest.raises(ConfigError, match="--precision 16 is not available on a CPU"):
        choose_precision("16", "cpu")


def test_products_run_in_bf16_and_nothing_changes_at_32() -> None:
    layer, x = nn.Linear(4, 4), torch.ones(2, 4)
    with encoding("bf16", "cpu"):
        assert layer(x).dtype == torch.bfloat16
    with encoding("32", "cpu"):
        assert layer(x).dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


@pytest.fixture(scope="module")
def trained(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same training in float32 and in bf16, and the dtypes that were met in the latter."""
    folder = tmp_path_factory.mktemp("precision")
    posts = make_posts(folder / "posts", 16, gaps=False)
    met: dict[str, set[torch.dtype]] = {"head": set(), "encoder": set()}
    original, train = Trainer.__init__, Trainer.fit
    training: list[bool] = []  # what comes after it, such as the summary of the posts, predicts in float32

    def fit_once(self: Trainer) -> Trained:
        training.append(True)
        try:
            return train(self)
        finally:
            training.clear()

    def note(what: str, out: torch.Tensor) -> None:
        if training:
            met[what].add(out.dtype)

    def watch(self: Trainer, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self.config.precision != "bf16":
            return
        self.model.head.register_forward_hook(lambda _m, _i, out: note("head", out))
        for encoder in self.model.encoders.values():
            for module in encoder.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.register_forward_hook(lambda _m, _i, out: note("encoder", out))

    told = Told()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", watch)
        patch.setattr(Trainer, "fit", fit_once)
        patch.setattr(fit, "choose_precision", lambda asked, _: Precision("bf16" if asked == "auto" else asked, "test"))
        results: dict[str, FitResult] = {}
        for name in ("32", "auto"):
            settings = {"tune": "joint", "image_encoder": str(zoo("timm-efficientnet")), "precision": name}
            results[name] = fit_posts(posts, tiny_config(zoo, folder / "cache", **settings), progress=told)
    return {"posts": posts, "met": met, "told": told, **results}


def test_only_encoders_run_in_bf16(trained: dict[str, Any]) -> None:
    assert trained["met"]["encoder"] == {torch.bfloat16}
    assert trained["met"]["head"] == {torch.float32}
    model = trained["auto"].run.model
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_bf16_learns_what_float32_learns(trained: dict[str, Any]) -> None:
    one, two = (
        [row["train_loss"] for row in trained[name].run.metrics["history"] if row["stage"] == "joint"]
        for name in ("32", "auto")
    )
    assert one != two
    assert np.allclose(one, two, rtol=0.02)


def test_what_was_chosen_is_said_and_stored(trained: dict[str, Any]) -> None:
    assert trained["told"].lines.count("precision: bf16 (test)") == 1
    run = trained["auto"].run
    assert run.config.precision == "bf16"
    assert run.environment["precision"] == "bf16 (test)"
    assert trained["32"].run.environment["precision"].startswith("32")


def test_predictions_in_bf16_are_near_those_in_float32(trained: dict[str, Any]) -> None:
    run, posts = trained["32"].run, trained["posts"]
    exact = Predictor(run, device="cpu").scores(posts).predictions
    near = Predictor(run, device="cpu", precision="bf16").scores(posts).predictions
    assert not np.array_equal(exact, near)
    assert np.abs(exact - near).max() < 0.02


def test_a_resumed_training_keeps_its_precision(zoo: Zoo, tmp_path: Path, processor: Any) -> None:
    posts = make_posts(tmp_path / "posts", 12, gaps=False)
    config = tiny_config(zoo, tmp_path / "cache", tune="frozen", probe_epochs=3, precision="auto")

    class Stop(CheckpointCallback):
        def on_epoch_end(self, *args: Any) -> None:
            super().on_epoch_end(*args)
            raise RuntimeError("the machine went away")

    processor({"amx_bf16": True, "avx512_bf16": True})
    with pytest.raises(RuntimeError, match="went away"):
        fit_posts(posts, config, callbacks=[Stop(tmp_path / "kept")])
    processor({"avx2": True})
    told = Told()
    callbacks = [CheckpointCallback(tmp_path / "kept", resume=True)]
    resumed = fit_posts(posts, config, callbacks=callbacks, progress=told)
    assert resumed.run.config.precision == "bf16"
    assert "precision: bf16 (as it was begun)" in told.lines
    assert any(line.startswith("resuming") for line in told.lines)
    assert fit_posts(posts, config).run.config.precision == "32"
