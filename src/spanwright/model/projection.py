"""The two-layer block that published GLiNER models use wherever they project."""

from __future__ import annotations

from typing import cast

from torch import nn


class Projection(nn.Sequential):
    """Linear to `widening` times `out_features`, ReLU, dropout, Linear: (..., in) -> (..., out)."""

    def __init__(self, in_features: int, out_features: int, dropout: float, *, widening: int = 4) -> None:
        wide = widening * out_features
        super().__init__(nn.Linear(in_features, wide), nn.ReLU(), nn.Dropout(dropout), nn.Linear(wide, out_features))

    @property
    def first(self) -> nn.Linear:
        """The layer that widens."""
        return cast(nn.Linear, self[0])

    @property
    def dropout(self) -> nn.Dropout:
        """The dropout between the layers."""
        return cast(nn.Dropout, self[2])

    @property
    def last(self) -> nn.Linear:
        """The layer that narrows."""
        return cast(nn.Linear, self[3])
