"""From subtokens to words."""

from __future__ import annotations

import torch
from torch import Tensor

from spanwright.config import Pooling


def take(states: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """States (B, S, D) at positions (B, N), zero where mask (B, N) is False -> (B, N, D)."""
    index = positions.unsqueeze(-1).expand(-1, -1, states.shape[-1])
    return states.gather(1, index).masked_fill(~mask.unsqueeze(-1), 0.0)


def pool_words(states: Tensor, starts: Tensor, ends: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """States (B, S, D) of subtokens `[start, end)` (B, L) pooled into words (B, L, D); zero where mask is False."""
    if pooling == "first":
        return take(states, starts, mask)
    if pooling == "last":
        return take(states, (ends - 1).clamp_min(0), mask)
    longest = int(((ends - starts) * mask).max()) if mask.numel() else 0
    pooled = take(states, starts, mask)
    for offset in range(1, longest):
        inside = mask & (starts + offset < ends)
        piece = take(states, (starts + offset).clamp_max(states.shape[1] - 1), inside)
        if pooling == "mean":
            pooled = pooled + piece
        else:
            pooled = torch.where(inside.unsqueeze(-1), torch.maximum(pooled, piece), pooled)
    if pooling == "mean":
        pooled = pooled / (ends - starts).clamp_min(1).unsqueeze(-1)
    return pooled
