"""Scores to candidate spans: everything above its threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spanwright.config import DecodeOptions
from spanwright.decoding.selection import Selection
from spanwright.entities import ScoredSpan
from spanwright.tensors import Scores


def candidates(scores: Scores, labels: Sequence[Sequence[str]], options: DecodeOptions) -> list[list[ScoredSpan]]:
    """The spans of each row whose score is above the threshold of their label, strictly.

    `labels[b][c]` names column c of row b. In the order of starts, then ends, then columns (of a token model: starts,
    columns, ends). Selected on the device; only what is selected crosses to the host, at once.
    """
    return named(Selection(scores, labels, options).arrays(), labels)


def named(found: tuple[np.ndarray, ...], labels: Sequence[Sequence[str]]) -> list[list[ScoredSpan]]:
    """The spans of each row, of arrays as `Selection.arrays` gives them."""
    row, first, last, column, score = found
    spans: list[list[ScoredSpan]] = [[] for _ in labels]
    for b, start, end, c, value in zip(
        row.tolist(), first.tolist(), (last + 1).tolist(), column.tolist(), score.tolist(), strict=True
    ):
        spans[b].append(ScoredSpan(start, end, labels[b][c], value))
    return spans
