"""A gated GELU in one kernel: one half of each state, through a GELU, times the other half."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_AT_ONCE = 1024
_KINDS = (torch.float32, torch.bfloat16, torch.float16)


def fits(states: Tensor) -> bool:
    """Whether states are for the kernel."""
    return states.dtype in _KINDS


def gated(states: Tensor) -> Tensor:
    """States (..., 2·D) -> (..., D): gelu(first half) times second half."""
    found: Tensor = _Gated.apply(states)  # type: ignore[no-untyped-call]
    return found


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor) -> Tensor:
        states = states.contiguous()
        ctx.save_for_backward(states)
        size = states.shape[-1] // 2
        found = states.new_empty(*states.shape[:-1], size)
        if found.numel() > 0:
            grid = (found.numel() // size, triton.cdiv(size, _AT_ONCE))
            _gate[grid](states, found, size, AT_ONCE=_AT_ONCE)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (states,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # as autograd itself makes them, with their history
            first, second = states.chunk(2, dim=-1)
            again = torch.nn.functional.gelu(first) * second
            given: Tensor = torch.autograd.grad(again, states, gradient, create_graph=True)[0]
            return given
        gradient = gradient.contiguous()
        found = torch.empty_like(states)
        size = gradient.shape[-1]
        if gradient.numel() > 0:
            grid = (gradient.numel() // size, triton.cdiv(size, _AT_ONCE))
            _of_states[grid](states, gradient, found, size, AT_ONCE=_AT_ONCE)
        return found


@triton.jit
def _share(state):
    """What a GELU leaves of a number: the normal distribution's share below it."""
    return 0.5 * (1.0 + tl.erf(state * 0.7071067811865476))


@triton.jit
def _gate(states, found, size, AT_ONCE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * AT_ONCE + tl.arange(0, AT_ONCE)
    inside = place < size
    first = tl.load(states + row * 2 * size + place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(states + row * 2 * size + size + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(found + row * size + place, (first * _share(first) * second).to(found.dtype.element_ty), mask=inside)


@triton.jit
def _of_states(states, gradient, found, size, AT_ONCE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * AT_ONCE + tl.arange(0, AT_ONCE)
    inside = place < size
    where = row * 2 * size + place
    first = tl.load(states + where, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(states + where + size, mask=inside, other=0.0).to(tl.float32)
    wanted = tl.load(gradient + row * size + place, mask=inside, other=0.0).to(tl.float32)
    share = _share(first)
    slope = share + first * 0.3989422804014327 * tl.exp(-0.5 * first * first)
    kind = found.dtype.element_ty
    tl.store(found + where, (wanted * second * slope).to(kind), mask=inside)
    tl.store(found + where + size, (wanted * first * share).to(kind), mask=inside)


__all__ = ["fits", "gated"]
