"""Scores to candidate spans: everything above its threshold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spanwright.config import DEFAULT_THRESHOLD, DecodeOptions
from spanwright.entities import ScoredSpan
from spanwright.pairs import Pairs, pairs
from spanwright.tensors import Scores, SpanScores, TokenScores


def candidates(scores: Scores, labels: Sequence[Sequence[str]], options: DecodeOptions) -> list[list[ScoredSpan]]:
    """The spans of each row whose score is above the threshold of their label, strictly.

    `labels[b][c]` names column c of row b. In the order of starts, then ends, then columns (of a token model: starts,
    columns, ends). Selected on the device; only what is selected crosses to the host, at once.
    """
    if isinstance(scores, SpanScores):
        found = _of_spans(scores, labels, options)
    elif scores.candidates is not None:
        found = _of_head(scores, labels, options)
    else:
        found = pairs(scores, _thresholds(labels, scores.logits.shape[2], scores.logits, options))
    named: list[list[ScoredSpan]] = [[] for _ in labels]
    # whole numbers below 2**53 and float32 scores are exact in a double
    values = torch.stack([found.row, found.first, found.last, found.column, found.score.double()], dim=1)
    for row, first, last, column, score in values.tolist():
        named[int(row)].append(ScoredSpan(int(first), int(last) + 1, labels[int(row)][int(column)], score))
    return named


def _of_spans(scores: SpanScores, labels: Sequence[Sequence[str]], options: DecodeOptions) -> Pairs:
    values = torch.sigmoid(scores.logits.float())
    thresholds = _thresholds(labels, values.shape[-1], values, options)
    if isinstance(thresholds, Tensor):
        thresholds = thresholds.unsqueeze(2)
    kept = scores.cell_mask() & (values > thresholds)
    row, first, width, column = kept.nonzero(as_tuple=True)
    return Pairs(row, first, first + width, column, values[kept])


def _of_head(scores: TokenScores, labels: Sequence[Sequence[str]], options: DecodeOptions) -> Pairs:
    assert scores.candidates is not None
    assert scores.head_logits is not None
    values = torch.sigmoid(scores.head_logits.float())
    real = scores.candidates.mask.unsqueeze(-1) & scores.label_mask.unsqueeze(1)
    kept = real & (values > _thresholds(labels, values.shape[-1], values, options))
    row, place, column = kept.nonzero(as_tuple=True)
    first, last = scores.candidates.bounds[row, place].unbind(dim=-1)
    return Pairs(row, first, last, column, values[kept])


def _thresholds(labels: Sequence[Sequence[str]], columns: int, like: Tensor, options: DecodeOptions) -> Tensor | float:
    """One threshold, or (B, 1, C) of them."""
    if isinstance(options.threshold, (int, float)):
        return float(options.threshold)
    table = [
        [options.threshold_of(label) for label in names] + [DEFAULT_THRESHOLD] * (columns - len(names))
        for names in labels
    ]
    return torch.tensor(table, device=like.device).reshape(len(labels), 1, columns)
