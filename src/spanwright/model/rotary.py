"""ModernBERT's attention on a GPU: the same numbers and parameters, with its rotary positions in one kernel.

transformers turns queries and keys in float32, in a dozen kernels a layer that write each intermediate result: a third
of a training step.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.modernbert import modeling_modernbert as plain

from spanwright.model.kernels import are_to_be_had


def speed_up(transformer: nn.Module) -> None:
    """Let every ModernBERT attention inside `transformer` turn in this way; others stay as they are."""
    if "position_embeddings" not in inspect.signature(plain.ModernBertAttention.forward).parameters:
        return  # transformers before 5 hands positions on in another form
    for module in transformer.modules():
        if type(module) is plain.ModernBertAttention:
            module.__class__ = RotaryAttention


class RotaryAttention(plain.ModernBertAttention):  # type: ignore[misc]
    """Asks transformers' own form where no kernel is to be had, or another attention than torch's is wanted."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As transformers'."""
        plainly = position_embeddings is None or self.config._attn_implementation != "sdpa"
        if plainly or others.get("output_attentions") or not are_to_be_had(hidden_states.device):
            given: tuple[Tensor, Tensor | None] = super().forward(
                hidden_states, position_embeddings, attention_mask, **others
            )
            return given
        from spanwright.model.kernels import rotary

        assert position_embeddings is not None
        states = self.Wqkv(hidden_states).unflatten(-1, (3, -1, self.head_dim))
        query, key, value = rotary.rotated(states, *position_embeddings).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=self.attention_dropout if self.training else 0.0,
            scale=self.head_dim**-0.5,
        )
        return self.out_drop(self.Wo(attended.transpose(1, 2).flatten(2))), None
