"""A model's answers on gold examples, counted. It asks the extractor itself: evaluation and extraction are one road."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from spanwright.config import DecodeOptions
from spanwright.data.labels import label_inventory, relation_inventory
from spanwright.encoding import Row
from spanwright.entities import Example, Span, SpanRelation
from spanwright.errors import DataError
from spanwright.evaluation.metrics import Report, score, score_relations
from spanwright.extractor import Extractor, Found, checked_labels

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
    rows = [_row(example, asked, related) for example in examples]
    found: list[Found] = []
    for start in range(0, len(examples), _SLICE):
        part = rows[start : start + _SLICE]
        found += extractor.find(part, options)
        if progress is not None:
            progress(len(part))
    gold = [[s for s in example.spans if s.label in row.labels] for example, row in zip(examples, rows, strict=True)]
    spans = [[Span(span.start, span.end, span.label) for span in row.spans] for row in found]
    report = score(gold, spans, asked if labels is not None else None)
    if not related:
        return report
    told = [
        ([r for r in example.relations if r.label in row.relations], _related(seen))
        for example, row, seen in zip(examples, rows, found, strict=True)
        if example.gold_relations is not None
    ]
    of_relations = score_relations([g for g, _ in told], [p for _, p in told], None if relations is None else related)
    return replace(report, relations=of_relations)


def _row(example: Example, labels: tuple[str, ...], relations: tuple[str, ...]) -> Row:
    gold = example.gold_relations
    return Row(
        tuple(example.word_texts),
        labels if example.labels is None else example.labels,
        () if gold is None or not relations else relations if gold.labels is None else gold.labels,
    )


def _related(found: Found) -> list[SpanRelation]:
    """Relations between the spans as they were labelled; of several labels, the better one."""
    named: dict[tuple[int, int], Span] = {}
    for span in found.spans:
        named.setdefault((span.start, span.end), Span(span.start, span.end, span.label))
    return [SpanRelation(named[r.head], named[r.tail], r.label) for r in found.relations]
