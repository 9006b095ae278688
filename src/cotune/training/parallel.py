"""A model and its optimizer on one device or on several: whole on each, or in parts that they exchange.

With `ddp` every device holds the model and gradients are averaged. With `fsdp` every device holds a part of each
weight, gradient and moment, and gathers a layer's weights while it runs (Zhao et al. 2023, "PyTorch FSDP: Experiences
on Scaling Fully Sharded Data Parallel"). What is kept between epochs is whole either way, so that a training may go on
under another number of devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from cotune.model import JointModel
from cotune.settings import FitConfig
from cotune.training.parameters import parameter_groups
from cotune.training.ranks import ranks
from cotune.training.stages import Stage

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Parallel:
    """A model that is being trained, on as many devices as there are ranks.

    Parameters
    ----------
    fabric : Fabric
        Knows the device and the number format.
    model : JointModel
        The model; with `fsdp` it is divided in place while a stage runs.
    config : FitConfig
        The settings.
    stage : Stage
        What is trained of it.
    """

    def __init__(self, fabric: Fabric, model: JointModel, config: FitConfig, stage: Stage) -> None:
        self.fabric, self.model, self.ranks = fabric, model, ranks()
        self.sharded = is_sharded(config, stage)
        if self.sharded:
            shard(model, fabric.device)
        # One pass over the weights instead of a dozen. Lightning clips gradients that are scaled only without it.
        scaled = getattr(fabric.strategy.precision, "scaler", None) is not None
        fused = fabric.device.type in ("cpu", "cuda") and not scaled and not self.sharded
        groups = parameter_groups(model, stage.name, config)
        self.plain = torch.optim.AdamW(groups, fused=True if fused else None)
        self.forward: Any = model
        self.optimizer: Any = self.plain
        if not self.sharded:
            self.forward, self.optimizer = fabric.setup(model, self.plain)

    def accumulating(self, more: bool) -> AbstractContextManager[Any]:
        """Return what keeps gradients to each device while `more` batches follow before the next step."""
        if self.ranks.count == 1 or self.sharded:
            return nullcontext()
        return self.fabric.no_backward_sync(self.forward, enabled=more)

    def settle(self) -> None:
        """After an epoch, take the batch-norm statistics of the first device, as ddp does in every batch."""
        if self.sharded:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def clip(self, max_norm: float) -> None:
        """Limit the norm of all gradients together."""
        if self.sharded:
            nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        else:
            self.fabric.clip_gradients(self.forward, self.plain, max_norm=max_norm, error_if_nonfinite=False)

    def state(self) -> dict[str, Any]:
        """Return the optimizer's state, whole."""
        state = self.optimizer.state_dict()
        slots = {at: {name: whole(value) for name, value in slot.items()} for at, slot in state["state"].items()}
        return {**state, "state": slots}

    def load(self, state: dict[str, Any]) -> None:
        """Bring back the optimizer's state, laid out and divided as the weights are.

        The fused optimizer walks through weights and moments as they lie in memory, and files hold the latter row by
        row.
        """
        if self.sharded:
            parameters = [parameter for group in self.plain.param_groups for parameter in group["params"]]
            slots = {at: _divided(parameters[at], slot) for at, slot in state["state"].items()}
            state = {**state, "state": slots}
        self.plain.load_state_dict(state)
        for parameter, slot in self.plain.state.items():
            for name, value in slot.items():
                if value.shape == parameter.shape and value.stride() != parameter.stride():
                    slot[name] = torch.empty_like(parameter).copy_(value)


def divides(config: FitConfig) -> bool:
    """Tell whether weights are divided among the devices when encoders are trained."""
    return config.strategy == "fsdp" and ranks().count > 1


def is_sharded(config: FitConfig, stage: Stage) -> bool:
    """Tell whether a stage trains weights that are divided among the devices: the probe's head is too small for it."""
    return divides(config) and stage.name == config.tune


def shard(model: JointModel, device: torch.device) -> None:
    """Divide a model among the ranks, layer by layer."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # convolutions lie channels last, which cannot be divided
    mesh = init_device_mesh(device.type, (ranks().count,))
    for encoder in model.distinct_encoders.values():
        for name in encoder.units:
            unit = encoder.model.get_submodule(name)
            if next(unit.parameters(), None) is not None:
                fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.always_encode = True


def whole(tensor: Any) -> Any:
    """Return a tensor that is not divided; every rank has to ask.

    One that was goes to the CPU, as all of them together may be too large for a device.
    """
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def like(parameter: DTensor, value: Tensor) -> DTensor:
    """Return a whole tensor divided as a parameter is; every rank has to ask."""
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def _divided(parameter: DTensor, slot: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an optimizer's state of a parameter, divided as it is; the number of steps stays whole."""
    return {name: like(parameter, value) if value.shape == parameter.shape else value for name, value in slot.items()}


def copy_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies that training does not touch, whole."""
    return {name: whole(p.detach()).clone() for name, p in tensors.items()}


def put_back(tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Write kept values into what is trained."""
    with torch.no_grad():
        for name, parameter in tensors.items():
            value = weights[name]
            parameter.copy_(like(parameter, value) if isinstance(parameter, DTensor) else value)


def finite(tensors: Iterable[Tensor]) -> bool:
    """Tell whether all that this device holds of some tensors are numbers."""
    local = (tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors)
    return all(bool(tensor.isfinite().all()) for tensor in local)
