"""A model's answers on gold examples, counted. It asks the extractor itself: evaluation and extraction are one road."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spanwright.config import DecodeOptions
from spanwright.data.labels import label_inventory
from spanwright.encoding import Row
from spanwright.entities import Example, Span
from spanwright.errors import DataError
from spanwright.evaluation.metrics import Report, score
from spanwright.extractor import Extractor, checked_labels

_SLICE = 256  # examples between two calls of `progress`


def evaluate(
    extractor: Extractor,
    examples: Sequence[Example],
    labels: Sequence[str] | None = None,
    options: DecodeOptions = DecodeOptions(),
    *,
    progress: Callable[[int], object] | None = None,
) -> Report:
    """Precision, recall and F1 of `extractor` on `examples`, micro, macro and per label, by exact match.

    Every example is asked the same labels, in the same order: `labels`, or else all that occur in the examples. An
    example that carries labels of its own is asked those. Gold spans that the model cannot reach (too wide) count as
    missed. `progress` is called with how many examples were done since the last call.

    Raises:
        DataError: there is no example, or no label to ask.

    """
    if not examples:
        raise DataError("`examples` must have at least one example, but is empty.")
    asked = checked_labels(label_inventory(examples) if labels is None else labels)
    if not asked:
        raise DataError("Evaluation must ask at least one label, but the examples carry none. Name them with `labels`.")
    predicted: list[list[Span]] = []
    for start in range(0, len(examples), _SLICE):
        part = examples[start : start + _SLICE]
        predicted += predict(extractor, part, asked, options)
        if progress is not None:
            progress(len(part))
    return judge(examples, predicted, asked, listed=labels is not None)


def predict(
    extractor: Extractor, examples: Sequence[Example], labels: tuple[str, ...], options: DecodeOptions
) -> list[list[Span]]:
    """The spans that `extractor` finds in each example: of its own labels, or of `labels` where it carries none."""
    rows = [Row(tuple(example.word_texts), _asked(example, labels)) for example in examples]
    found = extractor.find_spans(rows, options)
    return [[Span(span.start, span.end, span.label) for span in spans] for spans in found]


def judge(
    examples: Sequence[Example], predicted: Sequence[Sequence[Span]], labels: tuple[str, ...], *, listed: bool
) -> Report:
    """The report of what `predict` gave. listed: whether it lists all of `labels`, or those that occur."""
    gold = [[span for span in example.spans if span.label in _asked(example, labels)] for example in examples]
    return score(gold, predicted, labels if listed else None)


def _asked(example: Example, labels: tuple[str, ...]) -> tuple[str, ...]:
    return labels if example.labels is None else example.labels
