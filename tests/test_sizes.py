"""Parameter counts are exact, and need neither weights nor a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cotune.encoders.resolve import ready_encoders
from cotune.errors import EncoderError
from cotune.metrics import score
from cotune.metrics.calibration import calibration_bins
from cotune.sizes import count, encoder_size, paper_sizes
from tiny import Zoo


def test_the_papers_table() -> None:
    sizes = {size.name: size for size in paper_sizes()}
    assert sizes["ResNet-50"].parameters == 23_508_032
    assert sizes["DistilBERT"].parameters == 66_362_880
    for size in sizes.values():
        # The paper gives millions with one decimal, CLIP's without.
        digits = 0 if size.paper == 152 else 1
        assert round(size.parameters / 1e6, digits) == size.paper, size.name


@pytest.mark.parametrize("kind", ["bert", "mpnet", "vit", "convnext", "timm-resnet", "timm-vit"])
def test_folders_are_counted_without_their_weights(zoo: Zoo, tmp_path: Path, kind: str) -> None:
    folder = zoo.copy(kind, tmp_path / kind)
    whole = zoo.text(kind) if kind in ("bert", "mpnet") else zoo.image(kind)
    (folder / "model.safetensors").unlink()
    assert encoder_size(str(folder)).parameters == count(whole.model)


def test_names_that_are_none() -> None:
    assert encoder_size("timm:resnet18").parameters == 11_176_512
    for spec in ("resnet50", "timm:resnet5", "hf:"):
        with pytest.raises(EncoderError, match="names no encoder"):
            encoder_size(spec)


def test_a_broken_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(EncoderError, match="is not valid JSON"):
        encoder_size(str(tmp_path))


def test_what_is_ready_lists_bundled_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "hub"

    def model(name: str, config: dict[str, object], *files: str) -> None:
        snapshot = cache / f"models--{name.replace('/', '--')}" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(json.dumps(config))
        for file in files:
            (snapshot / file).write_bytes(b"x")
        refs = snapshot.parent.parent / "refs"
        refs.mkdir()
        (refs / "main").write_text("abc")

    model("a/words", {"model_type": "bert"}, "model.safetensors", "tokenizer.json")
    model("a/pixels", {"model_type": "vit"}, "model.safetensors", "preprocessor_config.json")
    model("a/timm", {"architecture": "resnet18"}, "model.safetensors")
    model("a/no-weights", {"model_type": "bert"}, "tokenizer.json")
    model("a/dual", {"model_type": "clip", "text_config": {}, "vision_config": {}}, "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(cache), raising=False)
    found = {encoder.spec: encoder for encoder in ready_encoders()}
    assert {"bundled:all-MiniLM-L6-v2", "bundled:efficientnet-lite0"} <= set(found)
    hub = {spec: encoder.modality for spec, encoder in found.items() if not spec.startswith("bundled:")}
    assert hub == {"hf:a/words": "text", "hf:a/pixels": "image", "timm:hf-hub:a/timm": "image"}


def test_calibration_bins_add_up_to_the_calibration_error() -> None:
    import numpy as np

    random = np.random.default_rng(0)
    proba = random.dirichlet([1, 1, 1], 300)
    y = random.integers(0, 3, 300)
    bins = calibration_bins(y, proba)
    assert sum(b["n"] for b in bins) == 300
    assert all(b["low"] <= b["confidence"] <= b["high"] for b in bins)
    error = sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / 300
    assert error == pytest.approx(score(y, proba)["calibration_error"])
