"""Gradients between processes that each hold all weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, distributed, nn

_BUCKET = 32 << 20  # bytes that travel together: fewer messages, and little memory beside the gradients


def present(parameters: Sequence[nn.Parameter]) -> list[bool]:
    """Which parameters have a gradient."""
    return [parameter.grad is not None for parameter in parameters]


def exchange(parameters: Sequence[nn.Parameter]) -> int:
    """Sum gradients over processes, in place; a parameter without one takes part with 0. The bytes summed come back."""
    size = 0
    for bucket in _buckets(parameters):
        for parameter in bucket:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients: list[Tensor] = [parameter.grad for parameter in bucket if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        size += flat.numel() * flat.element_size()
        for gradient, summed in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))
    return size


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one type, up to a size; the same in every process."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        num_bytes = parameter.numel() * parameter.element_size()
        if bucket and (size + num_bytes > _BUCKET or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += num_bytes
    if bucket:
        yield bucket
