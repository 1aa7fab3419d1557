"""From gold examples to training rows, with an account of every gold span: learnt, or lost for a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from spanwright.entities import Example, Span, SpanRelation
from spanwright.text.windows import Window

TOO_WIDE = "wider than the model's max_width"
CUT = "cut by the model's window in every place"
APART = "relations between spans that no window holds both, or that cannot be learnt"


@dataclass(frozen=True, slots=True)
class Coverage:
    """What becomes of the gold spans: num_gold = num_learnt + sum of `lost`, exactly; and of their relations."""

    num_examples: int
    num_rows: int
    num_gold: int
    num_learnt: int
    lost: dict[str, int]
    num_relations: int = 0
    num_relations_learnt: int = 0

    def __str__(self) -> str:
        told = f"{self.num_learnt:,} of {self.num_gold:,} gold spans in {self.num_rows:,} rows can be learnt"
        told += "".join(f"; {count:,} are {reason}" for reason, count in sorted(self.lost.items()))
        if not self.num_relations:
            return told
        told += f"; {self.num_relations_learnt:,} of {self.num_relations:,} relations too"
        apart = self.num_relations - self.num_relations_learnt
        return told + (f", {apart:,} are {APART}" if apart else "")


def training_rows(
    examples: Sequence[Example], windows: Callable[[Example], Sequence[Window]], *, max_width: int | None
) -> tuple[list[Example], Coverage]:
    """Examples that fit the model: long ones in their windows, with the spans that lie wholly in each.

    A span in the overlap of two windows is learnt in both and counted once. Words without a row (an empty example)
    have no spans to lose.
    """
    rows: list[Example] = []
    lost: Counter[str] = Counter()
    num_related = 0
    for example in examples:
        narrow = [span for span in example.spans if max_width is None or span.end - span.start <= max_width]
        lost[TOO_WIDE] += len(example.spans) - len(narrow)
        cuts = windows(example)
        reached: set[Span] = set()
        related: set[SpanRelation] = set()
        for window in cuts:
            inside = [span for span in narrow if window.start <= span.start and span.end <= window.end]
            row = _with_relatable(example.with_spans(inside))
            reached.update(inside)
            related.update(row.relations)
            rows.append(_slice(row, window) if len(cuts) > 1 else row)
        lost[CUT] += sum(span not in reached for span in narrow)
        num_related += len(related)
    num_gold = sum(len(example.spans) for example in examples)
    lost = +lost
    num_relations = sum(len(set(example.relations)) for example in examples)
    learnt = num_gold - lost.total()
    return rows, Coverage(len(examples), len(rows), num_gold, learnt, dict(lost), num_relations, num_related)


def _with_relatable(example: Example) -> Example:
    """`example` without relations of the same words with each other: a model relates two entities."""
    gold = example.gold_relations
    if gold is None:
        return example
    apart = tuple(r for r in gold.relations if (r.head.start, r.head.end) != (r.tail.start, r.tail.end))
    return replace(example, gold_relations=replace(gold, relations=apart))


def _slice(example: Example, window: Window) -> Example:
    moved = {s: Span(s.start - window.start, s.end - window.start, s.label) for s in example.spans}
    gold = example.gold_relations
    if gold is not None:
        shifted = tuple(SpanRelation(moved[r.head], moved[r.tail], r.label) for r in gold.relations)
        gold = replace(gold, relations=shifted)
    return replace(
        example,
        words=example.words[window.start : window.end],
        spans=tuple(moved.values()),
        gold_relations=gold,
        origin=f"{example.origin} words {window.start} to {window.end}",
    )
