from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from architectures import IMAGE, MAKERS, TEXT
from cotune.encoders.resolve import resolve_image, resolve_text
from cotune.errors import ConfigError
from cotune.heads import make_head
from cotune.model import JointModel
from cotune.settings import FitConfig, make_config
from cotune.tasks.single_label import SingleLabel
from cotune.training.lora import adapt, add_adapters, merge_adapters
from cotune.training.parameters import cut_for_top, default_top, parameter_groups, set_gradients, set_train_mode
from tiny import IMAGES, TEXTS, Zoo


def build(zoo: Zoo, text: str = "distilbert", image: str = "timm-resnet") -> JointModel:
    encoders = zoo.pair(text, image)
    head = make_head("attention", {name: encoder.dim for name, encoder in encoders.items()}, 2, width=8, heads=2)
    return JointModel(encoders, head, SingleLabel(["no", "yes"]))


def config(**settings: Any) -> FitConfig:
    return make_config({"width": 8, "heads": 2, "tune": "joint", **settings})


def set_free(model: JointModel) -> None:
    """Let gradients flow to all that is not below a cut."""
    set_gradients(model, "joint", config())


def groups_of(model: JointModel, **settings: Any) -> list[dict[str, Any]]:
    return parameter_groups(model, "joint", config(**settings))


def rate_and_decay(model: JointModel, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


@pytest.mark.parametrize(("text", "image"), [("bert", "timm-vit"), ("mpnet", "resnet"), ("modernbert", "swin")])
def test_every_trained_parameter_is_in_one_group(zoo: Zoo, text: str, image: str) -> None:
    model = build(zoo, text, image)
    set_free(model)
    groups = groups_of(model)
    listed = [id(p) for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters() if p.requires_grad and p.numel()}


def test_layer_decay_slows_lower_layers(zoo: Zoo) -> None:
    model = build(zoo)
    set_free(model)
    groups = groups_of(model, lr_text=1.0, lr_image=2.0, lr_head=3.0, layer_decay=0.5)
    rates = {name: rate for name, (rate, _) in rate_and_decay(model, groups).items()}
    assert rates["_encoders.0.model.embeddings.word_embeddings.weight"] == 1.0 * 0.5**4
    for layer in range(3):
        assert rates[f"_encoders.0.model.transformer.layer.{layer}.ffn.lin1.weight"] == 1.0 * 0.5 ** (3 - layer)
    stem = [rate for name, rate in rates.items() if name.startswith("_encoders.1.model.conv1.")]
    assert set(stem) == {2.0 * 0.5**5}
    assert rates["_encoders.1.model.layer4.0.conv1.weight"] == 2.0 * 0.5
    assert {rate for name, rate in rates.items() if name.startswith("head.")} == {3.0}


def test_no_decay_of_the_rate_with_one(zoo: Zoo) -> None:
    model = build(zoo)
    set_free(model)
    groups = groups_of(model, layer_decay=1.0, lr_text=1.0, lr_image=1.0, lr_head=1.0)
    assert {group["lr"] for group in groups} == {1.0}


@pytest.mark.parametrize("image", ["timm-resnet", "timm-convnext", "vit"])
def test_norms_and_biases_are_not_decayed(zoo: Zoo, image: str) -> None:
    model = build(zoo, image=image)
    set_free(model)
    decays = rate_and_decay(model, groups_of(model, weight_decay=0.3))
    norms = {
        f"{at}.{name}"
        for at, module in model.named_modules()
        if isinstance(module, nn.LayerNorm | nn.modules.batchnorm._BatchNorm)
        for name, _ in module.named_parameters(recurse=False)
    }
    assert norms
    for name, (_, decay) in decays.items():
        if name in norms or name.endswith("bias"):
            assert decay == 0, name
        elif name.endswith("weight"):
            assert decay == 0.3, name


@pytest.mark.parametrize("kind", [*TEXTS, *IMAGES])
def test_top_trains_exactly_what_lies_above_the_cut(zoo: Zoo, kind: str) -> None:
    model = build(zoo, text=kind) if kind in TEXTS else build(zoo, image=kind)
    encoder = model.encoders["text" if kind in TEXTS else "image"]
    cut_for_top(model, config(text_top=1, image_top=1))
    set_free(model)
    assert encoder.n_lower == len(encoder.units) - 1
    trained = {name for name, p in encoder.model.named_parameters() if p.requires_grad}
    last = {name for name, _ in encoder.model.named_parameters() if name.startswith(encoder.units[-1] + ".")}
    lower = {
        name
        for name, _ in encoder.model.named_parameters()
        if any(name.startswith(unit + ".") for unit in encoder.units[:-1])
    }
    assert last <= trained
    assert not trained & lower
    assert not trained & {name for name, depth in encoder.depths().items() if depth == 0}
    assert all(p.requires_grad for p in model.head.parameters())


def test_shared_position_biases_stay_frozen_in_top(zoo: Zoo) -> None:
    """DeBERTa and MPNet keep them beside the layers, and the frozen layers read them too."""
    for kind, shared in (
        ("deberta-v2", "encoder.rel_embeddings.weight"),
        ("mpnet", "encoder.relative_attention_bias.weight"),
    ):
        model = build(zoo, text=kind)
        cut_for_top(model, config())
        set_free(model)
        assert not dict(model.encoders["text"].model.named_parameters())[shared].requires_grad


def test_default_depth_of_top(zoo: Zoo) -> None:
    assert default_top(zoo.text("bert")) == 2
    assert default_top(zoo.image("timm-resnet")) == 1
    model = build(zoo)
    cut_for_top(model, config(text_top=99, image_top=2))
    assert model.encoders["text"].n_lower == 0, "more than there are means all"
    assert model.encoders["image"].n_lower == 2


def test_top_needs_an_encoder_made_of_layers(zoo: Zoo) -> None:
    model = build(zoo)
    model.encoders["image"].units = ()
    with pytest.raises(ConfigError, match="use --tune joint or frozen"):
        cut_for_top(model, config())


def test_without_a_cut_everything_is_set_free_again(zoo: Zoo) -> None:
    model = build(zoo)
    cut_for_top(model, config())
    set_free(model)
    for encoder in model.encoders.values():
        encoder.cut_at(0)
    set_free(model)
    assert all(p.requires_grad for p in model.parameters())


def test_cutting_does_not_change_what_is_trained(zoo: Zoo) -> None:
    model = build(zoo)
    for encoder in model.encoders.values():
        encoder.requires_grad_(False)
    cut_for_top(model, config())
    assert not any(p.requires_grad for encoder in model.encoders.values() for p in encoder.parameters())


def norms_of(model: JointModel) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_batch_norm_stays_frozen_when_asked(zoo: Zoo) -> None:
    model = build(zoo, image="timm-efficientnet")
    set_free(model)
    set_train_mode(model, frozen_norms=True)
    assert norms_of(model)
    assert not any(norm.training for norm in norms_of(model))
    assert model.encoders["text"].training
    assert model.head.training
    set_train_mode(model, frozen_norms=False)
    assert all(norm.training for norm in norms_of(model))


def test_frozen_parts_stay_in_evaluation_mode(zoo: Zoo) -> None:
    model = build(zoo, image="timm-efficientnet")
    for encoder in model.encoders.values():
        encoder.requires_grad_(False)
    set_train_mode(model, frozen_norms=False)
    assert not model.encoders["text"].training
    assert not model.encoders["image"].training
    assert model.head.training
    # Below a cut, a batch norm in training mode would learn the statistics of the grey stand-in.
    cut_for_top(model, config(image_top=1))
    set_free(model)
    set_train_mode(model, frozen_norms=False)
    inside = dict(model.encoders["image"].model.named_modules())
    assert not any(m.training for m in inside[model.encoders["image"].units[0]].modules())
    assert any(m.training for m in inside[model.encoders["image"].units[-1]].modules())
    stem = [m for name, m in inside.items() if name in ("bn1", "conv_stem")]
    assert stem
    assert not any(m.training for m in stem)


@pytest.mark.parametrize(
    ("text", "image"), [("bert", "timm-resnet"), ("deberta-v2", "swin"), ("distilbert", "convnext")]
)
def test_adapters_begin_as_nothing_and_merge_away(zoo: Zoo, text: str, image: str) -> None:
    model = build(zoo, text, image).eval()
    names = set(model.state_dict())
    ids = model.encoders["text"].collate(model.encoders["text"].tokenize(["a good day", "so"]))
    pixels = {"pixels": torch.randint(0, 255, (2, 3, *model.encoders["image"].preprocessor.size), dtype=torch.uint8)}

    def say() -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([model.encoders["text"](ids).pooled, model.encoders["image"](pixels).pooled], dim=1)

    before = say()
    add_adapters(model, seed=3)
    model.eval()
    torch.testing.assert_close(say(), before)
    trained = [name for name, p in model.named_parameters() if p.requires_grad and not name.startswith("head.")]
    assert trained
    assert all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.add_(torch.randn_like(p) * 0.05)
    tuned = say()
    assert not torch.allclose(tuned, before, atol=1e-3)
    for encoder in model.encoders.values():
        merge_adapters(encoder)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(say(), tuned, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("modality", "name"), [("text", "GPT-2"), ("text", "Mamba"), ("image", "MobileNetV1"), ("image", "MobileNetV2")]
)
def test_adapters_in_networks_of_their_own_kind(modality: str, name: str, tmp_path: Path) -> None:
    known = TEXT if modality == "text" else IMAGE
    MAKERS[modality](next(a for a in known if a.name == name), tmp_path)
    encoder = resolve_text(str(tmp_path)) if modality == "text" else resolve_image(str(tmp_path))
    inputs = encoder.probe_inputs(2)
    with torch.no_grad():
        before = encoder(inputs).pooled
    adapt(encoder)
    encoder.eval()
    torch.testing.assert_close(encoder(inputs).pooled, before)
    with torch.no_grad():
        for at, p in encoder.named_parameters():
            if "lora_B" in at:
                p.add_(torch.randn_like(p) * 0.05)
        tuned = encoder(inputs).pooled
        assert not torch.allclose(tuned, before, atol=1e-4)
        merge_adapters(encoder)
        torch.testing.assert_close(encoder(inputs).pooled, tuned, atol=1e-3, rtol=1e-3)


def test_an_encoder_without_a_layer_for_adapters_is_named(tmp_path: Path) -> None:
    MAKERS["text"](next(a for a in TEXT if a.name == "I-BERT"), tmp_path)
    with pytest.raises(ConfigError, match="has no layer that takes an adapter"):
        adapt(resolve_text(str(tmp_path)))


def test_the_probe_trains_the_head_alone_at_its_own_rate(zoo: Zoo) -> None:
    model, said = build(zoo), config(probe_lr=7.0, lr_head=3.0)
    set_gradients(model, "probe", said)
    rates = rate_and_decay(model, parameter_groups(model, "probe", said))
    assert {rate for rate, _ in rates.values()} == {7.0}
    assert rates.keys() == {f"head.{name}" for name, p in model.head.named_parameters() if p.numel()}
    set_free(model)
    assert all(p.requires_grad for p in model.parameters())
