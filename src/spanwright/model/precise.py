"""ModernBERT in half precision, with the sum that runs through all its layers in float32.

Each of its layers adds to that sum and reads it through a layer norm. In half precision every addition rounds, and 22
layers round 44 times: scores would lie half as far again from those in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.modernbert import modeling_modernbert as plain


def make_precise(transformer: nn.Module) -> None:
    """Let every ModernBERT inside `transformer` sum in float32; nothing changes where its weights are float32."""
    for module in transformer.modules():
        if type(module) is not plain.ModernBertModel:
            continue
        stack: Any = module.layers
        layers = [layer for layer in stack if type(layer) is plain.ModernBertEncoderLayer]
        norms = [module.final_norm, *(norm for layer in layers for norm in (layer.attn_norm, layer.mlp_norm))]
        if not all(type(norm) in (nn.LayerNorm, nn.Identity) for norm in norms):
            continue
        for layer in layers:
            layer.__class__ = PreciseLayer
        for norm in norms:
            if type(norm) is nn.LayerNorm:
                norm.__class__ = PreciseNorm


class PreciseNorm(nn.LayerNorm):
    """`nn.LayerNorm` that may be given more precise states than its weights: what it gives is like its weights."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """As `nn.LayerNorm.forward`."""
        kind: torch.dtype = self.weight.dtype
        if input.dtype == kind:
            return super().forward(input)
        own: Any = self  # of which torch says that it always has a bias
        bias = None if own.bias is None else own.bias.to(input.dtype)
        normed = F.layer_norm(input, own.normalized_shape, own.weight.to(input.dtype), bias, own.eps)
        return normed.to(kind)


class PreciseLayer(plain.ModernBertEncoderLayer):  # type: ignore[misc]
    """Takes and gives the sum, which is float32 where the weights are less precise."""

    def forward(self, hidden_states: Tensor, **others: Any) -> Tensor:
        """As transformers'."""
        kind: torch.dtype = self.mlp_norm.weight.dtype
        total = hidden_states.float() if kind.itemsize < 4 else hidden_states
        attended, _ = self.attn(self.attn_norm(total).to(kind), **others)
        total = total + attended
        summed: Tensor = total + self.mlp(self.mlp_norm(total))
        return summed
