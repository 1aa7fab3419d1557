"""From gold examples to training rows, with an account of every gold span: learnt, or lost for a reason."""

from __future__ import annotations

import math
import sys
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
    account = Account()
    for example in examples:
        rows += account.rows_of(example, windows(example), max_width=max_width)
    return rows, account.coverage()


class Account:
    """Counts what becomes of the gold spans while examples are made into rows, one after the other."""

    def __init__(self) -> None:
        self._num_examples = self._num_rows = self._num_gold = self._num_relations = self._num_relations_learnt = 0
        self._lost: Counter[str] = Counter()
        self.num_relations_cut = 0  # those that would fit, but no window holds

    def rows_of(self, example: Example, windows: Sequence[Window], *, max_width: int | None) -> list[Example]:
        """The rows of one example, counted."""
        rows = rows_of(example, windows, max_width=max_width)
        narrow = _narrow(example, max_width)
        reached: set[Span] = set()
        related: set[SpanRelation] = set()
        for row, window in zip(rows, windows, strict=True):
            reached.update(_moved(span, window.start) for span in row.spans)
            related.update(_related(relation, window.start) for relation in row.relations)
        self._num_examples += 1
        self._num_rows += len(rows)
        self._num_gold += len(example.spans)
        self._lost[TOO_WIDE] += len(example.spans) - len(narrow)
        self._lost[CUT] += sum(span not in reached for span in narrow)
        relations = set(example.relations)
        self._num_relations += len(relations)
        self._num_relations_learnt += len(related)
        widest = sys.maxsize if max_width is None else max_width
        self.num_relations_cut += sum(width_of(relation) <= widest for relation in relations) - len(related)
        return rows

    def coverage(self) -> Coverage:
        """What has become of all so far."""
        lost = +self._lost
        num_learnt = self._num_gold - lost.total()
        relations = (self._num_relations, self._num_relations_learnt)
        return Coverage(self._num_examples, self._num_rows, self._num_gold, num_learnt, dict(lost), *relations)


def rows_of(example: Example, windows: Sequence[Window], *, max_width: int | None) -> list[Example]:
    """One row for each window, with the spans that lie wholly in it and are not too wide, and their relations."""
    narrow = _narrow(example, max_width)
    rows = []
    for window in windows:
        inside = [span for span in narrow if window.start <= span.start and span.end <= window.end]
        row = _with_relatable(example.with_spans(inside))
        rows.append(_slice(row, window) if len(windows) > 1 else row)
    return rows


def width_of(relation: SpanRelation) -> float:
    """The wider of both ends, in words; infinite where they are the same, which nothing can learn."""
    head, tail = relation.head, relation.tail
    if (head.start, head.end) == (tail.start, tail.end):
        return math.inf
    return max(head.end - head.start, tail.end - tail.start)


def _narrow(example: Example, max_width: int | None) -> list[Span]:
    return [span for span in example.spans if max_width is None or span.end - span.start <= max_width]


def _with_relatable(example: Example) -> Example:
    """`example` without relations of the same words with each other: a model relates two entities."""
    gold = example.gold_relations
    if gold is None:
        return example
    apart = tuple(r for r in gold.relations if (r.head.start, r.head.end) != (r.tail.start, r.tail.end))
    return replace(example, gold_relations=replace(gold, relations=apart))


def _slice(example: Example, window: Window) -> Example:
    gold = example.gold_relations
    if gold is not None:
        gold = replace(gold, relations=tuple(_related(relation, -window.start) for relation in gold.relations))
    return replace(
        example,
        words=example.words[window.start : window.end],
        spans=tuple(_moved(span, -window.start) for span in example.spans),
        gold_relations=gold,
        origin=f"{example.origin} words {window.start} to {window.end}",
    )


def _moved(span: Span, by: int) -> Span:
    return Span(span.start + by, span.end + by, span.label)


def _related(relation: SpanRelation, by: int) -> SpanRelation:
    return SpanRelation(_moved(relation.head, by), _moved(relation.tail, by), relation.label)
