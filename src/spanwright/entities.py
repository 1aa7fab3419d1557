"""The values that travel between the stages. Plain, frozen, free of torch.

Two units occur: *characters* of the user's string and *words* of `text.words`. Every interval is half-open and
zero-based, whichever the unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text: `text[start:end]`, in characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Span:
    """Words `[start, end)` of an example that carry `label`."""

    start: int
    end: int
    label: str


class ScoredSpan(NamedTuple):
    """Words `[start, end)` that a model gives `label` with `score` in (0, 1). A tuple, for there are many of them."""

    start: int
    end: int
    label: str
    score: float

    def shifted(self, by: int) -> ScoredSpan:
        """The same span `by` words further right."""
        return ScoredSpan(self.start + by, self.end + by, self.label, self.score)


Bounds = tuple[int, int]  # words `[start, end)`


@dataclass(frozen=True, slots=True)
class SpanRelation:
    """`head` stands in relation `label` to `tail`, both spans of the same example."""

    head: Span
    tail: Span
    label: str


@dataclass(frozen=True, slots=True)
class ScoredRelation:
    """The words of `head` stand in relation `label` to those of `tail`, as a model has it, with `score` in (0, 1)."""

    head: Bounds
    tail: Bounds
    label: str
    score: float

    def shifted(self, by: int) -> ScoredRelation:
        """The same relation `by` words further right."""
        (start, end), (tail_start, tail_end) = self.head, self.tail
        return ScoredRelation((start + by, end + by), (tail_start + by, tail_end + by), self.label, self.score)


@dataclass(frozen=True, slots=True)
class Entity:
    """An answer in characters of the user's string: `string[start:end] == text`."""

    start: int
    end: int
    text: str
    label: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """The form that the GLiNER world exchanges: start, end, text, label, score."""
        return {"start": self.start, "end": self.end, "text": self.text, "label": self.label, "score": self.score}


@dataclass(frozen=True, slots=True)
class Relation:
    """An answer of a relation model: entity `head` stands in relation `label` to entity `tail`."""

    head: Entity
    tail: Entity
    label: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Head, tail, label, score; head and tail as Entity.to_dict gives them."""
        return {"head": self.head.to_dict(), "tail": self.tail.to_dict(), "label": self.label, "score": self.score}


@dataclass(frozen=True, slots=True)
class Extraction:
    """What a relation model finds in a text: its entities, and the relations between them."""

    entities: list[Entity]
    relations: list[Relation]


@dataclass(frozen=True, slots=True)
class RelationGold:
    """The relations of an example that are right: none where empty. `labels`, `negatives`: as those of Example."""

    relations: tuple[SpanRelation, ...] = ()
    labels: tuple[str, ...] | None = None
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """A gold datum: a text, its words and the spans that are right.

    `labels` are exactly the labels to ask this row (None: let the label sampler choose); `negatives` are labels
    known to be absent. `gold_relations` is None where nobody annotated relations. `source` names the data set that the
    example is of, where several are mixed: what another source calls absent says nothing of this one. `origin` names
    the place it was read from, as in ``train.jsonl:17``.
    """

    text: str
    words: tuple[Word, ...]
    spans: tuple[Span, ...]
    labels: tuple[str, ...] | None = None
    negatives: tuple[str, ...] = ()
    gold_relations: RelationGold | None = None
    source: str = ""
    origin: str = field(default="", compare=False)

    @classmethod
    def from_words(
        cls,
        words: Sequence[str],
        spans: Sequence[Span] = (),
        *,
        labels: tuple[str, ...] | None = None,
        negatives: tuple[str, ...] = (),
        gold_relations: RelationGold | None = None,
        source: str = "",
        origin: str = "",
    ) -> Example:
        """An example of words without their original text: they are joined by single spaces."""
        text, placed = " ".join(words), join_words(words)
        return cls(text, placed, tuple(spans), labels, negatives, gold_relations, source, origin)

    @property
    def relations(self) -> tuple[SpanRelation, ...]:
        """The gold relations; empty too where none were annotated."""
        return () if self.gold_relations is None else self.gold_relations.relations

    def with_spans(self, spans: Sequence[Span]) -> Example:
        """The same example with fewer spans, and without the relations of those that went."""
        kept = set(spans)
        gold = self.gold_relations
        if gold is not None:
            gold = replace(gold, relations=tuple(r for r in gold.relations if r.head in kept and r.tail in kept))
        return replace(self, spans=tuple(spans), gold_relations=gold)

    @property
    def word_texts(self) -> list[str]:
        """The words as strings."""
        return [word.text for word in self.words]


def join_words(words: Sequence[str]) -> tuple[Word, ...]:
    """Words with the character offsets that they have in ``" ".join(words)``."""
    placed, start = [], 0
    for word in words:
        placed.append(Word(word, start, start + len(word)))
        start += len(word) + 1
    return tuple(placed)
