"""Which weights are trained, and how fast: groups, layer-wise decay, what is frozen."""

from __future__ import annotations

from typing import Any

from torch import nn

from cotune.encoders.base import Encoder
from cotune.errors import ConfigError
from cotune.model import JointModel
from cotune.settings import FitConfig
from cotune.training.lora import add_adapters
from cotune.training.stages import PROBE


def default_top(encoder: Encoder) -> int:
    """Return how many upper units ``top`` trains: half of the text layers, a quarter of the image stages."""
    part = 0.5 if encoder.modality == "text" else 0.28
    return max(1, round(len(encoder.units) * part))


def cut_for_top(model: JointModel, config: FitConfig) -> None:
    """Cut the pretrained encoders so that only their upper part is trained.

    Raises
    ------
    ConfigError
        If an encoder has no chain of layers to cut.
    """
    for encoder in model.distinct_encoders.values():
        if not encoder.learned:
            encoder.cut_at(lower_units(encoder, config))


def lower_units(encoder: Encoder, config: FitConfig) -> int:
    """Return how many lower units ``top`` leaves as they are.

    Raises
    ------
    ConfigError
        If the encoder has no chain of layers to cut.
    """
    if len(encoder.units) < 2:
        raise ConfigError(
            f"--tune top needs an encoder made of layers, and {encoder.spec} has none that can be found; "
            "use --tune joint or frozen"
        )
    asked = config.text_top if encoder.modality == "text" else config.image_top
    return len(encoder.units) - min(asked or default_top(encoder), len(encoder.units))


def set_gradients(model: JointModel, stage: str, config: FitConfig) -> None:
    """Let gradients flow to what a stage trains, nowhere else: always to the head and what is learned from scratch."""
    if stage == PROBE:
        for encoder in model.distinct_encoders.values():
            encoder.requires_grad_(encoder.learned)
    elif config.tune == "lora":
        add_adapters(model, seed=config.seed)
    else:
        for encoder in model.distinct_encoders.values():
            upper = encoder.upper_parameters()
            for name, parameter in encoder.model.named_parameters():
                parameter.requires_grad_(name in upper)


def parameter_groups(model: JointModel, stage: str, config: FitConfig) -> list[dict[str, Any]]:
    """Return AdamW groups: head and each depth of each encoder, norms and biases without weight decay.

    The rate of depth d of a pretrained encoder with n units is ``lr * layer_decay ** (n + 1 - d)``: layer-wise decay
    as in Howard & Ruder (2018), "Universal Language Model Fine-tuning for Text Classification". What is learned from
    scratch has the head's rate.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    of_head = config.probe_lr if stage == PROBE else config.lr_head

    def put(parameter: nn.Parameter, rate: float) -> None:
        if parameter.requires_grad and parameter.numel():
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)

    for parameter in model.head.parameters():
        put(parameter, of_head)
    for encoder in model.distinct_encoders.values():
        rate = config.lr_image if encoder.modality == "image" else config.lr_text
        depths, top = encoder.depths(), len(encoder.units) + 1
        for key, parameter in encoder.model.named_parameters():
            put(parameter, of_head if encoder.learned else rate * config.layer_decay ** (top - depths[key]))
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]


def set_train_mode(model: JointModel, *, frozen_norms: bool) -> None:
    """Put what is trained into training mode; frozen encoders and, if asked, batch norms stay as they are.

    Batch-norm statistics of a few posts are noise; the pretrained ones are kept.
    """
    model.train()
    for encoder in model.distinct_encoders.values():
        for module in encoder.modules():
            weights = list(module.parameters())
            if weights and not any(p.requires_grad for p in weights):
                module.eval()
    if frozen_norms:
        freeze_norms(model)
    for module in model.modules():
        # Their gradients need what came in, so that in place they copy it first: a pass over memory for nothing.
        if isinstance(module, nn.Hardtanh | nn.SiLU | nn.Hardswish | nn.Hardsigmoid | nn.Mish):
            module.inplace = False


def freeze_norms(model: nn.Module) -> None:
    """Let batch norms keep their statistics."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
