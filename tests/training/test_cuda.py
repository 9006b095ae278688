"""What only a CUDA GPU can show; `benchmarks/gpu.py` runs these, and times what they check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cotune.cli import main
from cotune.files import read_json
from cotune.model import Batch
from cotune.predict import Predictor
from cotune.run import load_run, save_run
from cotune.training.callbacks import CheckpointCallback
from cotune.training.fit import fit_posts
from cotune.training.launch import launch
from cotune.training.prefetch import on_device
from runs import tiny_config, tiny_settings, write_table
from tiny import Zoo, make_posts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible"),
]
DEVICE = torch.device("cuda", 0)


def losses(result: Any) -> list[float]:
    return [row["train_loss"] for row in result.run.metrics["history"]]


@pytest.mark.parametrize("tune", ["joint", "top", "lora", "frozen"])
@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_training_learns_in_every_precision(zoo: Zoo, tmp_path: Path, tune: str, precision: str) -> None:
    posts = make_posts(tmp_path / "posts", 48)
    settings = {"device": "cuda", "tune": tune, "precision": precision, "epochs": 6, "min_epochs": 6, "lr_head": 3e-3}
    result = fit_posts(posts, tiny_config(zoo, tmp_path / "cache", **settings))
    found = losses(result)
    assert all(np.isfinite(found))
    assert found[-1] < found[0]
    assert result.run.environment["device"] == "cuda"


def test_auto_takes_bf16_where_the_gpu_has_it(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 24)
    result = fit_posts(posts, tiny_config(zoo, tmp_path / "cache", device="cuda", precision="auto", epochs=1))
    wanted = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    assert result.run.config.precision == wanted


def test_a_run_answers_alike_on_gpu_and_cpu(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 24)
    run = fit_posts(posts, tiny_config(zoo, tmp_path / "cache", device="cuda")).run
    save_run(tmp_path / "run", run)
    found = {}
    for device in ("cuda", "cpu"):
        found[device] = Predictor(load_run(tmp_path / "run"), device=device).scores(posts).predictions
    np.testing.assert_allclose(found["cuda"], found["cpu"], atol=2e-3)


class Stop(Exception):
    """What ends a training in the middle."""


def test_training_goes_on_from_a_checkpoint(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 24)

    class StopAfterOne(CheckpointCallback):
        def on_epoch_end(self, stage: Any, state: Any, history: Any) -> None:
            super().on_epoch_end(stage, state, history)
            if stage.name == "joint":
                raise Stop

    config = tiny_config(zoo, tmp_path / "cache", tune="joint", epochs=3, min_epochs=3, device="cuda", precision="16")
    with pytest.raises(Stop):
        fit_posts(posts, config, callbacks=[StopAfterOne(tmp_path / "kept")])
    resumed = fit_posts(posts, config, callbacks=[CheckpointCallback(tmp_path / "kept", resume=True)])
    np.testing.assert_allclose(losses(resumed), losses(fit_posts(posts, config)), rtol=1e-2)


def test_the_next_batch_is_made_meanwhile_and_nothing_is_lost() -> None:
    def batches() -> Any:
        for i in range(5):
            here = torch.ones((3, 1), dtype=torch.bool)
            yield Batch(
                here, ("text",), {"text": {"x": torch.full((3, 2), float(i))}}, torch.full((3,), i), torch.arange(3)
            )

    found = list(on_device(batches(), DEVICE))
    assert [float(batch.inputs["text"]["x"].mean()) for batch in found] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert all(batch.inputs["text"]["x"].device == DEVICE and batch.targets.device == DEVICE for batch in found)
    assert next(iter(batches())).pin_memory().inputs["text"]["x"].is_pinned()


def test_an_error_while_a_batch_is_made_comes_through() -> None:
    def batches() -> Any:
        raise OSError("the disk is gone")
        yield

    with pytest.raises(OSError, match="the disk is gone"):
        list(on_device(batches(), DEVICE))


def test_images_lie_channels_last_on_the_gpu(zoo: Zoo) -> None:
    encoder = zoo.image("timm-efficientnet").to(DEVICE)
    weights = [p for p in encoder.model.parameters() if p.ndim == 4 and min(p.shape[1], p.shape[2]) > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


def test_more_devices_than_there_are_is_one_line(zoo: Zoo, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = write_table(make_posts(tmp_path / "posts", 24), tmp_path / "posts.csv")
    n = torch.cuda.device_count() + 1
    words = fit_words(table, tmp_path / "run", tiny_settings(zoo, tmp_path / "cache", device="cuda", devices=n))
    assert launch(["-m", "cotune", *words], n) == 2
    assert f"this machine has {n - 1} CUDA device" in capfd.readouterr().err


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_gpus_train_as_one_does(zoo: Zoo, tmp_path: Path, strategy: str) -> None:
    table = write_table(make_posts(tmp_path / "posts", 48), tmp_path / "posts.csv")
    found = {}
    for n in (1, 2):
        more = {"devices": n, "strategy": strategy, "tune": "joint", "dropout": 0.0, "modality_dropout": 0.0}
        settings = tiny_settings(zoo, tmp_path / f"cache-{n}", **more) | {"device": "cuda"}
        words = fit_words(table, tmp_path / f"run-{n}", settings)
        assert (launch(["-m", "cotune", *words], n) if n > 1 else main(words)) == 0
        found[n] = [row["train_loss"] for row in read_json(tmp_path / f"run-{n}" / "metrics.json")["history"]]
    np.testing.assert_allclose(found[1], found[2], rtol=0.05)  # the encoders' own dropout is drawn by each


def fit_words(table: Path, out: Path, settings: dict[str, Any]) -> list[str]:
    flags = [word for key, value in settings.items() for word in ("--set", f"{key.replace('_', '-')}={value}")]
    return ["fit", str(table), "--out", str(out), *flags]
