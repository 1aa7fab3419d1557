"""From scores of words to spans: which starts and ends belong together. Without loops over words; on any device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spanwright.tensors import Candidates, Scores, SpanScores, TokenScores


@dataclass(frozen=True, slots=True)
class Pairs:
    """Spans of a label, one per entry: row, first word, last word, column of the label, score; all (N,)."""

    row: Tensor
    first: Tensor
    last: Tensor
    column: Tensor
    score: Tensor


def pairs(scores: TokenScores, threshold: Tensor | float, *, strict_inside: bool = False) -> Pairs:
    """All spans of a label whose start and end are above `threshold` and whose inside nowhere falls below it.

    `threshold` is a number or (B, 1, C). `strict_inside`: the inside must lie above it. A span's score is the least of
    its probabilities. In the order of rows, starts, columns, ends. Costs O(B·L·C·log L + number of spans).
    """
    values = torch.sigmoid(scores.logits.float())
    real = scores.cell_mask().squeeze(-1)
    starting = (values[..., 0] > threshold) & real
    ending = (values[..., 1] > threshold) & real
    inside = values[..., 2]
    broken = ~((inside > threshold) if strict_inside else (inside >= threshold)) | ~real
    length, num_labels = broken.shape[1:]

    row, first, column = starting.nonzero(as_tuple=True)
    # ends as sorted numbers (row, column, word): those that a start can reach are one run of them
    end_row, end_column, end_word = ending.transpose(1, 2).nonzero(as_tuple=True)
    ends = (end_row * num_labels + end_column) * length + end_word
    base = (row * num_labels + column) * length
    begin = torch.searchsorted(ends, base + first)
    stop = torch.searchsorted(ends, base + _next_true(broken)[row, first, column])
    counts = (stop - begin).clamp_min(0)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    nth = torch.arange(len(owner), device=counts.device) - (counts.cumsum(0) - counts)[owner]
    last = end_word[begin[owner] + nth]
    row, first, column = row[owner], first[owner], column[owner]
    least = _least(inside, row, first, last, column)
    least = torch.minimum(least, torch.minimum(values[row, first, column, 0], values[row, last, column, 1]))
    return Pairs(row, first, last, column, least)


def best_pairs(scores: TokenScores, threshold: Tensor | float) -> Pairs:
    """Those of `pairs` that may be kept where no two spans share a word, in the same order.

    A span that holds another of a higher score (itself under another label, or a part of it) never is: what keeps out
    the inner one has a word of the outer one too, and comes before it. Widths are taken in turn, each knowing the best
    of what its spans hold, so nothing is ever listed that loses. Costs O(B·L·C) for each width up to the widest span.
    """
    values = torch.sigmoid(scores.logits.detach().float())
    real = scores.cell_mask().squeeze(-1)
    out = -torch.ones((), device=values.device)
    start, end = (torch.where((values[..., k] > threshold) & real, values[..., k], out) for k in (0, 1))
    inside = torch.where((values[..., 2] >= threshold) & real, values[..., 2], out)
    length = inside.shape[1]
    words = torch.arange(length, device=inside.device)[None, :, None]
    widest = int((_next_true(inside < 0) - words)[start >= 0].max()) if bool((start >= 0).any()) else 0
    run, held = inside, inside.new_full(inside.shape[:2], -1.0)
    found = []
    for wider in range(widest):
        room = length - wider
        run = torch.minimum(run[:, :room], inside[:, wider:])
        score = torch.minimum(torch.minimum(start[:, :room], end[:, wider:]), run)
        best = score.amax(dim=2)
        if wider:
            held = torch.maximum(held[:, :-1], held[:, 1:])
        row, first, column = ((score == best.unsqueeze(2)) & ((best >= held) & (best >= 0)).unsqueeze(2)).nonzero(
            as_tuple=True
        )
        found.append((row, first, first + wider, column, score[row, first, column]))
        held = torch.maximum(held, best)
    if not found:
        none = torch.zeros(0, dtype=torch.long, device=values.device)
        return Pairs(none, none, none, none, none.float())
    row, first, last, column, score = (torch.cat(each) for each in zip(*found, strict=True))
    num_labels = inside.shape[2]
    order = torch.argsort(((row * length + first) * num_labels + column) * length + last)
    return Pairs(row[order], first[order], last[order], column[order], score[order])


def spans_in(scores: Scores, threshold: float) -> Candidates:
    """The spans that score above `threshold` for whatever label, padded to at least one per row.

    What a span head is shown, and what a relation model may relate. A token model's stand once for each label.
    """
    if isinstance(scores, SpanScores):
        values = torch.sigmoid(scores.logits.detach().float()).masked_fill(~scores.label_mask[:, None, None, :], -1.0)
        row, first, width = ((values > threshold).any(dim=-1) & scores.span_mask()).nonzero(as_tuple=True)
        return Candidates(*in_rows(row, torch.stack([first, first + width], dim=1), len(scores.word_mask)))
    found = pairs(
        TokenScores(scores.logits.detach(), scores.word_mask, scores.label_mask), threshold, strict_inside=True
    )
    return Candidates(*in_rows(found.row, torch.stack([found.first, found.last], dim=1), len(scores.word_mask)))


def in_rows(row: Tensor, values: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Values (N, 2), sorted by the `row` (N,) that each belongs to -> (B, most, 2) and the mask of what is real.

    At least one place per row, so that nothing downstream is empty.
    """
    counts = torch.bincount(row, minlength=num_rows)
    most = max(int(counts.max()), 1) if num_rows else 1
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    table = torch.zeros(num_rows, most, 2, dtype=torch.long, device=row.device)
    table[row, place] = values
    return table, torch.arange(most, device=row.device)[None] < counts[:, None]


def _next_true(flags: Tensor) -> Tensor:
    """(B, L, C) -> the first word from each word on whose flag is set, L if there is none."""
    length = flags.shape[1]
    words = torch.arange(length, device=flags.device)[None, :, None]
    return torch.where(flags, words, length).flip(1).cummin(dim=1).values.flip(1)


def _least(values: Tensor, row: Tensor, first: Tensor, last: Tensor, column: Tensor) -> Tensor:
    """The least of `values` (B, L, C) over words first to last: two overlapping powers of two cover any range."""
    levels = [values]
    while 2 ** len(levels) <= values.shape[1]:
        half, old = 2 ** (len(levels) - 1), levels[-1]
        shifted = torch.cat(
            [old[:, half:], old[:, :0].new_ones(old.shape[0], min(half, old.shape[1]), old.shape[2])], 1
        )
        levels.append(torch.minimum(old, shifted[:, : old.shape[1]]))
    table = torch.stack(levels)
    power = torch.log2((last - first + 1).double()).floor().long()
    return torch.minimum(table[power, row, first, column], table[power, row, last - 2**power + 1, column])
