"""From gold examples to training rows, with an account of every gold span: learnt, or lost for a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from spanwright.entities import Example, Span
from spanwright.text.windows import Window

TOO_WIDE = "wider than the model's max_width"
CUT = "cut by the model's window in every place"


@dataclass(frozen=True, slots=True)
class Coverage:
    """What becomes of the gold spans: num_gold = num_learnt + sum of `lost`, exactly."""

    num_examples: int
    num_rows: int
    num_gold: int
    num_learnt: int
    lost: dict[str, int]

    def __str__(self) -> str:
        told = f"{self.num_learnt:,} of {self.num_gold:,} gold spans in {self.num_rows:,} rows can be learnt"
        return told + "".join(f"; {count:,} are {reason}" for reason, count in sorted(self.lost.items()))


def training_rows(
    examples: Sequence[Example], windows: Callable[[Example], Sequence[Window]], *, max_width: int | None
) -> tuple[list[Example], Coverage]:
    """Examples that fit the model: long ones in their windows, with the spans that lie wholly in each.

    A span in the overlap of two windows is learnt in both and counted once. Words without a row (an empty example)
    have no spans to lose.
    """
    rows: list[Example] = []
    lost: Counter[str] = Counter()
    for example in examples:
        narrow = [span for span in example.spans if max_width is None or span.end - span.start <= max_width]
        lost[TOO_WIDE] += len(example.spans) - len(narrow)
        cuts = windows(example)
        reached: set[Span] = set()
        for window in cuts:
            inside = [span for span in narrow if window.start <= span.start and span.end <= window.end]
            reached.update(inside)
            rows.append(_slice(example, window, inside) if len(cuts) > 1 else replace(example, spans=tuple(inside)))
        lost[CUT] += sum(span not in reached for span in narrow)
    num_gold = sum(len(example.spans) for example in examples)
    lost = +lost
    return rows, Coverage(len(examples), len(rows), num_gold, num_gold - lost.total(), dict(lost))


def _slice(example: Example, window: Window, spans: Sequence[Span]) -> Example:
    shifted = tuple(Span(span.start - window.start, span.end - window.start, span.label) for span in spans)
    origin = f"{example.origin} words {window.start} to {window.end}"
    return replace(example, words=example.words[window.start : window.end], spans=shifted, origin=origin)
