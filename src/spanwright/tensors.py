"""The tensors that cross the stages: words -> `EncodedBatch` -> `Scores` -> spans, or -> `LossSum` with `Targets`.

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
    """Moves every tensor field to a device, without waiting for it."""

    def to(self: Moved, device: torch.device | str) -> Moved:
        """The same values on `device`."""
        moved = {
            field.name: _moved(value, device)
            for field in fields(self)  # type: ignore[arg-type]
            for value in [getattr(self, field.name)]
        }
        return type(self)(**moved)


def _moved(value: object, device: torch.device | str) -> object:
    if isinstance(value, Tensor):
        if torch.device(device).type == "cuda" and value.device.type == "cpu":
            value = value.pin_memory()  # else the copy waits for all that the device still has to do
        return value.to(device, non_blocking=True)
    return value.to(device) if isinstance(value, _Movable) else value


@dataclass(frozen=True, slots=True)
class LabelTexts(_Movable):
    """Labels that are read by themselves (bi-encoder): input_ids, attention_mask (N, T)."""

    input_ids: Tensor
    attention_mask: Tensor


@dataclass(frozen=True, slots=True)
class Candidates(_Movable):
    """Spans that a second head scores: bounds (B, N, 2), each its first and its last word; mask (B, N)."""

    bounds: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class EncodedBatch(_Movable):
    """What the network reads.

    input_ids, attention_mask (B, S) · label_positions, label_mask (B, C): where each label's vector is: at this
    subtoken of the row or, in a bi-encoder, at this row of `labels` · word_starts, word_ends, word_mask (B, L): the
    subtokens `[start, end)` of each word · word_counts: words of each row, on the host, so that packing needs no copy
    back from the device · labels: of a bi-encoder, the texts of the distinct labels, or their vectors (N, D) ·
    candidates: in training, the spans that a span head scores; without, it finds its own.
    """

    input_ids: Tensor
    attention_mask: Tensor
    label_positions: Tensor
    label_mask: Tensor
    word_starts: Tensor
    word_ends: Tensor
    word_mask: Tensor
    word_counts: tuple[int, ...]
    labels: LabelTexts | Tensor | None = None
    candidates: Candidates | None = None

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

    def cells(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """What a loss is computed of: logits, and which of them are real."""
        return ((self.logits, self.cell_mask()),)


@dataclass(frozen=True, slots=True)
class TokenScores(_Movable):
    """What the token network gives: logits (B, L, C, 3) of start, end, inside; word_mask (B, L); label_mask (B, C).

    candidates, head_logits (B, N, C): of a model with a span head, the spans that it scored.
    """

    logits: Tensor
    word_mask: Tensor
    label_mask: Tensor
    candidates: Candidates | None = None
    head_logits: Tensor | None = None

    def cell_mask(self) -> Tensor:
        """(B, L, C, 1) True where both the word and the label are real."""
        return (self.word_mask.unsqueeze(-1) & self.label_mask.unsqueeze(1)).unsqueeze(-1)

    def cells(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """What a loss is computed of: logits, and which of them are real."""
        tokens = (self.logits, self.cell_mask())
        if self.candidates is None or self.head_logits is None:
            return (tokens,)
        return tokens, (self.head_logits, self.candidates.mask.unsqueeze(-1) & self.label_mask.unsqueeze(1))


Scores = SpanScores | TokenScores


@dataclass(frozen=True, slots=True)
class Targets(_Movable):
    """Gold cells in {0, 1}, of the shapes of the logits: `values` (B, L, K, C), or (B, L, C, 3) of a token model.

    num_cells: the real cells among them, known on the host (of a token model, pairs of words and labels).
    head_values (B, N, C): those of the span head's candidates.
    """

    values: Tensor
    num_cells: int
    head_values: Tensor | None = None

    def cells(self) -> tuple[Tensor, ...]:
        """One for each of the scores' `cells`."""
        return (self.values,) if self.head_values is None else (self.values, self.head_values)


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
