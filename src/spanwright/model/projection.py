"""The two-layer block that published GLiNER models use wherever they project."""

from __future__ import annotations

from torch import nn


def projection(in_features: int, out_features: int, dropout: float) -> nn.Sequential:
    """Linear to four times `out_features`, ReLU, dropout, Linear: (..., in) -> (..., out)."""
    return nn.Sequential(
        nn.Linear(in_features, 4 * out_features),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(4 * out_features, out_features),
    )
