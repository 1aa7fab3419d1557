"""Gold spans and relations to `Targets`, and what a batch shows of them to the network in training."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import torch

from spanwright.config import ModelConfig
from spanwright.entities import Span, SpanRelation
from spanwright.tensors import Candidates, EncodedBatch, EntityPairs, RelationQuestions, Targets

_MOST_PAIRS = 256  # of a row: all related ones, then others


@dataclass(frozen=True, slots=True)
class Row:
    """One question to the network: which of `labels` do the spans of `words` carry, and which `relations` have they?"""

    words: tuple[str, ...]
    labels: tuple[str, ...]
    relations: tuple[str, ...] = ()


def gold_cells(
    batch: EncodedBatch,
    rows: Sequence[Row],
    spans: Sequence[Sequence[Span]],
    relations: Sequence[Sequence[SpanRelation]],
    config: ModelConfig,
    *,
    seed: str,
) -> tuple[EncodedBatch, Targets]:
    """The batch with what training shows the network of the gold, and the gold cells of all its scores."""
    if config.is_token_level:
        targets = encode_token_targets(spans, rows)
    else:
        targets = encode_targets(spans, rows, max_width=config.max_width)
    if config.span_head:
        shown, values = _head_targets(rows, spans, random.Random(seed), config.max_width)
        num_cells = targets.num_cells + int((shown.mask.sum(dim=1) * batch.label_mask.sum(dim=1)).sum())
        return replace(batch, candidates=shown), replace(targets, num_cells=num_cells, head_values=values)
    if not config.finds_relations:
        return batch, targets
    asked = batch.relations or _nothing_asked(len(rows))  # so that every step runs, and trains, the same parts
    shown, pairs, adjacency, values = _relation_targets(rows, spans, relations, random.Random(seed))
    num_cells = targets.num_cells + int((pairs.mask.sum(dim=1) * asked.mask.sum(dim=1)).sum())
    if config.adjacency != "none":
        counts = shown.mask.sum(dim=1)
        num_cells += int((counts * (counts - 1) * asked.mask.any(dim=1)).sum())
    batch = replace(batch, candidates=shown, relations=replace(asked, pairs=pairs))
    return batch, replace(targets, num_cells=num_cells, adjacency=adjacency, relation_values=values)


def encode_targets(spans: Sequence[Sequence[Span]], rows: Sequence[Row], *, max_width: int) -> Targets:
    """Gold cells (B, L, K, C) of rows whose spans all are at most `max_width` words wide and of a label asked."""
    longest = max(len(row.words) for row in rows)
    most = max(len(row.labels) for row in rows)
    values = np.zeros((len(rows), longest, max_width, most), dtype=np.float32)
    num_cells = 0
    for b, (row, gold) in enumerate(zip(rows, spans, strict=True)):
        column = {label: c for c, label in enumerate(row.labels)}
        for span in gold:
            values[b, span.start, span.end - span.start - 1, column[span.label]] = 1.0
        num_cells += num_spans(len(row.words), max_width) * len(row.labels)
    return Targets(torch.from_numpy(values), num_cells)


def encode_token_targets(spans: Sequence[Sequence[Span]], rows: Sequence[Row]) -> Targets:
    """Gold cells (B, L, C, 3): whether a word starts, ends, lies inside a span of the label."""
    longest = max(len(row.words) for row in rows)
    most = max(len(row.labels) for row in rows)
    values = np.zeros((len(rows), longest, most, 3), dtype=np.float32)
    for b, (row, gold) in enumerate(zip(rows, spans, strict=True)):
        column = {label: c for c, label in enumerate(row.labels)}
        for span in gold:
            c = column[span.label]
            values[b, span.start, c, 0] = values[b, span.end - 1, c, 1] = 1.0
            values[b, span.start : span.end, c, 2] = 1.0
    return Targets(torch.from_numpy(values), sum(len(row.words) * len(row.labels) for row in rows))


def _head_targets(
    rows: Sequence[Row], spans: Sequence[Sequence[Span]], rng: random.Random, max_width: int
) -> tuple[Candidates, torch.Tensor]:
    """What a span head is shown in training, and its gold cells (B, N, C)."""
    shown: list[list[tuple[int, int]]] = []
    for row, gold in zip(rows, spans, strict=True):
        bounds = dict.fromkeys((span.start, span.end - 1) for span in gold)
        wanted = max(2 * len(bounds), 1)
        for _ in range(20 * wanted):  # short rows may not have as many spans as are wanted
            if len(bounds) == wanted:
                break
            first = rng.randrange(len(row.words))
            bounds.setdefault((first, min(first + rng.randrange(max_width), len(row.words) - 1)))
        shown.append(list(bounds))
    values = np.zeros((len(rows), max(map(len, shown)), max(len(row.labels) for row in rows)), dtype=np.float32)
    for b, (row, gold) in enumerate(zip(rows, spans, strict=True)):
        for span in gold:
            values[b, shown[b].index((span.start, span.end - 1)), row.labels.index(span.label)] = 1.0
    return Candidates(*_padded_pairs(shown)), torch.from_numpy(values)


def _relation_targets(
    rows: Sequence[Row],
    spans: Sequence[Sequence[Span]],
    relations: Sequence[Sequence[SpanRelation]],
    rng: random.Random,
) -> tuple[Candidates, EntityPairs, torch.Tensor, torch.Tensor]:
    """The gold entities, their pairs, and the gold cells of adjacency (B, E, E) and relations (B, P, R).

    The adjacency's target is 1 for two entities that are related, in either direction, since most adjacencies are
    symmetric; the relations say in which. gliner's target is 1 for unrelated pairs that it draws, too.
    """
    entities = [sorted({(span.start, span.end - 1) for span in gold}) for gold in spans]
    place = [{bounds: index for index, bounds in enumerate(row)} for row in entities]
    related = [
        [(where[r.head.start, r.head.end - 1], where[r.tail.start, r.tail.end - 1], r.label) for r in gold]
        for where, gold in zip(place, relations, strict=True)
    ]
    shown = [
        _pairs_shown(len(row), [(head, tail) for head, tail, _ in gold], rng)
        for row, gold in zip(entities, related, strict=True)
    ]
    most, widest = max(1, *map(len, entities)), max(1, *(len(row.relations) for row in rows))
    adjacency = np.zeros((len(rows), most, most), dtype=np.float32)
    values = np.zeros((len(rows), max(1, *map(len, shown)), widest), dtype=np.float32)
    for b, (row, gold, pairs) in enumerate(zip(rows, related, shown, strict=True)):
        column = {label: c for c, label in enumerate(row.relations)}
        at = {pair: index for index, pair in enumerate(pairs)}
        for head, tail, label in gold:
            adjacency[b, head, tail] = adjacency[b, tail, head] = 1.0
            values[b, at[head, tail], column[label]] = 1.0
    asked = EntityPairs(*_padded_pairs(shown))
    return Candidates(*_padded_pairs(entities)), asked, torch.from_numpy(adjacency), torch.from_numpy(values)


def _nothing_asked(num_rows: int) -> RelationQuestions:
    return RelationQuestions(torch.zeros(num_rows, 1, dtype=torch.long), torch.zeros(num_rows, 1, dtype=torch.bool))


def _pairs_shown(num_entities: int, related: Sequence[tuple[int, int]], rng: random.Random) -> list[tuple[int, int]]:
    """The ordered pairs of different entities, in order: all, or where there are many the related ones and some."""
    pairs = list(permutations(range(num_entities), 2))
    if len(pairs) <= _MOST_PAIRS:
        return pairs
    kept = set(related)
    others = [pair for pair in pairs if pair not in kept]
    return sorted(kept | set(rng.sample(others, max(_MOST_PAIRS - len(kept), 0))))


def _padded_pairs(rows: Sequence[Sequence[tuple[int, int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of each row as (B, N, 2), N at least 1, and the mask of what is real."""
    table = np.zeros((len(rows), max(1, *map(len, rows)), 2), dtype=np.int64)
    for b, row in enumerate(rows):
        if row:
            table[b, : len(row)] = row
    mask = np.arange(table.shape[1])[None] < np.array([len(row) for row in rows])[:, None]
    return torch.from_numpy(table), torch.from_numpy(mask)


def num_spans(length: int, max_width: int) -> int:
    """Spans of at most `max_width` words in `length` words."""
    widest = min(length, max_width)
    return widest * length - widest * (widest - 1) // 2
