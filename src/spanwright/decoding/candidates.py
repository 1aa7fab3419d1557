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

    Raises:
        ValueError: there are not as many lists of labels as rows, or a list has more labels than there are columns.

    """
    rows, *_, columns = scores.logits.shape
    if len(labels) != rows or any(len(names) > columns for names in labels):
        raise ValueError(
            f"`labels` must be {rows} lists of at most {columns} labels, "
            f"but are lists of {[len(names) for names in labels]}."
        )
    values = torch.sigmoid(scores.logits.detach().float())
    places = (scores.cell_mask() & (values > _thresholds(labels, values, options))).nonzero()
    found: list[list[ScoredSpan]] = [[] for _ in labels]
    for (row, start, width, column), score in zip(*_on_host(places, values[places.unbind(1)]), strict=True):
        found[row].append(ScoredSpan(start, start + width + 1, labels[row][column], score))
    return found


def _on_host(places: Tensor, values: Tensor) -> tuple[list[list[int]], list[float]]:
    """(N, 4) places and their (N,) values as lists. The floats travel as bits beside the integers: one copy, one wait."""
    packed = torch.cat([places, values.view(torch.int32).unsqueeze(1)], dim=1).cpu()
    return packed[:, :4].tolist(), packed[:, 4].to(torch.int32).view(torch.float32).tolist()


def _thresholds(labels: Sequence[Sequence[str]], values: Tensor, options: DecodeOptions) -> Tensor | float:
    """One threshold, or (B, 1, 1, C) of them."""
    if isinstance(options.threshold, (int, float)):
        return float(options.threshold)
    rows, *_, columns = values.shape
    table = [
        [options.threshold_of(label) for label in names] + [DEFAULT_THRESHOLD] * (columns - len(names))
        for names in labels
    ]
    return torch.tensor(table, device=values.device).view(rows, 1, 1, columns)
