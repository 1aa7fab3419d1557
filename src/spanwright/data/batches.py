"""Which rows form a micro-batch: rows of similar length together, within a budget, in an order drawn from a seed."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from typing import overload

from spanwright.data.mixture import Mixture

_BUCKET_BATCHES = 64  # full batches whose rows are sorted together: long enough to save padding, short enough to mix


class BatchPlan(Sequence[list[int]]):
    """The micro-batches of an epoch, as lists of rows. It holds 4 bytes for a row and 8 for a batch."""

    def __init__(self, rows: array[int], ends: array[int], order: array[int]) -> None:
        """Batch p before the last shuffle is rows[ends[p]:ends[p + 1]]; `order` is that shuffle."""
        self._rows, self._ends, self._order = rows, ends, order

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, k: int) -> list[int]: ...

    @overload
    def __getitem__(self, k: slice) -> list[list[int]]: ...

    def __getitem__(self, k: int | slice) -> list[int] | list[list[int]]:
        if isinstance(k, slice):
            return [self[place] for place in range(*k.indices(len(self)))]
        place = self._order[k]
        return self._rows[self._ends[place] : self._ends[place + 1]].tolist()


def plan_batches(
    costs: Sequence[int],
    *,
    batch_size: int,
    max_tokens: int,
    seed: int,
    epoch: int,
    mixture: Mixture | None = None,
) -> BatchPlan:
    """The micro-batches of an epoch, as indices into `costs` (subtokens of each row); a function of its arguments.

    Every row occurs once, or as often as `mixture` says. A batch has at most `batch_size` rows, and its padded size
    (rows times the longest) is at most `max_tokens`, unless it is a single row.
    """
    rng = random.Random(f"{seed}/{epoch}/order")
    shuffled = array("I", range(len(costs))) if mixture is None else mixture.rows(seed=seed, epoch=epoch)
    rng.shuffle(shuffled)
    rows, ends = array("I"), array("I", [0])
    bucket = batch_size * _BUCKET_BATCHES
    for start in range(0, len(shuffled), bucket):
        for batch in _cut(
            sorted(shuffled[start : start + bucket], key=costs.__getitem__), costs, batch_size, max_tokens
        ):
            rows.extend(batch)
            ends.append(len(rows))
    order = array("I", range(len(ends) - 1))
    rng.shuffle(order)
    return BatchPlan(rows, ends, order)


def _cut(rows: Sequence[int], costs: Sequence[int], batch_size: int, max_tokens: int) -> list[list[int]]:
    batches: list[list[int]] = []
    batch: list[int] = []
    for index in rows:  # ascending costs: the newest row is the longest
        if batch and (len(batch) == batch_size or (len(batch) + 1) * costs[index] > max_tokens):
            batches.append(batch)
            batch = []
        batch.append(index)
    return [*batches, batch] if batch else batches
