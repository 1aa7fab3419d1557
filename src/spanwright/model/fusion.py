"""Parts that mix: the layers of a transformer, or the words and the labels of a bi-encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerFusion(nn.Module):
    """A weighted sum of all layers of a transformer; the weights by squeeze and excitation (Hu et al., 2018).

    gliner squeezes over the padding too, so its answers depend on the other texts of a batch; here over real subtokens.
    """

    def __init__(self, num_layers: int, hidden_size: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(hidden_size, 1)
        self.W1 = nn.Linear(num_layers, num_layers // 2)
        self.W2 = nn.Linear(num_layers // 2, num_layers)
        self.output_projection = nn.Linear(hidden_size, hidden_size)

    def forward(self, layers: Sequence[Tensor], attention_mask: Tensor) -> Tensor:
        """States (B, S, D) of each layer -> (B, S, D)."""
        states = torch.stack(list(layers), dim=1)
        real = attention_mask.unsqueeze(1).to(states.dtype)
        squeezed = (self.squeeze(states).squeeze(-1) * real).sum(dim=2) / real.sum(dim=2)
        weights = torch.sigmoid(self.W2(F.relu(self.W1(squeezed))))
        fused: Tensor = self.output_projection((states * weights[:, :, None, None]).sum(dim=1))
        return fused


class _Attention(nn.Module):
    """Heads of scaled dot-product attention without an output projection."""

    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_layer = nn.Linear(size, size)
        self.key_layer = nn.Linear(size, size)
        self.value_layer = nn.Linear(size, size)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """(B, Q, D), (B, N, D), (B, N, D), mask (B, Q, N) -> (B, Q, D); zero for a query that may look at nothing."""
        q, k, v = self.query_layer(query), self.key_layer(key), self.value_layer(value)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask.unsqueeze(1), dropout_p=self.dropout if self.training else 0.0
        )
        return attended.transpose(1, 2).flatten(2).masked_fill(~mask.any(dim=-1, keepdim=True), 0.0)


class _SelfBlock(nn.Module):
    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = _Attention(size, num_heads, dropout)
        self.pre_norm, self.post_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(size, size) for _ in range(3))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        states = self.pre_norm(states)
        attended = self.self_attn(self.q_proj(states), self.k_proj(states), self.v_proj(states), mask)
        output: Tensor = self.post_norm(states + self.dropout(attended))
        return output


class _CrossBlock(nn.Module):
    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.cross_attn = _Attention(size, num_heads, dropout)
        self.pre_norm, self.post_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)
        self.v_proj = nn.Linear(size, size)

    def forward(self, states: Tensor, others: Tensor, mask: Tensor) -> Tensor:
        states = self.pre_norm(states)
        attended = self.cross_attn(states, others, self.v_proj(others), mask)
        output: Tensor = self.post_norm(states + self.dropout(attended))
        return output


class LabelWordFusion(nn.Module):
    """The published cross fuser: labels and words attend to themselves and to each other, as a schema says.

    The schema's steps, joined by "-", are "l2l", "t2t" (labels, words among themselves), "l2t" (labels look at words)
    and "t2l"; all of it is repeated `num_layers` times.
    """

    def __init__(self, schema: str, size: int, *, num_layers: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.steps = schema.split("-")
        kinds = [_SelfBlock if step in ("l2l", "t2t") else _CrossBlock for step in self.steps]
        self.layers = nn.ModuleList(
            nn.ModuleList(kind(size, num_heads, dropout) for kind in kinds) for _ in range(num_layers)
        )

    def forward(self, labels: Tensor, words: Tensor, label_mask: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B, C, D), words (B, L, D) -> the same shapes."""
        masks = {"l": label_mask, "t": word_mask}
        states = {"l": labels, "t": words}
        for layer in self.layers:
            for step, block in zip(self.steps, layer, strict=True):  # type: ignore[call-overload]
                looking, seen = step[0], step[-1]
                mask = masks[looking].unsqueeze(2) & masks[seen].unsqueeze(1)
                others = () if looking == seen else (states[seen],)
                states[looking] = block(states[looking], *others, mask)
        return states["l"], states["t"]
