from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from transformers import CLIPConfig, CLIPModel, DistilBertConfig, DistilBertModel

from cotune.encoders.image import TimmEncoder
from cotune.encoders.text import TextEncoder
from cotune.heads import HEADS, make_head
from cotune.model import Batch, JointModel
from cotune.tasks.single_label import SingleLabel
from tiny import Zoo, make_tokenizer, picture

TEXTS = ["a good day", "so sad", "the dog and the cat", "we love it"]


TASK = SingleLabel(["a", "b", "c"])
KINDS = {"text": "text", "image": "image"}


def build(zoo: Zoo, head: str = "attention") -> JointModel:
    torch.manual_seed(0)
    encoders = {
        name: zoo.text("distilbert") if name == "text" else zoo.image("timm-vit") for name in HEADS[head].reads(KINDS)
    }
    dims = {name: encoder.dim for name, encoder in encoders.items()}
    return JointModel(encoders, make_head(head, dims, 3, width=16, heads=2), TASK).eval()


def batch_of(model: JointModel, present: list[tuple[bool, bool]]) -> Batch:
    inputs: dict[str, Any] = {}
    has_text = [TEXTS[i] for i, (text, _) in enumerate(present) if text]
    has_image = [picture(i) for i, (_, image) in enumerate(present) if image]
    encoders: dict[str, Any] = model.encoders
    if "text" in encoders and has_text:
        inputs["text"] = encoders["text"].collate(encoders["text"].tokenize(has_text))
    if "image" in encoders and has_image:
        inputs["image"] = encoders["image"].collate([encoders["image"].preprocessor(shot) for shot in has_image])
    return Batch(torch.tensor(present), ("text", "image"), inputs)


@pytest.mark.parametrize("head", ["attention", "reference", "concat", "text", "image"])
def test_each_post_is_scored_alike_whatever_stands_beside_it(zoo: Zoo, head: str) -> None:
    model = build(zoo, head)
    present = [(True, True), (False, True), (True, False), (False, False)]
    with torch.no_grad():
        together = model(batch_of(model, present))
        assert together.shape == (4, 3)
        assert torch.isfinite(together).all()
        full = model(batch_of(model, [(True, True)] * 4))
        torch.testing.assert_close(together[0], full[0], atol=1e-5, rtol=1e-5)
        alone = model(batch_of(model, present[:1]))
        torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-5)


def test_embeddings_stand_in_the_rows_of_their_posts(zoo: Zoo) -> None:
    model = build(zoo)
    with torch.no_grad():
        text, image = model.embed(batch_of(model, [(True, False), (False, True), (True, True)])).values()
        whole_text, whole_image = model.embed(batch_of(model, [(True, True)] * 3)).values()
    assert text[1].abs().sum() == 0
    assert image[0].abs().sum() == 0
    torch.testing.assert_close(text[[0, 2]], whole_text[[0, 2]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(image[[1, 2]], whole_image[[1, 2]], atol=1e-5, rtol=1e-5)


def test_gradients_flow_through_a_batch_with_gaps(zoo: Zoo) -> None:
    model = build(zoo)
    model(batch_of(model, [(True, False), (False, True), (True, True)])).sum().backward()
    for encoder in model.encoders.values():
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_a_batch_of_nothing_at_all(zoo: Zoo) -> None:
    model = build(zoo)
    with torch.no_grad():
        logits = model(Batch(torch.zeros(2, 2, dtype=torch.bool), ("text", "image")))
    torch.testing.assert_close(logits[0], logits[1])


def test_batch_moves_with_all_its_parts() -> None:
    inputs = {"text": {"pooled": torch.ones(2, 3)}}
    targets, rows, weights = torch.tensor([0, 1]), torch.tensor([5, 6]), torch.ones(2)
    batch = Batch(torch.ones(2, 2), ("text", "image"), inputs, targets, rows, weights)
    moved = batch.to(torch.device("meta"))
    assert len(moved) == 2
    assert moved.present.is_meta
    assert moved.inputs["text"]["pooled"].is_meta
    assert moved.targets is not None
    assert moved.targets.is_meta
    assert moved.weights is not None
    assert moved.weights.is_meta
    assert moved.rows is not None
    assert moved.rows.tolist() == [5, 6], "positions are read on the CPU"


def test_a_head_of_one_modality_has_one_encoder(zoo: Zoo) -> None:
    assert list(build(zoo, "text").encoders) == ["text"]
    assert list(build(zoo, "image").encoders) == ["image"]
    assert list(build(zoo).encoders) == ["text", "image"]


def test_parameter_counts_add_up(zoo: Zoo) -> None:
    model = build(zoo)
    counts = model.parameter_counts()
    assert counts["total"] == counts["text"] + counts["image"] + counts["head"]
    assert counts["total"] == sum(p.numel() for p in model.parameters())


# ---- Table 2 of the paper ----------------------------------------------------------------------------


def paper_model(head: str, **settings: int) -> dict[str, int]:
    with torch.device("meta"):
        text = DistilBertModel(DistilBertConfig())
        image = timm.create_model("resnet50", num_classes=0)
        fusion = make_head(head, {"text": 768, "image": 2048}, 3, **settings)
    data = {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center"}
    encoders = {
        "text": TextEncoder(text, make_tokenizer("distilbert"), spec="distilbert", pooling="cls", max_tokens=64),
        "image": TimmEncoder(
            image,
            architecture="resnet50",
            data_config={**data, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
            spec="timm:resnet50",
        ),
    }
    return JointModel(encoders, fusion, TASK).parameter_counts()


def millions(count: int, digits: int = 1) -> float:
    return round(count / 1e6, digits)


def test_parameters_of_the_reference_form() -> None:
    counts = paper_model("reference")
    assert millions(counts["image"]) == 23.5
    assert millions(counts["text"]) == 66.4
    assert millions(counts["total"]) == 90.3


def test_parameters_of_the_concatenation() -> None:
    assert millions(paper_model("concat", width=32)["total"]) == 90.0


def test_parameters_of_clip() -> None:
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig())
    assert millions(sum(p.numel() for p in model.parameters()), 2) == 151.28
