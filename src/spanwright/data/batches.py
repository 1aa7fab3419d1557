"""Which rows form a micro-batch: rows of similar length together, within a budget, in an order drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

_BUCKET_BATCHES = 64  # full batches whose rows are sorted together: long enough to save padding, short enough to mix


def plan_batches(costs: Sequence[int], *, batch_size: int, max_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """The micro-batches of an epoch, as indices into `costs` (subtokens of each row); a function of its arguments.

    Every row occurs once. A batch has at most `batch_size` rows, and its padded size (rows times the longest) is at
    most `max_tokens`, unless it is a single row.
    """
    rng = random.Random(f"{seed}/{epoch}/order")
    order = list(range(len(costs)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    bucket = batch_size * _BUCKET_BATCHES
    for start in range(0, len(order), bucket):
        rows = sorted(order[start : start + bucket], key=lambda index: costs[index])
        batches += _cut(rows, costs, batch_size, max_tokens)
    rng.shuffle(batches)
    return batches


def _cut(rows: Sequence[int], costs: Sequence[int], batch_size: int, max_tokens: int) -> list[list[int]]:
    batches: list[list[int]] = []
    batch: list[int] = []
    for index in rows:  # ascending costs: the newest row is the longest
        if batch and (len(batch) == batch_size or (len(batch) + 1) * costs[index] > max_tokens):
            batches.append(batch)
            batch = []
        batch.append(index)
    return [*batches, batch] if batch else batches
