"""Span scorers: word and label vectors to logits for every span and label. One class for each published span mode.

A scorer says how the vectors of all spans of one width are made (`vectors`); a span's logit for a label is the product
of their vectors. Marker modes score without ever making the vectors, see `MarkerSpans.forward`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spanwright.config import SpanMode
from spanwright.model.markers import marker_logits
from spanwright.model.projection import Projection

_WIDTH_FEATURES = 128  # of the width's vector in mode "cat"


class SpanScorer(nn.Module):
    """What all span modes share."""

    def __init__(self, max_width: int) -> None:
        super().__init__()
        self.max_width = max_width

    @abstractmethod
    def vectors(self, words: Tensor, word_mask: Tensor) -> Iterator[Tensor]:
        """Words (B, L, D) -> for each width k + 1 the vectors (B, max(L - k, 0), D) of its spans, in starts' order."""

    def forward(self, words: Tensor, labels: Tensor, word_mask: Tensor) -> Tensor:
        """Words (B, L, D), labels (B, C, D) -> logits (B, L, K, C), 0 where the span ends after L words."""
        columns = labels.transpose(1, 2)
        return self._stacked(words.shape[1], (vectors @ columns for vectors in self.vectors(words, word_mask)))

    def at(self, words: Tensor, word_mask: Tensor, spans: Tensor) -> Tensor:
        """Vectors (B, N, D) of spans (B, N, 2), each its first and its last word, of at most `max_width` words."""
        table = self._stacked(words.shape[1], self.vectors(words, word_mask))
        first, last = spans.unbind(dim=-1)
        return table[torch.arange(len(spans), device=spans.device).unsqueeze(1), first, last - first]

    @staticmethod
    def _stacked(length: int, by_width: Iterator[Tensor]) -> Tensor:
        return torch.stack([F.pad(logits, (0, 0, 0, length - logits.shape[1])) for logits in by_width], dim=2)


class MarkerSpans(SpanScorer):
    """Modes `markerV0`, `markerV1`, `markerV2`: a span is made of its first and its last word.

    The vector of span (i, j) is W2 relu(W1 relu([start(i); end(j); row]) + b1) + b2, where `row` is absent in V0, the
    mean of the row's words in V1, and a projection of its last word in V2. gliner takes both over the padding too, so
    its answers depend on the other texts of a batch; here they are those of a row by itself.
    """

    def __init__(self, mode: SpanMode, hidden_size: int, *, max_width: int, dropout: float) -> None:
        super().__init__(max_width)
        self.mode = mode
        parts = 2 if mode == "markerV0" else 3
        self.project_start = Projection(hidden_size, hidden_size, dropout)
        self.project_end = Projection(hidden_size, hidden_size, dropout)
        if mode == "markerV2":
            self.project_context = Projection(hidden_size, hidden_size, dropout)
        self.out_project = Projection(parts * hidden_size, hidden_size, dropout)

    def forward(self, words: Tensor, labels: Tensor, word_mask: Tensor) -> Tensor:
        """As SpanScorer.forward, factorised.

        W1 splits into parts for starts, ends and rows, so each is applied per word, not per span; W2 is applied to the
        labels instead of the spans. The same numbers and parameters, a fraction of the work: O(L·D²) + O(L·K·C·D)
        instead of O(L·K·D²).
        """
        last = self.out_project.last
        starts, ends = self._halves(words, word_mask)
        dropout = self.out_project.dropout
        return marker_logits(
            starts,
            ends,
            labels @ last.weight,
            labels @ last.bias,
            self.max_width,
            dropout.p if dropout.training else 0.0,
        )

    def vectors(self, words: Tensor, word_mask: Tensor) -> Iterator[Tensor]:
        """As SpanScorer.vectors."""
        return (self.out_project.last(states) for states in self._by_width(*self._halves(words, word_mask)))

    def at(self, words: Tensor, word_mask: Tensor, spans: Tensor) -> Tensor:
        """As SpanScorer.at, of any width."""
        starts, ends = self._halves(words, word_mask)
        size = starts.shape[-1]
        first = starts.gather(1, spans[..., :1].expand(-1, -1, size))
        last = ends.gather(1, spans[..., 1:].expand(-1, -1, size))
        vectors: Tensor = self.out_project.last(self.out_project.dropout(F.relu(first + last)))
        return vectors

    def _by_width(self, starts: Tensor, ends: Tensor) -> Iterator[Tensor]:
        """The inner states of the output projection, one width at a time: (B, L, K, 4D) never exists as a whole."""
        length = starts.shape[1]
        for width in range(self.max_width):
            room = max(length - width, 0)
            yield self.out_project.dropout(F.relu(starts[:, :room] + ends[:, length - room :]))

    def _halves(self, words: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """What a span's start and what its end (with the row's part) bring to the hidden layer: (B, L, 4D) each."""
        first = self.out_project.first
        start_part, end_part, *row_part = torch.split(first.weight, words.shape[-1], dim=1)
        starts = F.linear(F.relu(self.project_start(words)), start_part)
        ends = F.linear(F.relu(self.project_end(words)), end_part, first.bias)
        if row_part:
            ends = ends + F.linear(F.relu(self._row(words, word_mask)), row_part[0]).unsqueeze(1)
        return starts, ends

    def _row(self, words: Tensor, word_mask: Tensor) -> Tensor:
        counts = word_mask.sum(dim=1).clamp_min(1)
        if self.mode == "markerV1":
            return (words * word_mask.unsqueeze(-1)).sum(dim=1) / counts.unsqueeze(1)
        last = words[torch.arange(len(words), device=words.device), counts - 1]
        projected: Tensor = self.project_context(last)
        return projected


class LinearMarkerSpans(SpanScorer):
    """Mode `marker`: as `markerV0` with narrower projections and a single output layer, which splits into two terms."""

    def __init__(self, hidden_size: int, *, max_width: int, dropout: float) -> None:
        super().__init__(max_width)
        self.project_start = Projection(hidden_size, hidden_size, dropout, widening=2)
        self.project_end = Projection(hidden_size, hidden_size, dropout, widening=2)
        self.out_project = nn.Linear(2 * hidden_size, hidden_size)

    def vectors(self, words: Tensor, word_mask: Tensor) -> Iterator[Tensor]:
        """As SpanScorer.vectors."""
        start_half, end_half = self.out_project.weight.chunk(2, dim=1)
        starts = F.linear(F.relu(self.project_start(words)), start_half)
        ends = F.linear(F.relu(self.project_end(words)), end_half, self.out_project.bias)
        length = words.shape[1]
        for width in range(self.max_width):
            room = max(length - width, 0)
            yield starts[:, :room] + ends[:, length - room :]


class QuerySpans(SpanScorer):
    """Modes `query` and `cat`: a span is its first word with a vector of the width, multiplied or appended."""

    def __init__(self, mode: SpanMode, hidden_size: int, *, max_width: int) -> None:
        super().__init__(max_width)
        self.mode = mode
        appended = _WIDTH_FEATURES if mode == "cat" else 0
        self.query_seg = nn.Parameter(torch.randn(appended or hidden_size, max_width))
        self.project = nn.Sequential(nn.Linear(hidden_size + appended, hidden_size), nn.ReLU())

    def vectors(self, words: Tensor, word_mask: Tensor) -> Iterator[Tensor]:
        """As SpanScorer.vectors."""
        # published models of mode `cat` read the same memory as (K, features), without transposing it
        table = self.query_seg.reshape(self.max_width, -1) if self.mode == "cat" else self.query_seg.T
        for width, query in enumerate(table):
            starts = words[:, : max(words.shape[1] - width, 0)]
            if self.mode == "cat":
                starts = torch.cat([starts, query.expand(*starts.shape[:2], -1)], dim=-1)
            else:
                starts = starts * query
            yield self.project(starts)


class MlpSpans(SpanScorer):
    """Mode `mlp`: one linear layer turns a span's first word into the vectors of all widths."""

    def __init__(self, hidden_size: int, *, max_width: int) -> None:
        super().__init__(max_width)
        self.mlp = nn.Linear(hidden_size, hidden_size * max_width)

    def vectors(self, words: Tensor, word_mask: Tensor) -> Iterator[Tensor]:
        """As SpanScorer.vectors."""
        by_width = F.relu(self.mlp(words)).chunk(self.max_width, dim=-1)
        for width, vectors in enumerate(by_width):
            yield vectors[:, : max(words.shape[1] - width, 0)]


class _Convolution(nn.Module):
    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(hidden_size, hidden_size, width)

    def forward(self, words: Tensor) -> Tensor:
        return F.conv1d(words.transpose(1, 2), self.conv.weight, self.conv.bias).transpose(1, 2)


class ConvSpans(SpanScorer):
    """Modes `conv_conv`, `conv_share`, `conv_max`, `conv_mean`, `conv_sum`: a span is a function of all its words."""

    def __init__(self, mode: SpanMode, hidden_size: int, *, max_width: int) -> None:
        super().__init__(max_width)
        self.mode = mode
        if mode == "conv_conv":
            self.convs = nn.ModuleList(_Convolution(hidden_size, width) for width in range(2, max_width + 1))
        if mode == "conv_share":
            self.conv_weight = nn.Parameter(torch.empty(hidden_size, hidden_size, max_width))
            nn.init.kaiming_uniform_(self.conv_weight, nonlinearity="relu")
        self.project = nn.Sequential(nn.ReLU(), nn.Linear(hidden_size, hidden_size))

    def vectors(self, words: Tensor, word_mask: Tensor) -> Iterator[Tensor]:
        """As SpanScorer.vectors."""
        for width in range(self.max_width):
            if width >= words.shape[1]:
                yield words[:, :0]
            else:
                yield self.project(self._gathered(words, width))

    def _gathered(self, words: Tensor, width: int) -> Tensor:
        if self.mode == "conv_share":
            return F.conv1d(words.transpose(1, 2), self.conv_weight[:, :, : width + 1]).transpose(1, 2)
        if width == 0:
            return words
        if self.mode == "conv_conv":
            convolved: Tensor = self.convs[width - 1](words)
            return convolved
        inner = words.unfold(1, width + 1, 1)
        if self.mode == "conv_max":
            return inner.amax(dim=-1)
        return inner.mean(dim=-1) if self.mode == "conv_mean" else inner.sum(dim=-1)


def span_scorer(mode: SpanMode, hidden_size: int, *, max_width: int, dropout: float) -> SpanScorer:
    """The scorer of a published span mode."""
    if mode == "marker":
        return LinearMarkerSpans(hidden_size, max_width=max_width, dropout=dropout)
    if mode in ("query", "cat"):
        return QuerySpans(mode, hidden_size, max_width=max_width)
    if mode == "mlp":
        return MlpSpans(hidden_size, max_width=max_width)
    if mode.startswith("conv"):
        return ConvSpans(mode, hidden_size, max_width=max_width)
    return MarkerSpans(mode, hidden_size, max_width=max_width, dropout=dropout)
