"""The scores of all spans of marker modes, and their gradients, without ever holding the spans' inner states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spanwright.model.dropout import kept
from spanwright.model.kernels import are_to_be_had

_AT_ONCE = 1 << 25  # inner states that a GPU makes at once: fewer kernels, where it has little to do in each


def marker_logits(
    starts: Tensor, ends: Tensor, labels: Tensor, biases: Tensor, max_width: int, dropout: float = 0.0
) -> Tensor:
    """Starts, ends (B, L, H), labels (B, C, H), biases (B, C) -> logits (B, L, K, C), 0 where a span ends after L.

    The logit of words i to j is dropout(relu(start(i) + end(j))) . label + bias.
    """
    recording = torch.is_grad_enabled() and any(x.requires_grad for x in (starts, ends, labels))
    products = _MarkerProducts.apply(starts, ends, labels, max_width, dropout, recording)  # type: ignore[no-untyped-call]
    logits: Tensor = products + biases[:, None, None]
    return logits.masked_fill(beyond(logits), 0)


def beyond(logits: Tensor) -> Tensor:
    """(L, K, 1) True where a span of logits (B, L, K, C) ends after L words."""
    words, widths = (torch.arange(count, device=logits.device) for count in logits.shape[1:3])
    return (words[:, None] + widths >= len(words)).unsqueeze(-1)


class _MarkerProducts(torch.autograd.Function):
    """What is kept for the backward is a byte for each inner state: whether it is alive (above 0, and not dropped).

    The backward makes the states anew. Autograd would keep three numbers of each, and would fill and add an array of
    all starts, and one of all ends, for each width.
    """

    @staticmethod
    def forward(
        ctx: Any, starts: Tensor, ends: Tensor, labels: Tensor, max_width: int, dropout: float, recording: bool
    ) -> Tensor:
        kernels = _kernels(starts, ends, labels, max_width)
        make = products if kernels is None else kernels.products
        found, alive = make(starts, ends, labels, max_width, dropout, recording=recording)
        if recording:
            ctx.save_for_backward(starts, ends, labels, *alive)
            ctx.dropout, ctx.kernels = dropout, kernels
        logits: Tensor = found
        return logits

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        starts, ends, labels, *alive = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of these gradients are wanted
            return *_remembered(starts, ends, labels, alive, ctx.dropout, gradient), None, None, None
        make = gradients if ctx.kernels is None else ctx.kernels.gradients
        return *make(starts, ends, labels, alive, gradient, 1 / (1 - ctx.dropout)), None, None, None


def products(
    starts: Tensor, ends: Tensor, labels: Tensor, max_width: int, dropout: float, *, recording: bool
) -> tuple[Tensor, list[Tensor]]:
    """Starts, ends (B, L, H), labels (B, C, H) -> products (B, L, K, C), and which states are alive.

    Some widths at a time: their inner states (B, L, widths, H) are made, used and overwritten by the next ones. Those
    that are alive are told in pieces (B, L, widths, H).
    """
    rows, length, size = starts.shape
    at_once = _widths_at_once(starts, max_width)
    ahead = F.pad(ends, (0, 0, 0, max_width - 1))
    columns = (labels / (1 - dropout)).transpose(1, 2).unsqueeze(1)
    found = starts.new_empty(rows, length, max_width, labels.shape[1])
    states = starts.new_empty(rows, length, at_once, size)
    alive = []
    for first in range(0, max_width, at_once):
        some = _sum(starts, ahead, first, states[:, :, : max_width - first]).relu_()
        if recording or dropout > 0:
            alive.append(some > 0)
        if dropout > 0:
            alive[-1] &= kept(some.shape, dropout, some.device)
            some *= alive[-1]
        width = some.shape[2]
        if width == 1:
            found[:, :, first] = some.squeeze(2) @ columns.squeeze(1)
        else:
            found[:, :, first : first + width] = some @ columns
    return found, alive


def gradients(
    starts: Tensor, ends: Tensor, labels: Tensor, alive: Sequence[Tensor], gradient: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Those of starts, ends and labels, given that of the products; states are multiplied by `scale`."""
    length, max_width = starts.shape[1], gradient.shape[2]
    ahead, scaled = F.pad(ends, (0, 0, 0, max_width - 1)), labels * scale
    # sums over widths, in float32 at least
    precise = torch.promote_types(starts.dtype, torch.float32)
    of_starts, of_ends, of_labels = (torch.zeros_like(x, dtype=precise) for x in (starts, ahead, labels))
    states = starts.new_empty(*starts.shape[:2], alive[0].shape[2], starts.shape[2])
    first = 0
    for living in alive:
        width = living.shape[2]
        wanted = gradient[:, :, first : first + width].flatten(1, 2)
        some = _sum(starts, ahead, first, states[:, :, :width]).relu_()
        if scale != 1:
            some *= living
        of_labels += wanted.transpose(1, 2) @ some.flatten(1, 2)
        some = torch.matmul(wanted, scaled).view_as(living)
        some *= living
        for place in range(width):
            of_starts += some[:, :, place]
            of_ends[:, first + place : first + place + length] += some[:, :, place]
        first += width
    of_labels *= scale
    return of_starts.to(starts.dtype), of_ends[:, :length].to(ends.dtype), of_labels.to(labels.dtype)


def _kernels(starts: Tensor, ends: Tensor, labels: Tensor, max_width: int) -> Any:
    """The module that does the same in kernels of its own, where they are to be had and fit."""
    if not are_to_be_had(starts.device):
        return None
    from spanwright.model.kernels import spans

    return spans if spans.fits(starts, ends, labels, max_width) else None


def _remembered(
    starts: Tensor, ends: Tensor, labels: Tensor, alive: Sequence[Tensor], dropout: float, gradient: Tensor
) -> tuple[Tensor, ...]:
    """The gradients as autograd itself makes them, with their history."""
    length, mask = starts.shape[1], torch.cat(list(alive), dim=2)
    ahead = F.pad(ends, (0, 0, 0, mask.shape[2] - 1)).unfold(1, mask.shape[2], 1).transpose(2, 3)
    states = (starts.unsqueeze(2) + ahead[:, :length]) * mask / (1 - dropout)
    products = states @ labels.transpose(1, 2).unsqueeze(1)
    return torch.autograd.grad(products, (starts, ends, labels), gradient, create_graph=True)


def _widths_at_once(starts: Tensor, max_width: int) -> int:
    return max_width if starts.is_cuda and starts.numel() * max_width <= _AT_ONCE else 1


def _sum(starts: Tensor, ends: Tensor, first: int, out: Tensor) -> Tensor:
    """Start plus end of each span of `first` + 1 and more words, ends padded: (B, L, widths, H) in `out`."""
    ahead = ends[:, first : first + starts.shape[1] + out.shape[2] - 1].unfold(1, out.shape[2], 1).transpose(2, 3)
    return torch.add(starts.unsqueeze(2), ahead, out=out)
