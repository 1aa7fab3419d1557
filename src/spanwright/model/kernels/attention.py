"""Disentangled attention in one kernel: scores are made, masked and summed where they are used, and never written.

The same as the plain form in `model.disentangled`. What queries say to distances and keys to distances are tables by
distance, (heads, B·S, W) each, made by plain products; a query's scores are a run of its row, a key's run backwards
through its own. The backward makes the tables anew and writes each score's gradient into both of them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_QUERIES, _KEYS, _WARPS = 64, 32, 4  # that a kernel takes at once, and with: the quickest of seven on an H200
_ROUNDS = tl.constexpr(7)  # of Philox: as many as withstand all tests of randomness (Salmon et al., 2011)
_KINDS = (torch.bfloat16, torch.float16)  # float32 has no matrix units to gain from
_SIZES = (16, 32, 64, 128)


def fit(query: Tensor) -> bool:
    """Whether queries (B, S, heads, d) are for the kernels."""
    return query.dtype in _KINDS and query.shape[-1] in _SIZES and query.numel() > 0


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    of_keys: Tensor,
    of_queries: Tensor,
    mask: Tensor,
    scale: float,
    dropout: float,
) -> Tensor:
    """Query, key, value (B, S, heads, d) -> attended (B, S, heads, d).

    of_keys, of_queries (heads, d, W): of the distances S - 1 to -(S - 1), scaled, where a distance stands as a key and
    as a query; W is 2·S - 1 or more. mask (B, S): which keys are real.
    """
    attended: Tensor = _Attention.apply(query, key, value, of_keys, of_queries, mask, scale, dropout)  # type: ignore[no-untyped-call]
    return attended


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        of_keys: Tensor,
        of_queries: Tensor,
        mask: Tensor,
        scale: float,
        dropout: float,
    ) -> Tensor:
        rows, length, heads, size = query.shape
        query, key, value, mask = (each.contiguous() for each in (query, key, value, mask))
        by_query, by_key = _tables(query, key, of_keys, of_queries)
        attended = torch.empty_like(query)
        sums = torch.empty(heads, rows, length, dtype=torch.float32, device=query.device)
        seed = torch.randint(1 << 62, (1,), device=query.device) if dropout > 0 else mask
        _attended[triton.cdiv(length, _QUERIES), heads * rows](
            query,
            key,
            value,
            by_query,
            by_key,
            mask.view(torch.uint8),
            seed,
            attended,
            sums,
            *(rows, length, heads, by_query.shape[2], scale, dropout),
            DROPS=dropout > 0,
            QUERIES=_QUERIES,
            KEYS=_KEYS,
            SIZE=size,
            num_warps=_WARPS,
        )
        ctx.save_for_backward(query, key, value, of_keys, of_queries, mask, seed, attended, sums)
        ctx.numbers = scale, dropout
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "Second gradients must be taken of attention in its plain form, but this one is a kernel. Call "
                "`spanwright.model.disentangled.slow_down` on the transformer."
            )
        query, key, value, of_keys, of_queries, mask, seed, attended, sums = ctx.saved_tensors
        scale, dropout = ctx.numbers
        rows, length, heads, size = query.shape
        gradient = gradient.contiguous()
        by_query, by_key = _tables(query, key, of_keys, of_queries)
        width = by_query.shape[2]
        of_query, of_key, of_value = (torch.empty_like(each) for each in (query, key, value))
        of_scores = query.new_zeros(2, *by_query.shape)  # by query and by key; what no pair of subtokens is stays 0
        numbers = (rows, length, heads, width, scale)
        blocks = {"QUERIES": _QUERIES, "KEYS": _KEYS, "SIZE": size, "num_warps": _WARPS}
        _of_keys_and_values[triton.cdiv(length, _KEYS), heads * rows](
            query,
            key,
            value,
            by_query,
            by_key,
            mask.view(torch.uint8),
            seed,
            attended,
            gradient,
            sums,
            of_key,
            of_value,
            *of_scores,
            *numbers,
            dropout,
            DROPS=dropout > 0,
            **blocks,
        )
        _of_queries[triton.cdiv(length, _QUERIES), heads * rows](key, of_scores[0], of_query, *numbers, **blocks)
        by_head = [_by_head(each) for each in (query, key)]
        through_tables = [
            torch.bmm(scores, table.transpose(1, 2))
            for scores, table in zip(of_scores, (of_keys, of_queries), strict=True)
        ]
        for each, more in zip((of_query, of_key), through_tables, strict=True):
            each += more.view(heads, rows, length, size).permute(1, 2, 0, 3)
        of_tables = [
            torch.bmm(states.transpose(1, 2), scores) for states, scores in zip(by_head, of_scores, strict=True)
        ]
        return of_query, of_key, of_value, *of_tables, None, None, None


def _by_head(states: Tensor) -> Tensor:
    """The view (heads, B·S, d) of (B, S, heads, d)."""
    return states.flatten(0, 1).transpose(0, 1)


def _tables(query: Tensor, key: Tensor, of_keys: Tensor, of_queries: Tensor) -> tuple[Tensor, Tensor]:
    """What queries say to each distance, and keys: (heads, B·S, W) each."""
    return torch.bmm(_by_head(query), of_keys), torch.bmm(_by_head(key), of_queries)


@triton.jit
def _scores(
    query, key, by_query, by_key, mask, i, j, length, width, scale,
):  # fmt: skip
    """(queries, keys) of a row and head, -inf for what is no key; pointers are the row's and head's own."""
    inside = (i < length)[:, None] & (j < length)[None, :]
    score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    distance = length - 1 + j[None, :] - i[:, None]
    score += tl.load(by_query + i[:, None] * width + distance, mask=inside, other=0.0).to(tl.float32)
    distance = length - 1 + i[:, None] - j[None, :]
    score += tl.load(by_key + j[None, :] * width + distance, mask=inside, other=0.0).to(tl.float32)
    real = tl.load(mask + j, mask=j < length, other=0) > 0
    return tl.where(real[None, :], score, float("-inf"))


@triton.jit
def _kept(seed, pair, i, j, length, dropout):
    """(queries, keys) 1 / (1 - dropout) where kept, 0 where dropped."""
    kept = tl.rand(tl.load(seed) + pair, i[:, None] * length + j[None, :], _ROUNDS) >= dropout
    return tl.where(kept, 1.0 / (1.0 - dropout), 0.0)


@triton.jit
def _attended(
    query, key, value, by_query, by_key, mask, seed, attended, sums,
    rows, length, heads, width, scale, dropout,
    DROPS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)  # a head and a row
    head = pair // rows
    row = pair % rows
    i = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    place = tl.arange(0, SIZE)[None, :]
    step = heads * SIZE
    states = row * length * step + head * SIZE
    by_query += pair * length * width
    by_key += pair * length * width
    mask += row * length
    listed = (i < length)[:, None]
    asking = tl.load(query + states + i[:, None] * step + place, mask=listed, other=0.0)
    largest = tl.full([QUERIES], float("-inf"), dtype=tl.float32)
    total = tl.zeros([QUERIES], dtype=tl.float32)
    found = tl.zeros([QUERIES, SIZE], dtype=tl.float32)
    for begin in range(0, length, KEYS):
        j = begin + tl.arange(0, KEYS)
        known = (j < length)[:, None]
        asked = tl.load(key + states + j[:, None] * step + place, mask=known, other=0.0)
        score = _scores(asking, asked, by_query, by_key, mask, i, j, length, width, scale)
        larger = tl.maximum(largest, tl.max(score, axis=1))
        shift = tl.where(larger == float("-inf"), 0.0, larger)  # of a block without a real key
        weight = tl.exp(score - shift[:, None])
        shrunk = tl.exp(largest - shift)
        total = total * shrunk + tl.sum(weight, axis=1)
        if DROPS:
            weight *= _kept(seed, pair, i, j, length, dropout)
        given = tl.load(value + states + j[:, None] * step + place, mask=known, other=0.0)
        found = found * shrunk[:, None] + tl.dot(weight.to(given.dtype), given, input_precision="ieee")
        largest = larger
    found = found / total[:, None]
    tl.store(attended + states + i[:, None] * step + place, found.to(attended.dtype.element_ty), mask=listed)
    tl.store(sums + pair * length + i, largest + tl.log(total), mask=i < length)


@triton.jit
def _of_keys_and_values(
    query, key, value, by_query, by_key, mask, seed, attended, gradient, sums, of_key, of_value, of_by_query, of_by_key,
    rows, length, heads, width, scale, dropout,
    DROPS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    head = pair // rows
    row = pair % rows
    j = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    place = tl.arange(0, SIZE)[None, :]
    step = heads * SIZE
    states = row * length * step + head * SIZE
    table = pair * length * width
    mask += row * length
    known = (j < length)[:, None]
    asked = tl.load(key + states + j[:, None] * step + place, mask=known, other=0.0)
    given = tl.load(value + states + j[:, None] * step + place, mask=known, other=0.0)
    key_gradient = tl.zeros([KEYS, SIZE], dtype=tl.float32)
    value_gradient = tl.zeros([KEYS, SIZE], dtype=tl.float32)
    for begin in range(0, length, QUERIES):
        i = begin + tl.arange(0, QUERIES)
        listed = (i < length)[:, None]
        asking = tl.load(query + states + i[:, None] * step + place, mask=listed, other=0.0)
        wanted = tl.load(gradient + states + i[:, None] * step + place, mask=listed, other=0.0)
        score = _scores(asking, asked, by_query + table, by_key + table, mask, i, j, length, width, scale)
        weight = tl.exp(score - tl.load(sums + pair * length + i, mask=i < length, other=0.0)[:, None])
        weight = tl.where(listed, weight, 0.0)
        of_weight = tl.dot(wanted, tl.trans(given), input_precision="ieee")
        if DROPS:
            kept = _kept(seed, pair, i, j, length, dropout)
            value_gradient += tl.dot(tl.trans((weight * kept).to(wanted.dtype)), wanted, input_precision="ieee")
            of_weight *= kept
        else:
            value_gradient += tl.dot(tl.trans(weight.to(wanted.dtype)), wanted, input_precision="ieee")
        got = tl.load(attended + states + i[:, None] * step + place, mask=listed, other=0.0)
        mean = tl.sum(got.to(tl.float32) * wanted.to(tl.float32), axis=1)  # of `of_weight`, by weight
        of_score = (weight * (of_weight - mean[:, None])).to(asking.dtype)
        key_gradient += tl.dot(tl.trans(of_score), asking, input_precision="ieee") * scale
        inside = listed & (j < length)[None, :]
        distance = length - 1 + j[None, :] - i[:, None]
        tl.store(of_by_query + table + i[:, None] * width + distance, of_score, mask=inside)
        distance = length - 1 + i[:, None] - j[None, :]
        tl.store(of_by_key + table + j[None, :] * width + distance, of_score, mask=inside)
    where = states + j[:, None] * step + place
    tl.store(of_key + where, key_gradient.to(of_key.dtype.element_ty), mask=known)
    tl.store(of_value + where, value_gradient.to(of_value.dtype.element_ty), mask=known)


@triton.jit
def _of_queries(
    key, of_by_query, of_query,
    rows, length, heads, width, scale,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    states = pair % rows * length * heads * SIZE + pair // rows * SIZE
    i = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    place = tl.arange(0, SIZE)[None, :]
    step = heads * SIZE
    listed = (i < length)[:, None]
    found = tl.zeros([QUERIES, SIZE], dtype=tl.float32)
    for begin in range(0, length, KEYS):
        j = begin + tl.arange(0, KEYS)
        asked = tl.load(key + states + j[:, None] * step + place, mask=(j < length)[:, None], other=0.0)
        distance = length - 1 + j[None, :] - i[:, None]
        inside = listed & (j < length)[None, :]
        of_score = tl.load(of_by_query + pair * length * width + i[:, None] * width + distance, mask=inside, other=0.0)
        found += tl.dot(of_score, asked, input_precision="ieee")
    tl.store(of_query + states + i[:, None] * step + place, (found * scale).to(of_query.dtype.element_ty), mask=listed)


__all__ = ["attend", "fit"]
