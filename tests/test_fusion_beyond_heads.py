"""The benchmark plugin whose methods change the model or its loss."""

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
from cotune.heads import HEADS, make_head
from cotune.model import Batch, JointModel
from cotune.training import loop, recipe
from tiny import Zoo, picture

PLUGIN = Path(__file__).parent.parent / "benchmarks" / "fusion_beyond_heads.py"
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


def states_model(plugin: ModuleType, zoo: Zoo, **settings: Any) -> Any:
    text, image = zoo.text("distilbert"), zoo.image("timm-resnet")
    torch.manual_seed(0)
    head = make_head("words-and-patches", text.dim, image.dim, 3, width=16, heads=2, **settings)
    return plugin.StatesModel(text, image, head).eval()


def batch_of(model: Any, texts: list[str], *, pictures: bool = True) -> Batch:
    present = torch.ones(len(texts), 2, dtype=torch.bool)
    present[:, 1] = pictures
    inputs = {"text": model.text.collate(model.text.tokenize(texts))}
    if pictures:
        shots = [model.image.preprocessor(picture(i)) for i in range(len(texts))]
        inputs["image"] = model.image.collate(shots)
    return Batch(present, inputs)


def test_words_and_patches_are_read(plugin: ModuleType, zoo: Zoo) -> None:
    model = states_model(plugin, zoo)
    batch = batch_of(model, TEXTS)
    with torch.no_grad():
        with_states = model(batch)
        without = JointModel.forward(model, batch)
        alone = model(batch_of(model, TEXTS[:1]))
    assert with_states.shape == (3, 3)
    assert not torch.allclose(with_states, without, atol=1e-4), "the head sees more than two embeddings"
    torch.testing.assert_close(with_states[:1], alone, atol=1e-5, rtol=1e-4, msg="padding is not attended to")


def test_without_states_it_is_the_attention_head(plugin: ModuleType, zoo: Zoo) -> None:
    model = states_model(plugin, zoo)
    text, image = torch.randn(4, model.text.dim), torch.randn(4, model.image.dim)
    cached = Batch(torch.ones(4, 2, dtype=torch.bool), {"text": {"pooled": text}, "image": {"pooled": image}})
    with torch.no_grad():
        torch.testing.assert_close(model(cached), model.head(text, image, cached.present))


def test_posts_without_a_picture(plugin: ModuleType, zoo: Zoo) -> None:
    model = states_model(plugin, zoo, modality_dropout=0.5).train()
    logits = model(batch_of(model, TEXTS, pictures=False))
    assert logits.shape == (3, 3)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["auxiliary", "many-heads"])
def test_every_part_learns(plugin: ModuleType, name: str) -> None:
    torch.manual_seed(0)
    head = make_head(name, 12, 20, 3, width=16, heads=2, dropout=0.0, modality_dropout=0.0)
    text, image, present = torch.randn(5, 12), torch.randn(5, 20), torch.ones(5, 2, dtype=torch.bool)
    labels = torch.tensor([0, 1, 2, 0, 1])
    parts = head.train()(text, image, present)
    loss = plugin.PartsLoss()(parts, labels)
    single = [torch.nn.functional.cross_entropy(parts[:, k], labels) for k in range(parts.shape[1])]
    torch.testing.assert_close(loss, torch.stack(single).mean())
    loss.backward()
    for part in head.parts:
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    answer = head.eval()(text, image, present).softmax(dim=1)
    each = parts.softmax(dim=-1)
    torch.testing.assert_close(answer, each[:, 0] if name == "auxiliary" else each.mean(dim=1))


def test_the_benchmark_runs_them_and_everything_is_as_before(plugin: ModuleType, zoo: Zoo, tmp_path: Path) -> None:
    plan = tiny_plan(zoo, tmp_path / "cache", methods=("joint", *NEW), fit={"tune": "top"})
    before = (loop.nn.CrossEntropyLoss, recipe.JointModel)
    posts = tiny_posts(tmp_path)
    run_plan(posts, plan, tmp_path / "out")
    assert (loop.nn.CrossEntropyLoss, recipe.JointModel) == before
    rows = {key.method: row for key, row in read_results(tmp_path / "out").rows.items()}
    assert set(rows) == {"joint", *NEW}
    assert all(row.complete for row in rows.values())
    for name in NEW:
        assert abs(rows[name].proba - rows["joint"].proba).max() > 1e-4, name
    assert plan.emap > 0
    run_plan(posts, replace(plan, methods=NEW, emap=0), tmp_path / "unprojected")
    for key, row in read_results(tmp_path / "unprojected").rows.items():
        np.testing.assert_allclose(row.proba, rows[key.method].proba, atol=2e-6, err_msg="scores do not hang on EMAP")
