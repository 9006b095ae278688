"""Frozen passes by an engine give what torch gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cotune.encoders.base import Encoder
from cotune.encoders.frozen_engine import WORTH_IT, FrozenEngines, Part
from cotune.encoders.prepared import ReadOptions
from cotune.engines.sessions import ENGINES
from cotune.errors import ConfigError, ExportError
from cotune.training.features import prepare
from tiny import Zoo, make_posts


@pytest.fixture(scope="module")
def encoders(zoo: Zoo) -> dict[str, Encoder]:
    return {"text": zoo.text("bert"), "image": zoo.image()}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("part", ["pooled", "hidden"])
@pytest.mark.parametrize("name", ["text", "image"])
def test_the_same_as_torch(name: str, part: Part, engine: str, encoders: dict[str, Encoder], tmp_path: Path) -> None:
    encoder = encoders[name].eval()
    encoder.cut_at(1 if part == "hidden" else 0)
    found = FrozenEngines(tmp_path, engine).open(encoder, part, 1)  # type: ignore[arg-type]
    assert found is not None
    inputs = encoder.probe_inputs(5)
    with torch.inference_mode():
        expected = encoder.lower(inputs) if part == "hidden" else encoder(inputs).pooled
    assert torch.allclose(found(inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["pooled", "hidden"])
def test_stores_filled_by_an_engine_hold_what_torch_gives(
    kind: Part, encoders: dict[str, Encoder], tmp_path: Path
) -> None:
    posts = make_posts(tmp_path / "posts", 8)
    kept = {}
    for engine in ("torch", "onnx"):
        encoder = encoders["text"]
        encoder.cut_at(1 if kind == "hidden" else 0)
        options = ReadOptions(tmp_path / engine, 10**8, engine=engine)  # type: ignore[arg-type]
        features = prepare(posts, {"text": encoder}, options)
        source = features.compute("text", kind, encoder)
        rows = np.flatnonzero(features.fields["text"].present)
        kept[engine] = features.batch(rows, {"text": source}).inputs["text"][kind].float()
    assert (tmp_path / "onnx" / "engines").is_dir()
    assert not (tmp_path / "torch" / "engines").exists()
    assert torch.allclose(kept["onnx"], kept["torch"], rtol=1e-3, atol=1e-3)


def test_few_posts_are_left_to_torch_until_there_is_a_graph(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    encoder = encoders["text"].eval()
    encoder.cut_at(0)
    engines = FrozenEngines(tmp_path)
    assert engines.open(encoder, "pooled", WORTH_IT - 1) is None
    assert engines.open(encoder, "pooled", WORTH_IT) is not None
    assert engines.open(encoder, "pooled", 1) is not None


def test_what_an_engine_gives_otherwise_is_left_to_torch(
    encoders: dict[str, Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoders["text"].eval()
    encoder.cut_at(0)
    monkeypatch.setattr("cotune.encoders.frozen_engine._TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="gives other embeddings"):
        FrozenEngines(tmp_path, "onnx").open(encoder, "pooled", 1)
    engines = FrozenEngines(tmp_path)
    assert engines.open(encoder, "pooled", WORTH_IT) is None
    assert list((tmp_path / "engines").glob("*/failed.json"))
    monkeypatch.undo()
    assert engines.open(encoder, "pooled", WORTH_IT) is None  # remembered


def test_a_cache_that_cannot_be_written_leaves_it_to_torch(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    assert FrozenEngines(tmp_path / "cache").open(encoders["text"].eval(), "pooled", WORTH_IT) is None


def test_an_engine_that_is_not_installed(
    encoders: dict[str, Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cotune.engines.sessions.installed", dict)
    with pytest.raises(ConfigError, match=r"pip install 'cotune\[export\]'"):
        FrozenEngines(tmp_path, "onnx").open(encoders["text"], "pooled", 10)
