"""Long documents as windows that overlap, each answering for a part of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Window:
    """Words `[start, end)` that are read together, and `[own_start, own_end)`, the starts that they answer for."""

    start: int
    end: int
    own_start: int
    own_end: int


def plan_windows(costs: Sequence[int], *, max_words: int, max_cost: int | None, overlap: int) -> tuple[Window, ...]:
    """Windows over words of given costs (subtokens): at most `max_words` words and `max_cost` subtokens each.

    The own parts partition all words. Neighbours share up to `overlap` words, cut in their middle: a span that starts
    in a window's own part and is at most `overlap // 2` words wide lies wholly in that window. Where words are so
    costly that a window has no room for the overlap, it shrinks; a word that alone costs too much has a window to
    itself. No words, no windows.
    """
    if 0 < len(costs) <= max_words and _fits(sum(costs), max_cost):
        return _whole(len(costs))
    bounds = _bounds(costs, max_words, max_cost, overlap)
    windows = []
    own_start = 0
    for index, (start, end) in enumerate(bounds):
        own_end = len(costs)
        if index + 1 < len(bounds):
            following = bounds[index + 1][0]
            own_end = following + (end - following + 1) // 2 if end > following else end
        windows.append(Window(start, end, own_start, own_end))
        own_start = own_end
    return tuple(windows)


@lru_cache(maxsize=1024)  # thousands of equal windows, of texts that are one each, would keep the collector busy
def _whole(length: int) -> tuple[Window, ...]:
    return (Window(0, length, 0, length),)


def _bounds(costs: Sequence[int], max_words: int, max_cost: int | None, overlap: int) -> list[tuple[int, int]]:
    total = [0, *accumulate(costs)]
    bounds: list[tuple[int, int]] = []
    start = end = 0
    while end < len(costs):
        end = max(end, start + 1)
        while end < len(costs) and end - start < max_words and _fits(total[end + 1] - total[start], max_cost):
            end += 1
        bounds.append((start, end))
        # the next window goes back by the overlap, as far as it then still reads something new
        start = max(end - overlap, start + 1)
        while end < len(costs) and start < end and not _room_for_next(total, start, end, max_words, max_cost):
            start += 1
    return bounds


def _room_for_next(total: Sequence[int], start: int, end: int, max_words: int, max_cost: int | None) -> bool:
    return end + 1 - start <= max_words and _fits(total[end + 1] - total[start], max_cost)


def _fits(cost: int, max_cost: int | None) -> bool:
    return max_cost is None or cost <= max_cost
