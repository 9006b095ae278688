"""The benchmark plugin whose heads bring a loss of their own, or read words and patches."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from bench_tiny import tiny_plan, tiny_posts
from cotune.benchmark import METHODS, read_results, run_plan
from cotune.heads import HEADS, Embeddings, make_head
from cotune.model import Batch, JointModel
from cotune.settings import FitConfig
from cotune.tasks.single_label import SingleLabel
from tiny import Zoo, picture

PLUGIN = Path(__file__).parents[2] / "benchmarks" / "fusion_beyond_heads.py"
NEW = ("auxiliary", "words-and-patches", "many-heads")
TEXTS = ["good", "a very happy day so good", "sad dog"]


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the plugin; what it registers is gone after the test."""
    for registry in (METHODS, HEADS):
        monkeypatch.setattr(registry, "_items", dict(registry._items))  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("fusion_beyond_heads", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def states_model(zoo: Zoo, **settings: Any) -> JointModel:
    encoders = {"text": zoo.text("distilbert"), "image": zoo.image("timm-resnet")}
    torch.manual_seed(0)
    dims = {name: encoder.dim for name, encoder in encoders.items()}
    head = make_head("words-and-patches", dims, 3, width=16, heads=2, **settings)
    return JointModel(encoders, head, SingleLabel(["a", "b", "c"])).eval()


def batch_of(model: JointModel, texts: list[str], *, pictures: bool = True) -> Batch:
    present = torch.ones(len(texts), 2, dtype=torch.bool)
    present[:, 1] = pictures
    text, image = model.encoders.values()
    inputs: dict[str, Any] = {"text": text.collate(text.tokenize(texts))}  # type: ignore[attr-defined]
    if pictures:
        shots = [image.preprocessor(picture(i)) for i in range(len(texts))]  # type: ignore[attr-defined]
        inputs["image"] = image.collate(shots)  # type: ignore[attr-defined]
    return Batch(present, ("text", "image"), inputs)


def test_words_and_patches_are_read(plugin: ModuleType, zoo: Zoo) -> None:
    model = states_model(zoo)
    with torch.no_grad():
        embeddings = model.embed(batch_of(model, TEXTS))
        outputs = model.head(embeddings)
        for name, output in embeddings.states.items():
            assert output.states is not None
            moved = replace(output, states=output.states + 1)
            other = Embeddings(embeddings, embeddings.present, {**embeddings.states, name: moved})
            assert not torch.allclose(model.head(other), outputs, atol=1e-4), "the head sees more than two embeddings"
        alone = model(batch_of(model, TEXTS[:1]))
    assert outputs.shape == (3, 3)
    torch.testing.assert_close(outputs[:1], alone, atol=1e-5, rtol=1e-4, msg="padding is not attended to")


def test_posts_without_a_picture(plugin: ModuleType, zoo: Zoo) -> None:
    model = states_model(zoo, modality_dropout=0.5).train()
    outputs = model(batch_of(model, TEXTS, pictures=False))
    assert outputs.shape == (3, 3)
    assert torch.isfinite(outputs).all()


@pytest.mark.parametrize("name", ["auxiliary", "many-heads"])
def test_every_part_learns(plugin: ModuleType, name: str) -> None:
    torch.manual_seed(0)
    head: Any = make_head(name, {"text": 12, "image": 20}, 3, width=16, heads=2, dropout=0.0, modality_dropout=0.0)
    drawn = {"text": torch.randn(5, 12), "image": torch.randn(5, 20)}
    given = Embeddings(drawn, torch.ones(5, 2, dtype=torch.bool))
    targets = torch.tensor([0, 1, 2, 0, 1])
    loss = SingleLabel(["a", "b", "c"]).loss(FitConfig(), targets.numpy())
    outputs = head.train()(given)
    said = [part(given.only(own)) for part, own in zip(head.parts, head.reading, strict=True)]
    own = head.own_loss(given, outputs, targets, loss)
    single = torch.stack([torch.nn.functional.cross_entropy(each, targets) for each in said])
    torch.testing.assert_close(own, single[1:].sum() if name == "auxiliary" else single.mean())
    (own + loss(outputs, targets)).backward()
    for part in head.parts:
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    answer = head.eval()(given).softmax(dim=1)
    each = torch.stack(said, dim=1).softmax(dim=-1)
    torch.testing.assert_close(answer, each[:, 0] if name == "auxiliary" else each.mean(dim=1))


def test_the_benchmark_runs_them(plugin: ModuleType, zoo: Zoo, tmp_path: Path) -> None:
    plan = tiny_plan(zoo, tmp_path / "cache", methods=("joint", *NEW), fit={"tune": "top"})
    posts = tiny_posts(tmp_path)
    run_plan(posts, plan, tmp_path / "out")
    rows = {key.method: row for key, row in read_results(tmp_path / "out").rows.items()}
    assert set(rows) == {"joint", *NEW}
    assert all(row.complete for row in rows.values())
    for name in NEW:
        assert abs(rows[name].proba - rows["joint"].proba).max() > 1e-4, name
    assert plan.emap > 0
    run_plan(posts, replace(plan, methods=NEW, emap=0), tmp_path / "unprojected")
    for key, row in read_results(tmp_path / "unprojected").rows.items():
        np.testing.assert_allclose(row.proba, rows[key.method].proba, atol=2e-6, err_msg="scores do not hang on EMAP")
