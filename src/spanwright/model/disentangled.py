"""DeBERTa's attention without the waste of its plain form: the same numbers to rounding, the same parameters.

Disentangled attention (He et al., 2021) adds to each score what the query says to the relative position of the key, and
the key to that of the query. transformers computes both for all 2·span positions that the model knows, with the
positions projected anew and copied for each row of the batch, and gathers S of them for each query. Here only the
2·S - 1 positions that occur between S subtokens are projected, once for the batch; they are laid out by distance, so
that the scores of a query are a run of its row and the gather is a view: row i begins one further left than row i - 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.deberta_v2 import modeling_deberta_v2 as plain

from spanwright.model.kernels import are_to_be_had

_UNIT = 8  # columns


def speed_up(transformer: nn.Module) -> None:
    """Let every DeBERTa encoder inside `transformer` attend in this way; other encoders stay as they are."""
    for module in transformer.modules():
        if type(module) is plain.DebertaV2Encoder and _fits(module):
            module.__class__ = BandedEncoder
        elif type(module) is plain.DisentangledSelfAttention and module.relative_attention:
            module.__class__ = BandedAttention


def slow_down(transformer: nn.Module) -> None:
    """The opposite of `speed_up`: transformers' own form, the oracle of tests."""
    for module in transformer.modules():
        if type(module) is BandedEncoder:
            module.__class__ = plain.DebertaV2Encoder
        elif type(module) is BandedAttention:
            module.__class__ = plain.DisentangledSelfAttention


def _fits(encoder: nn.Module) -> bool:
    attentions = [m for m in encoder.modules() if isinstance(m, plain.DisentangledSelfAttention)]
    return all(m.relative_attention and {"c2p", "p2c"} <= set(m.pos_att_type) for m in attentions)


class BandedEncoder(plain.DebertaV2Encoder):  # type: ignore[misc]
    """Hands its layers the buckets of the distances S - 1 to -(S - 1), and which keys are real, not (S, S) tables."""

    def get_rel_pos(
        self, hidden_states: Tensor, query_states: Tensor | None = None, relative_pos: Tensor | None = None
    ) -> Tensor | None:
        """(2·S - 1,), or what the plain form gives where it is asked for something else."""
        if query_states is not None or relative_pos is not None:
            given: Tensor | None = super().get_rel_pos(hidden_states, query_states, relative_pos)
            return given
        return self._buckets(hidden_states.size(-2), hidden_states.device)

    def _buckets(self, length: int, device: torch.device) -> Tensor:
        """Made once for each length: they take a dozen kernels and a copy that the device waits for."""
        made: dict[tuple[int, torch.device], Tensor] = self.__dict__.setdefault("made_buckets", {})
        if (length, device) not in made:
            distances = torch.arange(length - 1, -length, -1, device="cpu")
            if self.position_buckets > 0 and self.max_relative_positions > 0:
                distances = plain.make_log_bucket_position(
                    distances, self.position_buckets, self.max_relative_positions
                )
            buckets = distances.long().to(device)
            if type(buckets) is not Tensor:  # of a tracer
                return buckets
            made[length, device] = buckets
        return made[length, device]

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be made again."""
        return {name: value for name, value in self.__dict__.items() if name != "made_buckets"}

    def get_attention_mask(self, attention_mask: Tensor) -> Tensor:
        """(B, S) -> (B, 1, 1, S): queries of padding need no mask, for nobody reads what comes of them."""
        if attention_mask.dim() <= 2:
            return attention_mask[:, None, None, :].bool()
        given: Tensor = super().get_attention_mask(attention_mask)
        return given


class BandedAttention(plain.DisentangledSelfAttention):  # type: ignore[misc]
    """Disentangled attention over bands of distances. Heads come before rows: positions serve all rows of a head."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Any = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As transformers', which is asked itself where weights or other queries are wanted."""
        banded = relative_pos is not None and relative_pos.dim() == 1
        if output_attentions or query_states is not None or not banded:
            given: tuple[Tensor, Tensor | None] = super().forward(
                hidden_states,
                attention_mask,
                output_attentions,
                query_states,
                None if banded else relative_pos,
                rel_embeddings,
            )
            return given
        assert relative_pos is not None
        query, key, value = (
            project(hidden_states).unflatten(2, (self.num_attention_heads, -1))
            for project in (self.query_proj, self.key_proj, self.value_proj)
        )
        scale = 1 / math.sqrt(self.attention_head_size * 3)  # three kinds of scores are summed
        of_keys, of_queries = self._positions(relative_pos, rel_embeddings, scale)
        if are_to_be_had(hidden_states.device):
            from spanwright.model.kernels import attention

            if attention.fits(query):
                tables = attention.Tables(of_keys, of_queries)
                dropout = self._dropout_now()
                attended = attention.attend(query, key, value, attention_mask, scale, dropout, tables)
                return attended.flatten(2), None
        query, key, value = (each.permute(2, 0, 1, 3).contiguous() for each in (query, key, value))
        bias = self._bias(query, key, of_keys, of_queries)
        attend = self._attend_fused if hidden_states.is_cuda else self._attend
        attended = attend(query, key, value, bias, attention_mask[:, 0, 0, :], scale)
        return attended.permute(1, 2, 0, 3).flatten(2), None

    def _dropout_now(self) -> float:
        return float(self.dropout.p) if self.dropout.training else 0.0

    @staticmethod
    def _bias(query: Tensor, key: Tensor, of_keys: Tensor, of_queries: Tensor) -> Tensor:
        """(heads, B, S, S): what queries say to distances and keys to distances."""
        said_by_query = torch.bmm(query.flatten(1, 2), of_keys)
        said_by_key = torch.bmm(key.flatten(1, 2), of_queries)
        shape = (*query.shape[:3], of_keys.shape[-1])
        bands = said_by_query.view(shape), said_by_key.view(shape)
        bias: Tensor = _SumOfBands.apply(*bands)  # type: ignore[no-untyped-call]
        return bias

    def _positions(self, buckets: Tensor, table: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Of each distance, as a key and, the other way round, as a query: (heads, d, 2·S - 1 or more), scaled."""
        span = self.pos_ebd_size
        known = self.pos_dropout(table)[: 2 * span]
        index = (buckets + span).clamp(0, 2 * span - 1)
        projects = (self.key_proj, self.query_proj) if self.share_att_key else (self.pos_key_proj, self.pos_query_proj)
        if len(index) < len(known):
            rows = known.index_select(0, index)
            of_keys, of_queries = (project(rows) for project in projects)
        else:
            of_keys, of_queries = (project(known).index_select(0, index) for project in projects)
        # an odd number of columns keeps a GPU's matrix units from aligned stores
        spare = (0, -len(index) % _UNIT) if table.is_cuda else (0, 0)
        of_keys, of_queries = (
            F.pad(each.view(len(index), self.num_attention_heads, -1).permute(1, 2, 0) * scale, spare)
            for each in (of_keys, of_queries.flip(0))
        )
        return of_keys, of_queries

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, mask: Tensor, scale: float) -> Tensor:
        scores = bias.flatten(0, 1).baddbmm_(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=scale)
        scores = scores.view(bias.shape).masked_fill_(~mask[None, :, None, :], torch.finfo(scores.dtype).min)
        weights = self.dropout(torch.softmax(scores, dim=-1))
        return torch.bmm(weights.flatten(0, 1).to(value.dtype), value.flatten(0, 1)).view(query.shape)

    def _attend_fused(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, mask: Tensor, scale: float
    ) -> Tensor:
        bias = bias.masked_fill_(~mask[None, :, None, :], torch.finfo(bias.dtype).min)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=self._dropout_now(), scale=scale
        )


class _SumOfBands(torch.autograd.Function):
    """Scores by distance to scores by position: (..., S, 2·S - 1 or more) twice -> (..., S, S).

    Cell (i, j) is the first's (i, j - i + S - 1) plus the second's (j, i - j + S - 1).
    """

    @staticmethod
    def forward(ctx: Any, by_query: Tensor, by_key: Tensor) -> Tensor:
        ctx.width = by_query.shape[-1]
        return _band(by_query) + _band(by_key).transpose(-1, -2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        both = gradient.new_zeros(2, *gradient.shape[:-1], ctx.width)
        _band(both[0]).copy_(gradient)
        _band(both[1]).copy_(gradient.transpose(-1, -2))
        return both[0], both[1]


def _band(scores: Tensor) -> Tensor:
    """The view (heads, B, S, S) of (heads, B, S, 2·S - 1 or more) whose row i begins S - 1 - i cells in."""
    heads, rows, length, width = scores.shape
    strides = (rows * length * width, length * width, width - 1, 1)
    return scores.as_strided((heads, rows, length, length), strides, scores.storage_offset() + length - 1)
