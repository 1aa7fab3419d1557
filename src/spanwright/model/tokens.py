"""The token scorer: for every word and label, how much the word starts, ends and lies inside such an entity."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CELLS = 1 << 25  # numbers of the hidden layer that exist at a time


class TokenScorer(nn.Module):
    """Words (B, L, D), labels (B, C, D) -> logits (B, L, C, 3): start, end, inside.

    A word w and a label q become [t1; t2] and [l1; l2], and the logits are W2 relu(W1 [t1; l1; t2 * l2] + b1) + b2.
    W1 splits into three: the parts of t1 and l1 are computed per word and per label, and only the product per pair.
    """

    def __init__(self, hidden_size: int, *, dropout: float) -> None:
        super().__init__()
        wide = 4 * hidden_size
        self.proj_token = nn.Linear(hidden_size, 2 * hidden_size)
        self.proj_label = nn.Linear(hidden_size, 2 * hidden_size)
        self.out_mlp = nn.Sequential(
            nn.Linear(3 * hidden_size, wide), nn.Dropout(dropout), nn.ReLU(), nn.Linear(wide, 3)
        )

    def forward(self, words: Tensor, labels: Tensor) -> Tensor:
        """As the class says."""
        first, last = cast(nn.Linear, self.out_mlp[0]), self.out_mlp[3]
        inner = self.out_mlp[1:3]  # dropout and ReLU
        by_word, by_label, by_pair = first.weight.chunk(3, dim=1)
        word_sum, word_factor = self.proj_token(words).chunk(2, dim=-1)
        label_sum, label_factor = self.proj_label(labels).chunk(2, dim=-1)
        of_words = F.linear(word_sum, by_word).unsqueeze(2)
        of_labels = F.linear(label_sum, by_label, first.bias).unsqueeze(1)
        group = max(_CELLS // max(of_words.numel(), 1), 1)
        logits = []
        for start in range(0, max(labels.shape[1], 1), group):  # so that memory does not grow with the labels
            asked = slice(start, start + group)
            product = word_factor.unsqueeze(2) * label_factor[:, asked].unsqueeze(1)
            hidden = of_words + of_labels[:, :, asked] + F.linear(product, by_pair)
            logits.append(last(inner(hidden)))
        return torch.cat(logits, dim=2)
