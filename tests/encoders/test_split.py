"""A network cut in two must say exactly what the whole one says, wherever it is cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cotune.encoders.base import Encoder
from cotune.encoders.split import Cut
from cotune.errors import EncoderError
from tiny import IMAGES, TEXTS, Zoo, picture

SENTENCES = ["a good day !", "the dog and the cat", "so happy", "we love the sun and hate the rain is it not so"]


def text_inputs(encoder: Encoder) -> dict[str, torch.Tensor]:
    return encoder.collate(encoder.tokenize(SENTENCES))


def image_inputs(encoder: Encoder) -> dict[str, torch.Tensor]:
    return encoder.collate([encoder.preprocessor(picture(seed)) for seed in range(3)])


def parts(inputs: dict[str, torch.Tensor], encoder: Encoder) -> dict[str, torch.Tensor]:
    ids = {key: value for key, value in inputs.items() if key != "pixels"}
    return {"hidden": encoder.lower(inputs), **ids}


def check_every_depth(encoder: Encoder, inputs: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        whole = encoder(inputs)
        assert len(encoder.units) >= 3
        for depth in range(1, len(encoder.units)):
            encoder.cut_at(depth)
            assert encoder.n_lower == depth
            cut = encoder(parts(inputs, encoder))
            torch.testing.assert_close(cut.pooled, whole.pooled, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(cut.states, whole.states, atol=1e-6, rtol=1e-6)
            # Raw inputs still go the whole way.
            torch.testing.assert_close(encoder(inputs).pooled, whole.pooled, atol=0, rtol=0)
        encoder.cut_at(0)
        torch.testing.assert_close(encoder(inputs).pooled, whole.pooled, atol=0, rtol=0)
    spread = whole.pooled.std(dim=0).mean()
    assert spread > 1e-3, "the posts must differ for the comparison to mean something"


@pytest.mark.parametrize("kind", TEXTS)
def test_text_cut_equals_whole(zoo: Zoo, kind: str) -> None:
    encoder = zoo.text(kind)
    inputs = text_inputs(encoder)
    assert not inputs["attention_mask"].all(), "padding is part of the test"
    check_every_depth(encoder, inputs)


@pytest.mark.parametrize("kind", TEXTS)
def test_text_cut_ignores_what_lies_at_padding(zoo: Zoo, kind: str) -> None:
    encoder = zoo.text(kind)
    inputs = text_inputs(encoder)
    with torch.no_grad():
        whole = encoder(inputs)
        encoder.cut_at(2)
        given = parts(inputs, encoder)
        given["hidden"] = given["hidden"] * inputs["attention_mask"].unsqueeze(-1)
        torch.testing.assert_close(encoder(given).pooled, whole.pooled, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", IMAGES)
def test_image_cut_equals_whole(zoo: Zoo, kind: str) -> None:
    encoder = zoo.image(kind)
    check_every_depth(encoder, image_inputs(encoder))


@pytest.mark.parametrize("kind", [*TEXTS, *IMAGES])
def test_nothing_above_the_cut_reaches_below(zoo: Zoo, kind: str) -> None:
    """If a weight that `top` trains fed the frozen part too, the kept activations would grow stale."""
    text = kind in TEXTS
    encoder = zoo.text(kind) if text else zoo.image(kind)
    inputs = text_inputs(encoder) if text else image_inputs(encoder)
    encoder.cut_at(2)
    before = encoder.lower(inputs)
    upper = encoder.upper_parameters()
    assert upper
    with torch.no_grad():
        for name, parameter in encoder.model.named_parameters():
            if name in upper:
                parameter.add_(torch.randn_like(parameter))
        after = encoder.lower(inputs)
        torch.testing.assert_close(after, before, atol=0, rtol=0)
        torch.testing.assert_close(encoder(parts(inputs, encoder)).pooled, encoder(inputs).pooled, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "mpnet", "timm-efficientnet", "resnet", "swin"])
def test_gradients_reach_the_upper_part_alone(zoo: Zoo, kind: str) -> None:
    text = kind in TEXTS
    encoder = zoo.text(kind) if text else zoo.image(kind)
    inputs = text_inputs(encoder) if text else image_inputs(encoder)
    encoder.cut_at(1)
    encoder(parts(inputs, encoder)).pooled.pow(2).sum().backward()
    upper = encoder.upper_parameters()
    reached = {name for name, p in encoder.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    units = {name for name in upper if any(name.startswith(unit + ".") for unit in encoder.units[1:])}
    assert units & reached
    lower = {name for name, depth in encoder.depths().items() if depth == 1}
    assert not lower & reached


@pytest.mark.parametrize("kind", ["timm-efficientnet", "resnet"])
def test_cutting_leaves_batch_norm_statistics_alone(zoo: Zoo, kind: str) -> None:
    encoder = zoo.image(kind)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.train()
    encoder.cut_at(1)
    encoder.lower(image_inputs(encoder.eval()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_cut_beyond_the_network_is_refused(zoo: Zoo) -> None:
    encoder = zoo.text("bert")
    for depth in (3, 7, -1):
        with pytest.raises(EncoderError, match="it has 3 units"):
            encoder.cut_at(depth)
    with pytest.raises(EncoderError, match="cut_at first"):
        encoder.lower(text_inputs(encoder))
    with pytest.raises(EncoderError, match="cut_at first"):
        encoder({"hidden": torch.zeros(1, 4, 32)})


def test_units_answer_normally_again_after_a_failure(zoo: Zoo) -> None:
    encoder = zoo.text("bert")
    inputs = text_inputs(encoder)
    with torch.no_grad():
        whole = encoder(inputs).pooled
        encoder.cut_at(2)
        with pytest.raises((RuntimeError, IndexError)):
            encoder({**inputs, "hidden": torch.zeros(4, 3, 7)})
        torch.testing.assert_close(encoder(inputs).pooled, whole, atol=0, rtol=0)


class _Residual(nn.Module):
    """Two units, and a path around the first that a cut would lose."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.units[1](self.units[0](x)) + x


def test_capture_says_when_the_cut_is_never_reached() -> None:
    model = _Residual()
    cut = Cut([model.units[0]])
    with pytest.raises(RuntimeError, match="never reached"):
        cut.capture(lambda: None)
