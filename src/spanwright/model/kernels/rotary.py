"""Rotary positions in one kernel: queries and keys are turned where they are read."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


def rotated(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Queries, keys and values (B, S, 3, heads, d) -> the same with queries and keys turned.

    cosines, sines (1 or B, S, d), whose halves are alike: number n of a head is turned with number n + d / 2.
    """
    found: Tensor = _Rotated.apply(states, cosines, sines)  # type: ignore[no-untyped-call]
    return found


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        return _turned(states, cosines, sines, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cosines, sines = ctx.saved_tensors
        if torch.is_grad_enabled():  # turned back by what can be turned again
            return rotated(gradient, cosines, -sines), None, None
        return _turned(gradient, cosines, sines, -1.0), None, None


def _turned(states: Tensor, cosines: Tensor, sines: Tensor, sign: float) -> Tensor:
    states, cosines, sines = (each.contiguous() for each in (states, cosines, sines))
    rows, length, _, heads, size = states.shape
    found = torch.empty_like(states)
    if states.numel() == 0:
        return found
    _turn[rows * length,](
        states,
        cosines,
        sines,
        found,
        length,
        heads,
        size // 2,
        length * size if len(cosines) > 1 else 0,
        sign,
        HEADS=triton.next_power_of_2(3 * heads),
        HALF=triton.next_power_of_2(size // 2),
    )
    return found


@triton.jit
def _turn(
    states, cosines, sines, found, length, heads, half, row_step, sign,
    HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    place = tl.arange(0, HALF)[None, :]
    inside = place < half
    listed = (head < 3 * heads) & inside
    angle = token // length * row_step + token % length * 2 * half + place
    turns = head < 2 * heads  # values stay
    cosine = tl.where(turns, tl.load(cosines + angle, mask=inside, other=1.0).to(tl.float32), 1.0)
    sine = tl.where(turns, tl.load(sines + angle, mask=inside, other=0.0).to(tl.float32) * sign, 0.0)
    where = token * 3 * heads * 2 * half + head * 2 * half + place
    first = tl.load(states + where, mask=listed, other=0.0).to(tl.float32)
    second = tl.load(states + where + half, mask=listed, other=0.0).to(tl.float32)
    kind = found.dtype.element_ty
    tl.store(found + where, (first * cosine - second * sine).to(kind), mask=listed)
    tl.store(found + where + half, (second * cosine + first * sine).to(kind), mask=listed)


__all__ = ["rotated"]
