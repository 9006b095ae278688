"""Low-rank adapters (Hu et al. 2021) on the linear layers of both encoders, merged when training ends."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cotune.errors import ConfigError
from cotune.model import JointModel


def add_adapters(model: JointModel, *, rank: int = 8, seed: int = 0) -> None:
    """Freeze both encoders and put trainable adapters beside their linear and 1x1 convolution layers.

    Raises
    ------
    ConfigError
        If peft is not installed, or an encoder has no layer that takes an adapter.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as fault:
        raise ConfigError("--tune lora needs peft: pip install 'cotune[lora]'") from fault
    torch.manual_seed(seed)
    for encoder in model.encoders.values():
        encoder.requires_grad_(False)
        targets = [name for name, module in encoder.model.named_modules() if _takes_adapter(module)]
        if not targets:
            raise ConfigError(f"--tune lora: {encoder.spec} has no linear layer; use --tune top or joint")
        settings = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.1, target_modules=targets)
        inject_adapter_in_model(settings, encoder.model)
    model.head.requires_grad_(True)


def _takes_adapter(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return True
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1


def merge_adapters(model: JointModel) -> None:
    """Fold the adapters into the weights, so that the model is again one of its plain class."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for encoder in model.encoders.values():
        for name, module in list(encoder.model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                tuned: Any = module
                tuned.merge()
                parent, _, leaf = name.rpartition(".")
                setattr(encoder.model.get_submodule(parent), leaf, tuned.get_base_layer())
