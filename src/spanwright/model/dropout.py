"""Dropout whose masks cost a processor little."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

_STEPS = 1 << 16  # in which a probability is told: torch's own masks draw 53 bits an element


class QuickDropout(nn.Dropout):
    """`nn.Dropout`; on a CPU, masks of 16 bits an element from a generator that torch's seeds.

    torch draws each element of a mask from its Mersenne twister, one after the other: a fifth of a training step
    there. Here that generator is asked for one number, which seeds another for the whole mask, so that the global
    random state still decides everything and can be put back.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """As `nn.Dropout.forward`."""
        quick = self.training and 0 < self.p < 1 and input.device.type == "cpu" and not self.inplace
        if not quick or torch.compiler.is_compiling():  # what is compiled cannot ask numpy
            return super().forward(input)
        return input * kept(input.shape, self.p, input.device).to(input.dtype).mul_(1 / (1 - self.p))


def quicken(model: nn.Module) -> None:
    """Let every plain dropout inside `model` be a quick one."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = QuickDropout


def kept(shape: Sequence[int], probability: float, device: torch.device) -> Tensor:
    """(`shape`) True with 1 - `probability`, on a CPU to 1 in 65,536."""
    if device.type != "cpu" or torch.compiler.is_compiling():
        return torch.empty(shape, dtype=torch.bool, device=device).bernoulli_(1 - probability)
    count = math.prod(shape)
    seed = torch.randint(1 << 62, (1,), device="cpu").numpy()
    bits = np.random.SFC64(seed).random_raw((count + 3) // 4).view(np.uint16)[:count]
    return torch.from_numpy(bits >= round(probability * _STEPS)).view(shape)
