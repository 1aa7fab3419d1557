"""Span scorers: word and label vectors to logits for every span and label."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spanwright.model.projection import Projection


class MarkerSpans(nn.Module):
    """The published span mode `markerV0`, factorised.

    A span (i, j) is W2 relu(W1 relu([start(i); end(j)]) + b1) + b2, and its logit for a label is the product with the
    label's vector. W1 splits into a half for starts and a half for ends, so each is applied per word, not per span;
    W2 is applied to the labels instead of the spans. The same numbers, the same parameters, a fraction of the work:
    O(L·D²) + O(L·K·C·D) instead of O(L·K·D²).
    """

    def __init__(self, hidden_size: int, *, max_width: int, dropout: float) -> None:
        super().__init__()
        self.max_width = max_width
        self.project_start = Projection(hidden_size, hidden_size, dropout)
        self.project_end = Projection(hidden_size, hidden_size, dropout)
        self.out_project = Projection(2 * hidden_size, hidden_size, dropout)

    def forward(self, words: Tensor, labels: Tensor) -> Tensor:
        """Words (B, L, D), labels (B, C, D) -> logits (B, L, K, C); 0 where the span would end after L words."""
        first, dropout, last = self.out_project.first, self.out_project.dropout, self.out_project.last
        start_half, end_half = first.weight.chunk(2, dim=1)
        starts = F.linear(F.relu(self.project_start(words)), start_half)
        ends = F.linear(F.relu(self.project_end(words)), end_half, first.bias)
        label_weights = (labels @ last.weight).transpose(1, 2)
        label_bias = (labels @ last.bias).unsqueeze(1)
        length = words.shape[1]
        by_width = []
        for width in range(self.max_width):  # one width at a time: the (B, L, K, 4D) grid never exists as a whole
            room = max(length - width, 0)
            hidden = dropout(F.relu(starts[:, :room] + ends[:, length - room :]))
            by_width.append(F.pad(hidden @ label_weights + label_bias, (0, 0, 0, length - room)))
        return torch.stack(by_width, dim=2)
