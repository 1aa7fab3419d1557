"""The tensors that cross the stages: words -> `EncodedBatch` -> `SpanScores` -> spans, or -> `LossSum` with `Targets`.

Letters: B examples, S subtokens, L words, K widths, C labels. A mask is True where real. Each class checks at birth
what it alone can know, and moves as a whole with `to`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

Moved = TypeVar("Moved", bound="_Movable")


class _Movable:
    """Moves every tensor field to a device, copying asynchronously where the source is pinned."""

    def to(self: Moved, device: torch.device | str) -> Moved:
        """The same values on `device`."""
        moved = {
            field.name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for field in fields(self)  # type: ignore[arg-type]
            for value in [getattr(self, field.name)]
        }
        return type(self)(**moved)


@dataclass(frozen=True, slots=True)
class EncodedBatch(_Movable):
    """What the network reads.

    input_ids, attention_mask (B, S) · label_positions, label_mask (B, C): the subtoken that stands for each label ·
    word_starts, word_ends, word_mask (B, L): the subtokens `[start, end)` of each word · word_counts: words of each
    row, on the host, so that packing needs no copy back from the device.
    """

    input_ids: Tensor
    attention_mask: Tensor
    label_positions: Tensor
    label_mask: Tensor
    word_starts: Tensor
    word_ends: Tensor
    word_mask: Tensor
    word_counts: tuple[int, ...]

    def __post_init__(self) -> None:
        rows = self.input_ids.shape[0]
        _require_shape("attention_mask", self.attention_mask, tuple(self.input_ids.shape))
        _require_shape("label_mask", self.label_mask, (rows, self.label_positions.shape[1]))
        for name in ("word_ends", "word_mask"):
            _require_shape(name, getattr(self, name), (rows, self.word_starts.shape[1]))
        if len(self.word_counts) != rows:
            raise ValueError(
                f"`word_counts` must have one entry for each of {rows} rows, but has {len(self.word_counts)}."
            )


@dataclass(frozen=True, slots=True)
class SpanScores(_Movable):
    """What the span network gives: logits (B, L, K, C); word_mask (B, L); label_mask (B, C).

    Cell (b, l, k, c) is the span of words `[l, l + k + 1)` of row b with label c.
    """

    logits: Tensor
    word_mask: Tensor
    label_mask: Tensor

    def span_mask(self) -> Tensor:
        """(B, L, K) True where the span ends within its row's words."""
        return span_mask(self.word_mask, self.logits.shape[2])

    def cell_mask(self) -> Tensor:
        """(B, L, K, C) True where both the span and the label are real."""
        return self.span_mask().unsqueeze(-1) & self.label_mask[:, None, None, :]


@dataclass(frozen=True, slots=True)
class Targets(_Movable):
    """Gold cells: `values` (B, L, K, C) in {0, 1}; `num_cells`, the real cells among them, known on the host."""

    values: Tensor
    num_cells: int


@dataclass(frozen=True, slots=True)
class LossSum:
    """A loss as a sum `total` () and the `count` () of cells that it is a sum over. The caller divides."""

    total: Tensor
    count: Tensor


def span_mask(word_mask: Tensor, width: int) -> Tensor:
    """(B, L) -> (B, L, K): True where the span of k + 1 words from word l ends within its row."""
    counts = word_mask.sum(dim=1)
    ends = torch.arange(word_mask.shape[1], device=word_mask.device)[:, None] + torch.arange(
        1, width + 1, device=word_mask.device
    )
    return ends[None] <= counts[:, None, None]


def _require_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"`{name}` must be of shape {shape}, but is of shape {tuple(value.shape)}.")
