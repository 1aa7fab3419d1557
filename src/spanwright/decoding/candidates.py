"""Scores to candidate spans: everything above its threshold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spanwright.config import DEFAULT_THRESHOLD, DecodeOptions
from spanwright.entities import ScoredSpan
from spanwright.tensors import SpanScores


def candidates(scores: SpanScores, labels: Sequence[Sequence[str]], options: DecodeOptions) -> list[list[ScoredSpan]]:
    """The spans of each row whose score is above the threshold of their label, strictly.

    `labels[b][c]` names column c of row b. In the order of starts, then widths, then columns. Selected on the device;
    only what is selected crosses to the host, at once.
    """
    found: list[list[ScoredSpan]] = [[] for _ in labels]
    values = torch.sigmoid(scores.logits.float())
    kept = scores.cell_mask() & (values > _thresholds(labels, values, options))
    places = kept.nonzero()
    selected = torch.cat([places.double(), values[kept].double().unsqueeze(1)], dim=1)  # both are exact in a double
    for row, start, width, column, score in selected.tolist():
        names = labels[int(row)]
        found[int(row)].append(ScoredSpan(int(start), int(start + width) + 1, names[int(column)], score))
    return found


def _thresholds(labels: Sequence[Sequence[str]], values: Tensor, options: DecodeOptions) -> Tensor | float:
    """One threshold, or (B, 1, 1, C) of them."""
    if isinstance(options.threshold, (int, float)):
        return float(options.threshold)
    columns = values.shape[-1]
    table = [
        [options.threshold_of(label) for label in names] + [DEFAULT_THRESHOLD] * (columns - len(names))
        for names in labels
    ]
    return torch.tensor(table, device=values.device).reshape(len(labels), 1, 1, columns)
