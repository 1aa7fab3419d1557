"""The products of spans and labels, with the spans' inner states made where they are used.

The same contract as the plain form in `model.markers`: `products` and `gradients`. Each kernel takes some spans (or
words) and some of the states' H numbers at a time, so no state is ever written to memory; a byte for each of them,
whether it is alive, is all that the forward leaves to the backward. Sums are float32, in an order that does not vary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_SPANS, _WORDS, _LEAST_LABELS = 64, 16, 16  # that a kernel takes at once; its matrix units want 16 or more
_MOST_LABELS = 64
_KINDS = (torch.float32, torch.bfloat16, torch.float16)


def fits(starts: Tensor, ends: Tensor, labels: Tensor, max_width: int) -> bool:
    """Whether these are for the kernels: few labels, numbers of one kind, a row's states counted in 32 bits."""
    kinds = {starts.dtype, ends.dtype, labels.dtype}
    few = 0 < labels.shape[1] <= _MOST_LABELS and starts.shape[0] > 0
    counted = starts[0].numel() * max_width < 1 << 31 if few else False
    return counted and len(kinds) == 1 and starts.dtype in _KINDS


def products(
    starts: Tensor, ends: Tensor, labels: Tensor, max_width: int, dropout: float, *, recording: bool
) -> tuple[Tensor, list[Tensor]]:
    """Starts, ends (B, L, H), labels (B, C, H) -> products (B, L, K, C), and which states are alive (B, L, K, H).

    Spans that end after L have products of 0, and no state of theirs is alive.
    """
    starts, ends, labels = (each.contiguous() for each in (starts, ends, labels))
    rows, length, size = starts.shape
    num_labels = labels.shape[1]
    found = starts.new_empty(rows, length, max_width, num_labels)
    kept = recording or dropout > 0
    alive = torch.empty(rows, length, max_width, size if kept else 0, dtype=torch.bool, device=starts.device)
    seed = torch.randint(1 << 62, (1,), device=starts.device) if dropout > 0 else starts
    grid = (triton.cdiv(length * max_width, _SPANS), rows)
    _products[grid](
        starts,
        ends,
        labels / (1 - dropout),
        found,
        alive.view(torch.uint8),
        seed,
        length,
        num_labels,
        size,
        max_width,
        dropout,
        DROPS=dropout > 0,
        KEEPS=kept,
        SPANS=_SPANS,
        SIZE=_size(starts),
        LABELS=_columns(num_labels),
    )
    return found, [alive]


def gradients(
    starts: Tensor, ends: Tensor, labels: Tensor, alive: list[Tensor], gradient: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Those of starts, ends and labels, given that of the products; states are multiplied by `scale`."""
    starts, ends, labels, gradient = (each.contiguous() for each in (starts, ends, labels, gradient))
    rows, length, max_width, num_labels = gradient.shape
    size = starts.shape[2]
    of_starts, of_ends, of_labels = (torch.empty_like(each) for each in (starts, ends, labels))
    living = alive[0].view(torch.uint8)
    shared = {"SIZE": _size(starts), "LABELS": _columns(num_labels)}
    numbers = (length, num_labels, size, max_width, scale)
    parts = triton.cdiv(size, shared["SIZE"])
    _of_words[triton.cdiv(length, _WORDS), parts, rows](
        labels, gradient, living, of_starts, of_ends, *numbers, WORDS=_WORDS, **shared
    )
    _of_labels[parts, rows](starts, ends, gradient, living, of_labels, *numbers, SPANS=_SPANS, **shared)
    return of_starts, of_ends, of_labels


def _size(states: Tensor) -> int:
    return 32 if states.dtype == torch.float32 else 64


def _columns(num_labels: int) -> int:
    return max(_LEAST_LABELS, 1 << (num_labels - 1).bit_length())


@triton.jit
def _products(
    starts, ends, labels, found, alive, seed,
    length, num_labels, size, max_width, dropout,
    DROPS: tl.constexpr, KEEPS: tl.constexpr, SPANS: tl.constexpr, SIZE: tl.constexpr, LABELS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    span = tl.program_id(0) * SPANS + tl.arange(0, SPANS)
    column = tl.arange(0, LABELS)
    first = span // max_width
    last = first + span % max_width
    listed = (first < length)[:, None]
    real = (last < length)[:, None]
    starts += row * length * size
    ends += row * length * size
    labels += row * num_labels * size
    alive += row * length * max_width * size
    total = tl.zeros([SPANS, LABELS], dtype=tl.float32)
    for begin in range(0, size, SIZE):
        place = (begin + tl.arange(0, SIZE))[None, :]
        inside = place < size
        start = tl.load(starts + first[:, None] * size + place, mask=real & inside, other=0.0)
        end = tl.load(ends + last[:, None] * size + place, mask=real & inside, other=0.0)
        state = start + end
        living = ~(state <= 0)  # NaN lives on, as in the plain form
        if DROPS:
            living = living & (tl.rand(tl.load(seed) + row, span[:, None] * size + place) >= dropout)
        if KEEPS:
            tl.store(alive + span[:, None] * size + place, living.to(tl.uint8), mask=listed & inside)
        named = tl.load(
            labels + column[:, None] * size + place, mask=(column < num_labels)[:, None] & inside, other=0.0
        )
        state = tl.where(living, state, 0.0).to(named.dtype)
        total += tl.dot(state, tl.trans(named), input_precision="ieee")
    where = row * length * max_width * num_labels + span[:, None] * num_labels + column[None, :]
    tl.store(found + where, total.to(found.dtype.element_ty), mask=listed & (column < num_labels)[None, :])


@triton.jit
def _of_words(
    labels, gradient, alive, of_starts, of_ends,
    length, num_labels, size, max_width, scale,
    WORDS: tl.constexpr, SIZE: tl.constexpr, LABELS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(2).to(tl.int64)
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    place = (tl.program_id(1) * SIZE + tl.arange(0, SIZE))[None, :]
    column = tl.arange(0, LABELS)
    inside = place < size
    listed = (word < length)[:, None]
    asked = column < num_labels
    gradient += row * length * max_width * num_labels
    alive += row * length * max_width * size
    named = tl.load(
        labels + row * num_labels * size + column[:, None] * size + place, mask=asked[:, None] & inside, other=0.0
    )
    as_start = tl.zeros([WORDS, SIZE], dtype=tl.float32)
    as_end = tl.zeros([WORDS, SIZE], dtype=tl.float32)
    for width in range(max_width):
        span = word[:, None] * max_width + width
        wanted = tl.load(gradient + span * num_labels + column[None, :], mask=listed & asked[None, :], other=0.0)
        living = tl.load(alive + span * size + place, mask=listed & inside, other=0)
        as_start += tl.where(living > 0, tl.dot(wanted, named, input_precision="ieee"), 0.0)
        span = (word - width)[:, None] * max_width + width
        ended = listed & (word >= width)[:, None]
        wanted = tl.load(gradient + span * num_labels + column[None, :], mask=ended & asked[None, :], other=0.0)
        living = tl.load(alive + span * size + place, mask=ended & inside, other=0)
        as_end += tl.where(living > 0, tl.dot(wanted, named, input_precision="ieee"), 0.0)
    where = row * length * size + word[:, None] * size + place
    tl.store(of_starts + where, (as_start * scale).to(of_starts.dtype.element_ty), mask=listed & inside)
    tl.store(of_ends + where, (as_end * scale).to(of_ends.dtype.element_ty), mask=listed & inside)


@triton.jit
def _of_labels(
    starts, ends, gradient, alive, of_labels,
    length, num_labels, size, max_width, scale,
    SPANS: tl.constexpr, SIZE: tl.constexpr, LABELS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    place = (tl.program_id(0) * SIZE + tl.arange(0, SIZE))[None, :]
    column = tl.arange(0, LABELS)
    inside = place < size
    asked = (column < num_labels)[None, :]
    starts += row * length * size
    ends += row * length * size
    gradient += row * length * max_width * num_labels
    alive += row * length * max_width * size
    total = tl.zeros([LABELS, SIZE], dtype=tl.float32)
    for begin in range(0, length * max_width, SPANS):
        span = begin + tl.arange(0, SPANS)
        first = span // max_width
        last = first + span % max_width
        real = ((first < length) & (last < length))[:, None]
        living = tl.load(alive + span[:, None] * size + place, mask=real & inside, other=0)
        start = tl.load(starts + first[:, None] * size + place, mask=real & inside, other=0.0)
        end = tl.load(ends + last[:, None] * size + place, mask=real & inside, other=0.0)
        wanted = tl.load(gradient + span[:, None] * num_labels + column[None, :], mask=real & asked, other=0.0)
        state = tl.where(living > 0, start + end, 0.0).to(wanted.dtype)
        total += tl.dot(tl.trans(wanted), state, input_precision="ieee")
    where = row * num_labels * size + column[:, None] * size + place
    tl.store(of_labels + where, (total * scale).to(of_labels.dtype.element_ty), mask=tl.trans(asked) & inside)


__all__ = ["fits", "gradients", "products"]
