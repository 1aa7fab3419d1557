"""Sharded tensors (FSDP2) to whole ones and back. Every process must call these together, in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def gather_weights(model: nn.Module) -> dict[str, Tensor]:
    """A sharded model's state dict, whole, in every process."""
    weights: dict[str, Tensor] = unsharded(model.state_dict())
    return weights


def unsharded(value: Any) -> Any:
    """`value` (nested mappings and lists) with every sharded tensor whole."""
    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    if isinstance(value, Mapping):
        return {key: unsharded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(unsharded, value))
    return value


def load_sharded(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put whole weights into a sharded model."""
    for name, own in model.state_dict().items():
        given = weights[name].to(own.device)
        own.copy_(distribute_tensor(given, own.device_mesh, own.placements) if isinstance(own, DTensor) else given)


def shard_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """After whole states were loaded into an optimizer: shard each as its parameter is."""
    for parameter, state in optimizer.state.items():
        if isinstance(parameter, DTensor):
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and not isinstance(value, DTensor):
                    state[name] = distribute_tensor(value, parameter.device_mesh, parameter.placements)
