"""Candidate spans to the ones that may stand together."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from spanwright.config import DecodeOptions
from spanwright.entities import ScoredSpan

_SCORE, _START, _END = attrgetter("score"), attrgetter("start"), attrgetter("end")


def resolve(candidates: Iterable[ScoredSpan], options: DecodeOptions) -> list[ScoredSpan]:
    """The spans kept, greedily by score (among equals the earlier candidate), in the order of their starts.

    Two spans with the same bounds conflict unless `multi_label`. Otherwise, "flat" forbids any overlap, "nested" only
    a partial one. Costs O(n log n + n·width): each span asks about its own words only.
    """
    if options.overlap == "flat" and not options.multi_label:
        return _without_overlap(list(candidates))
    taken = _Taken()
    kept: list[ScoredSpan] = []
    for span in sorted(candidates, key=lambda span: -span.score):
        labels = taken.bounds.get((span.start, span.end))
        if labels is not None:
            free = options.multi_label and span.label not in labels
        elif options.overlap == "flat":
            free = not taken.touches(span)
        else:
            free = not taken.crosses(span)
        if free:
            taken.add(span)
            kept.append(span)
    return sorted(kept, key=lambda span: span.start)


def _without_overlap(candidates: list[ScoredSpan]) -> list[ScoredSpan]:
    """As `resolve` where no two spans may share a word."""
    taken = bytearray(max(map(_END, candidates), default=0))
    kept = []
    for span in sorted(candidates, key=_SCORE, reverse=True):  # a reversed sort keeps the order of equals too
        start, end = span.start, span.end
        if taken.find(1, start, end) < 0:
            taken[start:end] = b"\1" * (end - start)
            kept.append(span)
    kept.sort(key=_START)
    return kept


class _Taken:
    """What is kept so far, asked by position."""

    def __init__(self) -> None:
        self.bounds: dict[tuple[int, int], set[str]] = {}
        self._words: set[int] = set()
        self._furthest_end: dict[int, int] = {}  # start -> the last end of a kept span with that start
        self._nearest_start: dict[int, int] = {}  # end -> the first start of a kept span with that end

    def add(self, span: ScoredSpan) -> None:
        self.bounds.setdefault((span.start, span.end), set()).add(span.label)
        self._words.update(range(span.start, span.end))
        self._furthest_end[span.start] = max(self._furthest_end.get(span.start, 0), span.end)
        self._nearest_start[span.end] = min(self._nearest_start.get(span.end, span.start), span.start)

    def touches(self, span: ScoredSpan) -> bool:
        """Whether a kept span shares a word with this one."""
        return any(word in self._words for word in range(span.start, span.end))

    def crosses(self, span: ScoredSpan) -> bool:
        """Whether a kept span shares some, but not all, of its words with this one, and each has others."""
        inner = range(span.start + 1, span.end)
        return any(
            self._furthest_end.get(word, 0) > span.end or self._nearest_start.get(word, span.start) < span.start
            for word in inner
        )
