"""Gradients of depthwise convolutions in bf16: near those of float32, by autocast's own measure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cotune.training import depthwise
from cotune.training.depthwise import FastDepthwise

CASES: list[dict[str, Any]] = [
    {"kernel": (5, 5), "padding": 2},
    {"kernel": (5, 5), "padding": 0, "stride": 2},
    {"kernel": (4, 4), "padding": 1, "stride": 2},
    {"kernel": (3, 3), "padding": (0, 1), "stride": 2},
    {"kernel": (3, 3), "padding": 4, "stride": 2},  # more padding than the kernel is wide
    {"kernel": (7, 7), "padding": 3, "stride": 3},
    {"kernel": (3, 5), "padding": (1, 2), "stride": (2, 1)},
]


def slopes(case: dict[str, Any], *, fast: bool, half: bool) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    x = torch.randn((2, 6, 13, 10), generator=random).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn((6, 1, *case["kernel"]), generator=random).requires_grad_()
    bias = torch.randn(6, generator=random).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        given = {"stride": case.get("stride", 1), "padding": case["padding"], "groups": 6}
        if fast:
            with FastDepthwise():
                found = functional.conv2d(x, weight, bias, **given)
        else:
            found = functional.conv2d(x, weight, bias, **given)
    found.float().square().sum().backward()
    grads = [tensor.grad for tensor in (x, weight, bias)]
    return [found.float().detach(), *(grad for grad in grads if grad is not None)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_as_good_as_autocasts(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    apply = depthwise._Depthwise.apply
    monkeypatch.setattr(depthwise._Depthwise, "apply", lambda *args: used.append(1) or apply(*args))
    exact, plain, fast = (slopes(case, fast=f, half=h) for f, h in ((False, False), (False, True), (True, True)))
    assert used
    assert torch.equal(plain[0], fast[0])
    for true, theirs, ours in zip(exact, plain, fast, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        assert ours.shape == true.shape
        assert (ours - true).norm() <= 1.5 * (theirs - true).norm() + 1e-6 * true.norm()


def test_all_other_convolutions_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise AssertionError("not one of those")

    monkeypatch.setattr(depthwise._Depthwise, "apply", refuse)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    full, narrow, pairs = torch.randn(4, 4, 5, 5), torch.randn(4, 1, 3, 3), torch.randn(4, 2, 5, 5)
    with FastDepthwise():
        functional.conv2d(x, narrow, stride=2, groups=4)  # in float32
        with torch.autocast("cpu", torch.bfloat16):
            functional.conv2d(input=x, weight=full)
            functional.conv2d(x, pairs, groups=2)
            functional.conv2d(x, narrow, padding="same", groups=4)
            functional.conv2d(x, narrow, dilation=2, groups=4)
            with torch.no_grad():
                functional.conv2d(x, narrow, stride=2, groups=4)
