"""The optimizer, its groups, and the schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from spanwright.errors import ConfigError
from spanwright.model import GLiNER
from spanwright.train_config import OptimizerOptions

_BACKBONES = ("backbone.transformer.", "label_encoder.transformer.")


def build_optimizer(model: GLiNER, options: OptimizerOptions) -> torch.optim.AdamW:
    """AdamW over what requires gradients, in up to four groups: the transformer or the rest, decayed or not.

    Vectors (biases, norms) are not decayed. Each group keeps its own rate; 0.0 means 0.0.

    Raises:
        ConfigError: everything is frozen.

    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith(_BACKBONES), parameter.dim() > 1), []).append(parameter)
    if not groups:
        raise ConfigError("`training.freeze` must leave something to train, but every part is frozen.")
    rates = {True: options.backbone_lr, False: options.lr}
    decays = {True: options.backbone_weight_decay, False: options.weight_decay}
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rates[backbone], "weight_decay": decays[backbone] if matrix else 0.0}
            for (backbone, matrix), parameters in groups.items()
        ],
        lr=options.lr,
        betas=(0.9, options.beta2),
        fused=True,  # one pass over the weights instead of a dozen
    )


@dataclass(frozen=True)
class Schedule:
    """The rates of a whole run: each group's own, times a factor that is a function of the step."""

    options: OptimizerOptions
    base_rates: tuple[float, ...]
    num_steps: int

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set the rates for the step after `step` others; that of the last group comes back."""
        factor = rate_factor(step, self.num_steps, self.options)
        for group, rate in zip(optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        return self.base_rates[-1] * factor


def rate_factor(step: int, num_steps: int, options: OptimizerOptions) -> float:
    """What every group's rate is multiplied by at `step` (from 0) of `num_steps`."""
    warmup = math.ceil(options.warmup * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(num_steps - warmup, 1)
    if options.schedule == "linear":
        return max(1.0 - progress, 0.0)
    if options.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return 1.0
