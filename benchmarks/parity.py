"""The same answers first: Spanwright's entities against gliner's, on the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spanwright import Entity

Key = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two sides agree: entities found by both or by one, and the largest difference of the scores of both.

    worst_flip: how far from the threshold the score of an entity that one side alone has lies at most; in flat
    decoding a flip takes its neighbours along, so the least distance of each text counts.
    """

    both: int
    one: int
    difference: float
    worst_flip: float

    def same_but_for_ties(self, tolerance: float) -> bool:
        """Whether the entities are the same, but where two scores, or a score and its threshold, are that close."""
        return self.one == 0 or self.worst_flip <= tolerance


def agreement(
    ours: Sequence[Sequence[Entity]], theirs: Sequence[Sequence[dict[str, Any]]], threshold: float = 0.5
) -> Agreement:
    """Compare text by text."""
    both = one = 0
    difference = worst = 0.0
    for own, other in zip(ours, theirs, strict=True):
        mine: dict[Key, float] = {(e.start, e.end, e.label): e.score for e in own}
        peers: dict[Key, float] = {(e["start"], e["end"], e["label"]): float(e["score"]) for e in other}
        shared = mine.keys() & peers.keys()
        alone = [*(mine[k] for k in mine.keys() - shared), *(peers[k] for k in peers.keys() - shared)]
        both += len(shared)
        one += len(alone)
        difference = max([difference, *(abs(mine[key] - peers[key]) for key in shared)])
        if alone:
            close = [abs(score - threshold) for score in alone]
            ties = [abs(a - b) for i, a in enumerate(alone) for b in alone[i + 1 :]]
            worst = max(worst, min([*close, *ties]))
    return Agreement(both, one, difference, worst)
