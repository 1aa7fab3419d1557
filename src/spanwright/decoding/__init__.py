"""Scores to spans: `candidates` above the threshold, of which `resolve` keeps what may stand together."""

from __future__ import annotations

from collections.abc import Sequence

from spanwright.config import DecodeOptions
from spanwright.decoding.candidates import candidates
from spanwright.decoding.resolve import resolve
from spanwright.entities import ScoredSpan
from spanwright.tensors import SpanScores

__all__ = ["candidates", "decode", "resolve"]


def decode(scores: SpanScores, labels: Sequence[Sequence[str]], options: DecodeOptions) -> list[list[ScoredSpan]]:
    """The spans of each row in the order of their starts: its candidates, resolved.

    For rows that were read whole; where a text came in windows, their candidates are put together and then resolved.
    """
    return [resolve(found, options) for found in candidates(scores, labels, options)]
