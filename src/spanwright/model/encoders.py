"""Parts of BERT's family and of ModernBERT that ask kernels of our own: the same numbers to rounding, the same weights.

torch's fused attention is slow where a mask tells padding, and transformers turns ModernBERT's queries and keys in
float32, in a dozen kernels a layer. DeBERTa's attention is in `disentangled`.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import GELUActivation
from transformers.models.bert.modeling_bert import BertSelfAttention
from transformers.models.modernbert.modeling_modernbert import ModernBertAttention, ModernBertMLP
from transformers.models.roberta.modeling_roberta import RobertaSelfAttention
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaSelfAttention

from spanwright.model.kernels import are_to_be_had


def speed_up(transformer: nn.Module) -> None:
    """Let every attention inside `transformer` that has a form here take it; others stay as they are."""
    for module in transformer.modules():
        if type(module) in _FORMS and _is_known(type(module)):
            module.__class__ = _FORMS[type(module)]


def _is_known(kind: type[nn.Module]) -> bool:
    """Whether transformers calls it as the forms here expect; before 5 it did not."""
    return set(inspect.signature(kind.forward).parameters) <= {
        *("self", "hidden_states", "attention_mask", "position_embeddings", "past_key_values", "kwargs")
    }


class _Attention(nn.Module):
    """Asks transformers' own form where there is no kernel, or something else is wanted than torch's attention."""

    def _has_kernel(self, states: Tensor, others: dict[str, Any]) -> bool:
        wanted = others.get("past_key_values") is not None or others.get("output_attentions")
        config: Any = self.config
        return not wanted and config._attn_implementation == "sdpa" and are_to_be_had(states.device)


def _of_torch(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float) -> Tensor:
    """Torch's attention, of what is longer or more precise than the kernel takes; (B, S, heads, d) as there."""
    by_head = (each.transpose(1, 2) for each in (query, key, value))
    attend: Any = F.scaled_dot_product_attention
    attended: Tensor = attend(*by_head, attn_mask=mask, dropout_p=dropout, scale=scale)
    return attended.transpose(1, 2)


class _BertAttention(_Attention):
    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **others: Any) -> Any:
        """As transformers'."""
        own: Any = self
        if not self._has_kernel(hidden_states, others) or own.is_decoder:
            return super().forward(hidden_states, attention_mask, **others)
        from spanwright.model.kernels import attention

        query, key, value = (
            project(hidden_states).unflatten(-1, (-1, own.attention_head_size))
            for project in (own.query, own.key, own.value)
        )
        dropout = float(own.dropout.p) if own.training else 0.0
        if attention.fit(query):
            return attention.attend(query, key, value, attention_mask, own.scaling, dropout).flatten(2), None
        return _of_torch(query, key, value, attention_mask, own.scaling, dropout).flatten(2), None


class BertAttention(_BertAttention, BertSelfAttention):  # type: ignore[misc]
    """Of BERT."""


class RobertaAttention(_BertAttention, RobertaSelfAttention):  # type: ignore[misc]
    """Of RoBERTa."""


class XLMRobertaAttention(_BertAttention, XLMRobertaSelfAttention):  # type: ignore[misc]
    """Of XLM-RoBERTa."""


class RotaryAttention(_Attention, ModernBertAttention):  # type: ignore[misc]
    """Of ModernBERT."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """As transformers'."""
        if position_embeddings is None or not self._has_kernel(hidden_states, others):
            return super().forward(hidden_states, position_embeddings, attention_mask, **others)
        from spanwright.model.kernels import attention, rotary

        own: Any = self
        states = own.Wqkv(hidden_states).unflatten(-1, (3, -1, own.head_dim))
        states = rotary.rotated(states, *position_embeddings)
        dropout = float(own.attention_dropout) if own.training else 0.0
        scale = float(own.head_dim) ** -0.5
        if attention.fit(states[:, :, 0]):
            attended = attention.attend_packed(states, attention_mask, scale, dropout)
        else:
            attended = _of_torch(states[:, :, 0], states[:, :, 1], states[:, :, 2], attention_mask, scale, dropout)
        return own.out_drop(own.Wo(attended.flatten(2))), None


class GatedMLP(ModernBertMLP):  # type: ignore[misc]
    """ModernBERT's feed-forward layer: what attention is to its layers' other half."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """As transformers'."""
        own: Any = self
        states = own.Wi(hidden_states)
        if type(own.act) is not GELUActivation or not are_to_be_had(states.device):
            first, second = states.chunk(2, dim=-1)
            states = own.act(first) * second
        else:
            from spanwright.model.kernels import gated

            states = gated.gated(states)
        summed: Tensor = own.Wo(own.drop(states))
        return summed


_FORMS: dict[type[nn.Module], type[nn.Module]] = {
    BertSelfAttention: BertAttention,
    RobertaSelfAttention: RobertaAttention,
    XLMRobertaSelfAttention: XLMRobertaAttention,
    ModernBertAttention: RotaryAttention,
    ModernBertMLP: GatedMLP,
}
