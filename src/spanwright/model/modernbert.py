"""ModernBERT, quicker on a GPU and more precise in half precision; the same parameters.

Quicker: transformers turns queries and keys in float32, in a dozen kernels a layer that write each intermediate result,
and torch's fused attention is slow where a mask tells padding. (BERT's would gain under 5 % by ours.)

More precise: each layer adds to a sum that runs through all of them and reads it through a layer norm. In half
precision every addition rounds, and 22 layers round 44 times: scores would lie half as far again from those in float32.
So the sum is float32, whatever the weights are.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import GELUActivation
from transformers.models.modernbert import modeling_modernbert as plain

from spanwright.model.kernels import are_to_be_had


def adopt(transformer: nn.Module) -> None:
    """Let every ModernBERT inside `transformer` take the forms here; other parts and encoders stay as they are."""
    for model in transformer.modules():
        if type(model) is not plain.ModernBertModel:
            continue
        for module in model.modules():
            if type(module) in _FORMS and _is_known(type(module)):
                module.__class__ = _FORMS[type(module)]
        layers = [layer for layer in model.modules() if type(layer) is plain.ModernBertEncoderLayer]
        norms: list[Any] = [model.final_norm, *(norm for layer in layers for norm in (layer.attn_norm, layer.mlp_norm))]
        if _is_known(plain.ModernBertEncoderLayer) and all(type(norm) in (nn.LayerNorm, nn.Identity) for norm in norms):
            for layer in layers:
                layer.__class__ = ModernBertEncoderLayer
            for norm in norms:
                if type(norm) is nn.LayerNorm:
                    norm.__class__ = PreciseNorm


def _is_known(kind: type[nn.Module]) -> bool:
    """Whether transformers calls it as the form here expects: 5.0 hands other things on."""
    return set(inspect.signature(kind.forward).parameters) <= {
        *("self", "hidden_states", "attention_mask", "position_embeddings", "kwargs")
    }


def _of_torch(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float) -> Tensor:
    """Torch's attention, of what is longer or more precise than the kernel takes; (B, S, heads, d) as there."""
    by_head = (each.transpose(1, 2) for each in (query, key, value))
    attend: Any = F.scaled_dot_product_attention
    attended: Tensor = attend(*by_head, attn_mask=mask, dropout_p=dropout, scale=scale)
    return attended.transpose(1, 2)


class RotaryAttention(plain.ModernBertAttention):  # type: ignore[misc]
    """Asks transformers' own form where there is no kernel, or something else is wanted than torch's attention."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """As transformers'."""
        plainly = position_embeddings is None or self.config._attn_implementation != "sdpa"
        if plainly or others.get("output_attentions") or not are_to_be_had(hidden_states.device):
            return super().forward(hidden_states, position_embeddings, attention_mask, **others)
        from spanwright.model.kernels import attention, rotary

        assert position_embeddings is not None
        own: Any = self
        states = own.Wqkv(hidden_states).unflatten(-1, (3, -1, own.head_dim))
        states = rotary.rotated(states, *position_embeddings)
        dropout = float(own.attention_dropout) if own.training else 0.0
        scale = float(own.head_dim) ** -0.5
        if attention.fits(states[:, :, 0]) and (attention_mask is None or attention_mask.dtype == torch.bool):
            attended = attention.attend_packed(states, attention_mask, scale, dropout)
        else:
            attended = _of_torch(states[:, :, 0], states[:, :, 1], states[:, :, 2], attention_mask, scale, dropout)
        return own.out_drop(own.Wo(attended.flatten(2))), None


class GatedMLP(plain.ModernBertMLP):  # type: ignore[misc]
    """ModernBERT's feed-forward layer: what attention is to its layers' other half."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """As transformers'."""
        own: Any = self
        states = own.Wi(hidden_states)
        summed: Tensor = own.Wo(own.drop(self._gated(states)))
        return summed

    def _gated(self, states: Tensor) -> Tensor:
        own: Any = self
        if type(own.act) is GELUActivation and are_to_be_had(states.device):
            from spanwright.model.kernels import gated

            if gated.fits(states):
                return gated.gated(states)
        first, second = states.chunk(2, dim=-1)
        product: Tensor = own.act(first) * second
        return product


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


class ModernBertEncoderLayer(plain.ModernBertEncoderLayer):  # type: ignore[misc]
    """Takes and gives the sum, which is float32 where the weights are less precise.

    It has the name of transformers' own, by which accelerate finds the layers that it is told to shard.
    """

    def forward(self, hidden_states: Tensor, **others: Any) -> Tensor:
        """As transformers'."""
        kind: torch.dtype = self.mlp_norm.weight.dtype
        total = hidden_states.float() if kind.itemsize < 4 else hidden_states
        attended, _ = self.attn(self.attn_norm(total).to(kind), **others)
        total = total + attended
        summed: Tensor = total + self.mlp(self.mlp_norm(total))
        return summed


_FORMS: dict[type[nn.Module], type[nn.Module]] = {
    plain.ModernBertAttention: RotaryAttention,
    plain.ModernBertMLP: GatedMLP,
}
