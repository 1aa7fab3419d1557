"""Spans against gold spans, counted. Pure: no model, no tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spanwright.entities import Span, SpanRelation


@dataclass(frozen=True, slots=True)
class Counts:
    """How many were found, how many were right, how many there are. A share of nothing is 0."""

    true_positives: int = 0
    num_predicted: int = 0
    num_gold: int = 0

    @property
    def precision(self) -> float:
        """Share of the predicted that is right."""
        return self.true_positives / self.num_predicted if self.num_predicted else 0.0

    @property
    def recall(self) -> float:
        """Share of the gold that was found."""
        return self.true_positives / self.num_gold if self.num_gold else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        both = self.num_predicted + self.num_gold
        return 2 * self.true_positives / both if both else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Counts and shares."""
        return asdict(self) | {"precision": self.precision, "recall": self.recall, "f1": self.f1}


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """What was wrong; each wrong or missed span is counted once, a prediction together with the gold span it meant.

    label: the right bounds, another label. boundary: the right label, overlapping bounds. boundary_and_label: an
    overlap, another label. missing: gold that no wrong prediction overlaps; spurious: a prediction that overlaps none
    that was missed.
    """

    label: int = 0
    boundary: int = 0
    boundary_and_label: int = 0
    missing: int = 0
    spurious: int = 0


@dataclass(frozen=True, slots=True)
class RelationReport:
    """Relations whose head, tail and label are right: over all (micro), and per label.

    strict: as micro, where the labels of head and tail must be right too.
    """

    micro: Counts
    per_label: Mapping[str, Counts]
    strict: Counts
    num_examples: int

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return {
            "num_examples": self.num_examples,
            "micro": self.micro.to_dict(),
            "strict": self.strict.to_dict(),
            "per_label": {label: counts.to_dict() for label, counts in self.per_label.items()},
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Exact matches: over all spans (micro), per label, and the mean over labels that occur in gold (macro).

    relations: of a relation model, on examples whose relations somebody annotated.
    """

    micro: Counts
    per_label: Mapping[str, Counts]
    errors: ErrorCounts
    num_examples: int
    relations: RelationReport | None = None

    @property
    def headline_f1(self) -> float:
        """The one figure that models are compared by: micro F1, or its mean with that of relations."""
        return self.micro.f1 if self.relations is None else (self.micro.f1 + self.relations.micro.f1) / 2

    @property
    def macro_precision(self) -> float:
        """Mean precision of the labels that occur in gold."""
        return self._mean([counts.precision for counts in self._occurring()])

    @property
    def macro_recall(self) -> float:
        """Mean recall of the labels that occur in gold."""
        return self._mean([counts.recall for counts in self._occurring()])

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the labels that occur in gold."""
        return self._mean([counts.f1 for counts in self._occurring()])

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return {
            "num_examples": self.num_examples,
            "micro": self.micro.to_dict(),
            "macro": {"precision": self.macro_precision, "recall": self.macro_recall, "f1": self.macro_f1},
            "per_label": {label: counts.to_dict() for label, counts in self.per_label.items()},
            "errors": asdict(self.errors),
            **({} if self.relations is None else {"relations": self.relations.to_dict()}),
        }

    def _occurring(self) -> list[Counts]:
        return [counts for counts in self.per_label.values() if counts.num_gold]

    @staticmethod
    def _mean(values: Sequence[float]) -> float:
        return sum(values) / len(values) if values else 0.0


def score(
    gold: Sequence[Collection[Span]], predicted: Sequence[Collection[Span]], labels: Sequence[str] | None = None
) -> Report:
    """Count predictions against gold, example by example; a span given twice counts once.

    `labels` lists the labels of the report in order; by default those that occur, sorted.

    Raises:
        ValueError: there are not as many examples on both sides.

    """
    if len(gold) != len(predicted):
        raise ValueError(f"`predicted` must have {len(gold)} examples as `gold` has, but has {len(predicted)}.")
    right: Counter[str] = Counter()
    found: Counter[str] = Counter()
    there: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for gold_spans, predicted_spans in zip(map(set, gold), map(set, predicted), strict=True):
        right.update(span.label for span in gold_spans & predicted_spans)
        found.update(span.label for span in predicted_spans)
        there.update(span.label for span in gold_spans)
        errors.update(_errors(gold_spans - predicted_spans, predicted_spans - gold_spans))
    names = list(labels or []) + sorted((found | there).keys() - set(labels or []))
    per_label = {label: Counts(right[label], found[label], there[label]) for label in names}
    micro = Counts(right.total(), found.total(), there.total())
    return Report(micro, per_label, ErrorCounts(**errors), len(gold))


def score_relations(
    gold: Sequence[Collection[SpanRelation]],
    predicted: Sequence[Collection[SpanRelation]],
    labels: Sequence[str] | None = None,
) -> RelationReport:
    """Count predicted relations against gold, example by example; `labels` as in `score`.

    Raises:
        ValueError: there are not as many examples on both sides.

    """
    if len(gold) != len(predicted):
        raise ValueError(f"`predicted` must have {len(gold)} examples as `gold` has, but has {len(predicted)}.")
    plain = [[{_bare(relation) for relation in row} for row in side] for side in (gold, predicted)]
    found: list[Counter[str]] = [Counter(), Counter(), Counter()]
    for there, seen in zip(*plain, strict=True):
        for counter, kept in zip(found, (there & seen, seen, there), strict=True):
            counter.update(label for *_, label in kept)
    right, over, all_gold = found
    names = list(labels or []) + sorted((over | all_gold).keys() - set(labels or []))
    per_label = {label: Counts(right[label], over[label], all_gold[label]) for label in names}
    pairs = [(set(there), set(seen)) for there, seen in zip(gold, predicted, strict=True)]
    strict = Counts(*(sum(map(len, kept)) for kept in zip(*((t & s, s, t) for t, s in pairs), strict=True)))
    return RelationReport(Counts(right.total(), over.total(), all_gold.total()), per_label, strict, len(gold))


def _bare(relation: SpanRelation) -> tuple[int, int, int, int, str]:
    head, tail = relation.head, relation.tail
    return head.start, head.end, tail.start, tail.end, relation.label


def _errors(missed: set[Span], wrong: set[Span]) -> Counter[str]:
    """The kinds of error of one example. Pairs are made best kind first, then from left to right."""
    errors: Counter[str] = Counter()
    left, over = sorted(missed, key=_place), sorted(wrong, key=_place)
    for kind, belong in (
        ("label", lambda g, p: (g.start, g.end) == (p.start, p.end)),
        ("boundary", lambda g, p: g.label == p.label and _overlap(g, p)),
        ("boundary_and_label", _overlap),
    ):
        for prediction in list(over):
            meant = next((span for span in left if belong(span, prediction)), None)
            if meant is not None:
                errors[kind] += 1
                left.remove(meant)
                over.remove(prediction)
    errors["missing"] += len(left)
    errors["spurious"] += len(over)
    return +errors


def _place(span: Span) -> tuple[int, int, str]:
    return span.start, span.end, span.label


def _overlap(one: Span, other: Span) -> bool:
    return one.start < other.end and other.start < one.end
