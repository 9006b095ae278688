"""Gradients of depthwise convolutions in bf16 on a CPU, by the kernels that are fast there.

oneDNN answers two gradients of a depthwise convolution in bf16 by a plain reference loop, 4 to 40 times as slow as in
float32: that of a kernel wider than 3, and that of the input where the stride is larger than 1. EfficientNet, ConvNeXt
and their kin consist of such convolutions, and would train more slowly in bf16 than in float32. Here the gradient of a
wide kernel is put together of 3 x 3 parts, each of which sees the input shifted, and that of a strided input is
computed in float32. `benchmarks/profile_training.py` times both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_FAST = 3  # widest kernel whose gradient oneDNN has a fast bf16 kernel for


class FastDepthwise(TorchFunctionMode):
    """While open, depthwise convolutions in bf16 on a CPU have the gradients of this module; all else is as it was."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer the convolutions that are concerned."""
        if func is torch.conv2d and torch.is_grad_enabled():
            given = dict(kwargs or {})
            if "input" in given:
                given["x"] = given.pop("input")
            return _convolve(*args, **given)
        return func(*args, **(kwargs or {}))


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    depthwise = 1 < groups == weight.shape[0] == x.shape[-3] and x.ndim == 4
    slow = max(weight.shape[2:]) > _FAST or max(_pair(stride)) > 1
    plain = max(_pair(dilation)) == 1 and not isinstance(padding, str) and x.device.type == "cpu"
    if not (depthwise and slow and plain and torch.get_autocast_dtype("cpu") == torch.bfloat16):
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
    found: Tensor = _Depthwise.apply(x.bfloat16(), weight, bias, _pair(stride), _pair(padding))
    return found


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of a bf16 input, shape (B, C, H, W), by weights of shape (C, 1, h, w)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int]
    ) -> Tensor:
        """Convolve, as autocast would."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.bias = stride, padding, None if bias is None else bias.dtype
        half = None if bias is None else bias.to(x.dtype)
        return torch.conv2d(x, weight.to(x.dtype), half, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of input, weights and bias."""
        (slope,) = slopes
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            dtype = torch.float32 if max(ctx.stride) > 1 else x.dtype
            shape = torch.empty_like(x, dtype=dtype)  # of the input nothing else counts here
            of_x = _slopes(slope.to(dtype), shape, weight.to(dtype), ctx.stride, ctx.padding, of_input=True).to(x.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = _of_weight(slope, x, weight.to(x.dtype), ctx.stride, ctx.padding).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            of_bias = slope.sum(dim=(0, 2, 3), dtype=torch.float32).to(ctx.bias)
        return of_x, of_weight, of_bias, None, None


def _of_weight(slope: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int]) -> Tensor:
    """Return the gradient of the weights, in parts no wider than what is fast."""
    height, width = weight.shape[2:]
    if max(height, width) <= _FAST:
        return _slopes(slope, x, weight, stride, padding, of_input=False)
    if any(padding):
        x = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    found = torch.empty_like(weight)
    rows, columns = ((size - 1) * step for size, step in zip(slope.shape[2:], stride, strict=True))
    for top, h in _parts(height):
        for left, w in _parts(width):
            part = (..., slice(top, top + h), slice(left, left + w))
            seen = x[..., top : top + rows + h, left : left + columns + w]
            found[part] = _slopes(slope, seen, weight[part], stride, [0, 0], of_input=False)
    return found


def _parts(size: int) -> list[tuple[int, int]]:
    """Return beginning and length of the parts that cover a side of a kernel; the last one may overlap."""
    return [(0, size)] if size <= _FAST else [(min(at, size - _FAST), _FAST) for at in range(0, size, _FAST)]


def _slopes(
    slope: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], *, of_input: bool
) -> Tensor:
    wanted = [of_input, not of_input, False]
    found = torch.ops.aten.convolution_backward(
        slope, x, weight, None, stride, padding, [1, 1], False, [0, 0], len(weight), wanted
    )
    result: Tensor = found[0] if of_input else found[1]
    return result


def _pair(size: Any) -> list[int]:
    sides = [int(size)] if isinstance(size, int) else [int(side) for side in size]
    return sides * 2 if len(sides) == 1 else sides
