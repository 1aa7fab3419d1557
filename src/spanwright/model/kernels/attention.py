"""Attention in one kernel: scores are made, masked, dropped and used, and never written. Plain, or disentangled.

The disentangled form is that of `model.disentangled`: what queries say to distances and keys to distances are tables by
distance, (heads, B·S, W) each, made by plain products; a query's scores are a run of its row, a key's run backwards
through its own. The backward makes them anew, and writes each score's gradient for the products that follow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_QUERIES, _KEYS, _WARPS = 64, 32, 4  # that a kernel takes at once, and with: the quickest of seven on an H200
_ROUNDS = tl.constexpr(7)  # of Philox: as many as withstand all tests of randomness (Salmon et al., 2011)
_KINDS = (torch.bfloat16, torch.float16)  # float32 has no matrix units to gain from
_SIZES = (16, 32, 64, 128)
_LONGEST = 1024  # subtokens: the backward holds a row's scores by pairs


class Tables(NamedTuple):
    """Of the distances S - 1 to -(S - 1), scaled: (heads, d, W) each, W at least 2·S - 1.

    of_keys: what a query meets, a distance standing as a key; of_queries: what a key meets, in the opposite order.
    """

    of_keys: Tensor
    of_queries: Tensor


def fits(query: Tensor) -> bool:
    """Whether queries (B, S, heads, d) are for the kernels."""
    kind = query.dtype in _KINDS and query.shape[-1] in _SIZES
    return kind and query.shape[1] <= _LONGEST and query.numel() > 0


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    dropout: float,
    tables: Tables | None = None,
) -> Tensor:
    """Query, key, value (B, S, heads, d) -> attended (B, S, heads, d).

    mask (B, 1, S, S), (B, 1, 1, S) or what expands to it: True where a query may look at a key. A query that may look
    at none gets 0.
    """
    asked: Any = (query, key, value, mask, scale, dropout, *(tables or (None, None)))
    attended: Tensor = _Attention.apply(*asked)  # type: ignore[no-untyped-call]
    return attended


def attend_packed(states: Tensor, mask: Tensor | None, scale: float, dropout: float) -> Tensor:
    """As `attend`, of queries, keys and values in one (B, S, 3, heads, d), whose gradient comes in one piece too."""
    attended: Tensor = _Attention.apply(states, None, None, mask, scale, dropout, None, None)  # type: ignore[no-untyped-call]
    return attended


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        mask: Tensor | None,
        scale: float,
        dropout: float,
        of_keys: Tensor | None,
        of_queries: Tensor | None,
    ) -> Tensor:
        if key is None or value is None:
            given = [query.contiguous()]
            query, key, value = given[0].unbind(2)
        else:
            query, key, value = given = [each.contiguous() for each in (query, key, value)]
        rows, length, heads, size = query.shape
        if mask is None:
            mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=query.device)
        mask = mask.expand(rows, 1, length, length)
        tables = _said(query, key, of_keys, of_queries)
        attended = query.new_empty(rows, length, heads, size)
        sums = torch.empty(heads, rows, length, dtype=torch.float32, device=query.device)
        seed = torch.randint(1 << 62, (1,), device=query.device) if dropout > 0 else sums
        _attended[triton.cdiv(length, _QUERIES), heads * rows](
            query,
            key,
            value,
            *tables,
            mask.view(torch.uint8),
            seed,
            attended,
            sums,
            *_steps(query, mask),
            *(rows, length, heads, tables[0].shape[-1], scale, dropout),
            TABLED=of_keys is not None,
            DROPS=dropout > 0,
            QUERIES=_QUERIES,
            KEYS=_KEYS,
            SIZE=size,
            num_warps=_WARPS,
        )
        ctx.save_for_backward(*given, mask, seed, attended, sums, of_keys, of_queries)
        ctx.numbers = scale, dropout
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "Second gradients must be taken of attention in its plain form, but this one is a kernel. Set "
                "`spanwright.model.kernels.enabled = False`."
            )
        *given, mask, seed, attended, sums, of_keys, of_queries = ctx.saved_tensors
        scale, dropout = ctx.numbers
        query, key, value = given[0].unbind(2) if len(given) == 1 else given
        rows, length, heads, size = query.shape
        gradient = gradient.contiguous()
        found = [torch.empty_like(each) for each in given]
        of_query, of_key, of_value = found[0].unbind(2) if len(found) == 1 else found
        tabled = of_keys is not None
        tables = _said(query, key, of_keys, of_queries)
        width = tables[0].shape[-1] if tabled else length
        # by query and, in tables, by key; a distance between no two subtokens stays 0
        of_scores = (
            query.new_zeros(2, heads, rows * length, width)
            if tabled
            else query.new_empty(1, heads, rows * length, width)
        )
        numbers = (*_steps(query, mask), rows, length, heads, width, scale)
        blocks = {"TABLED": tabled, "QUERIES": _QUERIES, "KEYS": _KEYS, "SIZE": size, "num_warps": _WARPS}
        _of_keys_and_values[triton.cdiv(length, _KEYS), heads * rows](
            query,
            key,
            value,
            *tables,
            mask.view(torch.uint8),
            seed,
            attended,
            gradient,
            sums,
            of_key,
            of_value,
            of_scores[0],
            of_scores[-1],
            *numbers,
            dropout,
            DROPS=dropout > 0,
            **blocks,
        )
        _of_queries[triton.cdiv(length, _QUERIES), heads * rows](key, of_scores[0], of_query, *numbers, **blocks)
        if not tabled:
            return *found, *[None] * (8 - len(found))
        of_tables = []
        for states, of_states, scores, table in zip(
            (query, key), (of_query, of_key), of_scores, (of_keys, of_queries), strict=True
        ):
            through = torch.bmm(scores, table.transpose(1, 2))
            of_states += through.view(heads, rows, length, size).permute(1, 2, 0, 3)
            of_tables.append(torch.bmm(_by_head(states).transpose(1, 2), scores))
        return *found, None, None, None, *of_tables


def _by_head(states: Tensor) -> Tensor:
    """The view (heads, B·S, d) of (B, S, heads, d)."""
    return states.flatten(0, 1).transpose(0, 1)


def _said(query: Tensor, key: Tensor, of_keys: Tensor | None, of_queries: Tensor | None) -> tuple[Tensor, Tensor]:
    """What queries say to each distance, and keys: (heads, B·S, W) each. Without tables, anything."""
    if of_keys is None or of_queries is None:
        return query, key
    return torch.bmm(_by_head(query), of_keys), torch.bmm(_by_head(key), of_queries)


def _steps(query: Tensor, mask: Tensor) -> tuple[int, ...]:
    """From row to row, subtoken to subtoken and head to head of states; of the mask, to the next row, query, key."""
    return *query.stride()[:3], mask.stride(0), mask.stride(2), mask.stride(3)


@triton.jit
def _scores(
    query, key, by_query, by_key, mask, query_step, key_step, i, j, length, width, scale,
    TABLED: tl.constexpr,
):  # fmt: skip
    """(queries, keys) of a row and head, -inf where a query may not look; pointers are the row's and head's own."""
    inside = (i < length)[:, None] & (j < length)[None, :]
    score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    if TABLED:
        distance = length - 1 + j[None, :] - i[:, None]
        score += tl.load(by_query + i[:, None] * width + distance, mask=inside, other=0.0).to(tl.float32)
        distance = length - 1 + i[:, None] - j[None, :]
        score += tl.load(by_key + j[None, :] * width + distance, mask=inside, other=0.0).to(tl.float32)
    seen = tl.load(mask + i[:, None] * query_step + j[None, :] * key_step, mask=inside, other=0) > 0
    return tl.where(seen, score, float("-inf"))


@triton.jit
def _factors(seed, pair, i, j, length, dropout):
    """(queries, keys) 1 / (1 - dropout) where kept, 0 where dropped."""
    kept = tl.rand(tl.load(seed) + pair, i[:, None] * length + j[None, :], _ROUNDS) >= dropout
    return tl.where(kept, 1.0 / (1.0 - dropout), 0.0)


@triton.jit
def _attended(
    query, key, value, by_query, by_key, mask, seed, attended, sums,
    row_step, step, head_step, mask_step, query_step, key_step, rows, length, heads, width, scale, dropout,
    TABLED: tl.constexpr, DROPS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)  # a head and a row
    head = pair // rows
    row = pair % rows
    i = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    place = tl.arange(0, SIZE)[None, :]
    states = row * row_step + head * head_step
    if TABLED:
        by_query += pair * length * width
        by_key += pair * length * width
    mask += row * mask_step
    listed = (i < length)[:, None]
    asking = tl.load(query + states + i[:, None] * step + place, mask=listed, other=0.0)
    largest = tl.full([QUERIES], float("-inf"), dtype=tl.float32)
    total = tl.zeros([QUERIES], dtype=tl.float32)
    found = tl.zeros([QUERIES, SIZE], dtype=tl.float32)
    for begin in range(0, length, KEYS):
        j = begin + tl.arange(0, KEYS)
        known = (j < length)[:, None]
        asked = tl.load(key + states + j[:, None] * step + place, mask=known, other=0.0)
        score = _scores(asking, asked, by_query, by_key, mask, query_step, key_step, i, j, length, width, scale, TABLED)
        larger = tl.maximum(largest, tl.max(score, axis=1))
        shift = tl.where(larger == float("-inf"), 0.0, larger)  # no key to look at yet
        weight = tl.exp(score - shift[:, None])
        shrunk = tl.exp(largest - shift)
        total = total * shrunk + tl.sum(weight, axis=1)
        if DROPS:
            weight *= _factors(seed, pair, i, j, length, dropout)
        given = tl.load(value + states + j[:, None] * step + place, mask=known, other=0.0)
        found = found * shrunk[:, None] + tl.dot(weight.to(given.dtype), given, input_precision="ieee")
        largest = larger
    some = total > 0
    found = found / tl.where(some, total, 1.0)[:, None]
    where = ((row * length + i) * heads + head)[:, None] * SIZE + place
    tl.store(attended + where, found.to(attended.dtype.element_ty), mask=listed)
    logarithm = tl.where(some, largest + tl.log(tl.where(some, total, 1.0)), 0.0)
    tl.store(sums + pair * length + i, logarithm, mask=i < length)


@triton.jit
def _of_keys_and_values(
    query, key, value, by_query, by_key, mask, seed, attended, gradient, sums, of_key, of_value, of_by_query, of_by_key,
    row_step, step, head_step, mask_step, query_step, key_step, rows, length, heads, width, scale, dropout,
    TABLED: tl.constexpr, DROPS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    head = pair // rows
    row = pair % rows
    j = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    place = tl.arange(0, SIZE)[None, :]
    states = row * row_step + head * head_step
    table = pair * length * width
    if TABLED:
        by_query += table
        by_key += table
    mask += row * mask_step
    known = (j < length)[:, None]
    asked = tl.load(key + states + j[:, None] * step + place, mask=known, other=0.0)
    given = tl.load(value + states + j[:, None] * step + place, mask=known, other=0.0)
    key_gradient = tl.zeros([KEYS, SIZE], dtype=tl.float32)
    value_gradient = tl.zeros([KEYS, SIZE], dtype=tl.float32)
    for begin in range(0, length, QUERIES):
        i = begin + tl.arange(0, QUERIES)
        listed = (i < length)[:, None]
        asking = tl.load(query + states + i[:, None] * step + place, mask=listed, other=0.0)
        where = ((row * length + i) * heads + head)[:, None] * SIZE + place
        got = tl.load(attended + where, mask=listed, other=0.0)
        wanted = tl.load(gradient + where, mask=listed, other=0.0)
        score = _scores(asking, asked, by_query, by_key, mask, query_step, key_step, i, j, length, width, scale, TABLED)
        weight = tl.exp(score - tl.load(sums + pair * length + i, mask=i < length, other=0.0)[:, None])
        of_weight = tl.dot(wanted, tl.trans(given), input_precision="ieee")
        if DROPS:
            factors = _factors(seed, pair, i, j, length, dropout)
            value_gradient += tl.dot(tl.trans((weight * factors).to(wanted.dtype)), wanted, input_precision="ieee")
            of_weight *= factors
        else:
            value_gradient += tl.dot(tl.trans(weight.to(wanted.dtype)), wanted, input_precision="ieee")
        mean = tl.sum(got.to(tl.float32) * wanted.to(tl.float32), axis=1)  # of `of_weight`, by weight
        of_score = (weight * (of_weight - mean[:, None])).to(asking.dtype)
        key_gradient += tl.dot(tl.trans(of_score), asking, input_precision="ieee") * scale
        inside = listed & (j < length)[None, :]
        if TABLED:
            distance = length - 1 + j[None, :] - i[:, None]
            tl.store(of_by_query + table + i[:, None] * width + distance, of_score, mask=inside)
            distance = length - 1 + i[:, None] - j[None, :]
            tl.store(of_by_key + table + j[None, :] * width + distance, of_score, mask=inside)
        else:
            tl.store(of_by_query + table + i[:, None] * width + j[None, :], of_score, mask=inside)
    where = states + j[:, None] * step + place
    tl.store(of_key + where, key_gradient.to(of_key.dtype.element_ty), mask=known)
    tl.store(of_value + where, value_gradient.to(of_value.dtype.element_ty), mask=known)


@triton.jit
def _of_queries(
    key, of_by_query, of_query,
    row_step, step, head_step, mask_step, query_step, key_step, rows, length, heads, width, scale,
    TABLED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    states = pair % rows * row_step + pair // rows * head_step
    i = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    place = tl.arange(0, SIZE)[None, :]
    listed = (i < length)[:, None]
    found = tl.zeros([QUERIES, SIZE], dtype=tl.float32)
    for begin in range(0, length, KEYS):
        j = begin + tl.arange(0, KEYS)
        asked = tl.load(key + states + j[:, None] * step + place, mask=(j < length)[:, None], other=0.0)
        column = j[None, :] + tl.zeros([QUERIES, 1], dtype=tl.int32)
        if TABLED:
            column += length - 1 - i[:, None]
        inside = listed & (j < length)[None, :]
        of_score = tl.load(of_by_query + (pair * length + i)[:, None] * width + column, mask=inside, other=0.0)
        found += tl.dot(of_score, asked, input_precision="ieee")
    tl.store(of_query + states + i[:, None] * step + place, (found * scale).to(of_query.dtype.element_ty), mask=listed)


__all__ = ["Tables", "attend", "attend_packed", "fits"]
