"""A model's answers on gold examples, counted. It asks the extractor itself: evaluation and extraction are one road."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from spanwright.arguments import checked_labels
from spanwright.config import DecodeOptions
from spanwright.data.labels import label_inventory, relation_inventory
from spanwright.encoding import Row
from spanwright.entities import Example, Span, SpanRelation
from spanwright.errors import DataError
from spanwright.evaluation.metrics import Report, score, score_relations
from spanwright.extractor import Extractor, Found

_SLICE = 256  # examples between two calls of `progress`


def evaluate(
    extractor: Extractor,
    examples: Sequence[Example],
    labels: Sequence[str] | None = None,
    options: DecodeOptions = DecodeOptions(),
    *,
    relations: Sequence[str] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Report:
    """Precision, recall and F1 of `extractor` on `examples`, micro, macro and per label, by exact match.

    Every example is asked the same labels, in the same order: `labels`, or else all that occur in the examples. An
    example that carries labels of its own is asked those. Gold spans that the model cannot reach (too wide) count as
    missed. A relation model is asked `relations`, or else all that occur, of the examples whose relations somebody
    annotated. `progress` is called with how many examples were done since the last call.

    Raises:
        DataError: there is no example, or no label to ask.

    """
    if not examples:
        raise DataError("`examples` must have at least one example, but is empty.")
    asked = checked_labels(label_inventory(examples) if labels is None else labels)
    if not asked:
        raise DataError("Evaluation must ask at least one label, but the examples carry none. Name them with `labels`.")
    related: tuple[str, ...] = ()
    if extractor.model.config.finds_relations:
        related = checked_labels(relation_inventory(examples) if relations is None else relations)
    question = Asked(asked, related, listed=labels is not None)
    answers: list[Answer] = []
    for start in range(0, len(examples), _SLICE):
        part = examples[start : start + _SLICE]
        answers += predict(extractor, part, question, options)
        if progress is not None:
            progress(len(part))
    return judge(examples, answers, question)


@dataclass(frozen=True, slots=True)
class Asked:
    """The labels, and of a relation model the relations, of examples that list none of their own.

    listed: whether a report lists all of the labels, or those that occur.
    """

    labels: tuple[str, ...]
    relations: tuple[str, ...] = ()
    listed: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found in an example: its spans, and the relations between them."""

    spans: list[Span]
    relations: list[SpanRelation]


def predict(extractor: Extractor, examples: Sequence[Example], asked: Asked, options: DecodeOptions) -> list[Answer]:
    """What `extractor` finds in each example: of the labels that it lists, or of those `asked`."""
    found = extractor.find([asked_of(example, asked) for example in examples], options)
    return [Answer([Span(span.start, span.end, span.label) for span in row.spans], _related(row)) for row in found]


def judge(examples: Sequence[Example], answers: Sequence[Answer], asked: Asked) -> Report:
    """The report of what `predict` gave."""
    rows = [asked_of(example, asked) for example in examples]
    gold = [[s for s in example.spans if s.label in row.labels] for example, row in zip(examples, rows, strict=True)]
    report = score(gold, [answer.spans for answer in answers], asked.labels if asked.listed else None)
    if not asked.relations:
        return report
    told = [
        ([r for r in example.relations if r.label in row.relations], answer.relations)
        for example, row, answer in zip(examples, rows, answers, strict=True)
        if example.gold_relations is not None
    ]
    return replace(report, relations=score_relations([g for g, _ in told], [p for _, p in told], asked.relations))


def asked_of(example: Example, asked: Asked) -> Row:
    """The question that an example is; no relations where nobody annotated them."""
    gold = example.gold_relations
    relations: tuple[str, ...] = ()
    if gold is not None and asked.relations:
        relations = asked.relations if gold.labels is None else gold.labels
    return Row(tuple(example.word_texts), asked.labels if example.labels is None else example.labels, relations)


def _related(found: Found) -> list[SpanRelation]:
    """Relations between the spans as they were labelled; of several labels, the better one."""
    named: dict[tuple[int, int], Span] = {}
    for span in found.spans:
        named.setdefault((span.start, span.end), Span(span.start, span.end, span.label))
    return [SpanRelation(named[r.head], named[r.tail], r.label) for r in found.relations]
