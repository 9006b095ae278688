"""Low-rank adapters (Hu et al. 2021) on the linear layers of the encoders, merged when training ends."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from cotune.encoders.base import Encoder
from cotune.errors import ConfigError
from cotune.model import JointModel

# These networks read the weights of some layers themselves, past the layer, so that an adapter would be ignored;
# peft refuses them by the same names.
_READ_PAST = {"mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"}
_PAST = {"out_proj", "conv1d"}


def add_adapters(model: JointModel, *, rank: int = 8, seed: int = 0) -> None:
    """Freeze the pretrained encoders and put trainable adapters beside their linear and 1x1 convolution layers.

    Raises
    ------
    ConfigError
        If peft is not installed, or an encoder has no layer that takes an adapter.
    """
    torch.manual_seed(seed)
    for encoder in model.distinct_encoders.values():
        if encoder.learned:
            encoder.requires_grad_(True)
        else:
            adapt(encoder, rank=rank)
    model.head.requires_grad_(True)


def adapt(encoder: Encoder, *, rank: int = 8) -> None:
    """Freeze one encoder and put trainable adapters beside its layers.

    Raises
    ------
    ConfigError
        If peft is not installed, or the encoder has no layer that takes an adapter.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError("--tune lora needs peft: pip install 'cotune[lora]'") from error
    encoder.requires_grad_(False)
    past = _PAST if getattr(getattr(encoder.model, "config", None), "model_type", None) in _READ_PAST else set()
    targets = [
        name
        for name, module in encoder.model.named_modules()
        if _takes_adapter(module, rank) and name.rpartition(".")[2] not in past
    ]
    if not targets:
        raise ConfigError(f"--tune lora: {encoder.spec} has no layer that takes an adapter; use --tune top or joint")
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.1, target_modules=targets)
    with warnings.catch_warnings():
        # peft finds out for each layer whether its weights are transposed, and warns that it did.
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        inject_adapter_in_model(settings, encoder.model)
    for layer in _adapters(encoder).values():
        _show_sizes(layer)


def _takes_adapter(module: nn.Module, rank: int) -> bool:
    """Tell whether a layer is linear at each place, and wide enough for the adapter to be of low rank.

    (Gradients of the weights of a 1x1 convolution with stride over three channels also corrupt memory in torch 2.14
    on CPUs; networks have such layers on the image itself.)
    """
    layer: Any = module
    if isinstance(module, nn.Linear) or _is_transposed_linear(module):
        return bool(min(layer.weight.shape) >= rank)
    if not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1) or module.groups != 1:
        return False
    return min(module.in_channels, module.out_channels) >= rank


def _is_transposed_linear(module: nn.Module) -> bool:
    """Tell whether a module is the linear layer of GPT-2 and its kin, which keeps its weights transposed."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _show_sizes(layer: Any) -> None:
    """Let a layer with an adapter answer for its stride, padding and sizes; some networks ask their layers."""
    base = layer.get_base_layer()
    for name in getattr(base, "__constants__", ()):
        if not hasattr(layer, name):
            setattr(layer, name, getattr(base, name))


def _adapters(encoder: Encoder) -> dict[str, Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in encoder.model.named_modules() if isinstance(module, BaseTunerLayer)}


def merge_adapters(encoder: Encoder) -> None:
    """Fold the adapters into the weights, so that the model is again one of its plain class."""
    for name, layer in _adapters(encoder).items():
        layer.merge()
        parent, _, leaf = name.rpartition(".")
        setattr(encoder.model.get_submodule(parent), leaf, layer.get_base_layer())
