"""What a run measures on held-out examples. It observes: it draws no random number and leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from spanwright import modes
from spanwright.config import DecodeOptions, LossOptions
from spanwright.data.labels import LabelSampler
from spanwright.encoding import Row
from spanwright.entities import Example
from spanwright.evaluation import Report, evaluate
from spanwright.extractor import Extractor
from spanwright.losses import span_loss

_MOST_LABELS = 100  # inventories up to this size are asked whole; of larger ones each row is asked a fixed sample
_ROWS = 16


@dataclass(frozen=True, slots=True)
class Measured:
    """A report and the loss, by the formula of the training loss, averaged over real cells."""

    report: Report
    loss: float


class Validator:
    """Measures an extractor on the same examples with the same labels each time."""

    def __init__(
        self,
        examples: Sequence[Example],
        rows: Sequence[Example],
        sampler: LabelSampler,
        decode: DecodeOptions,
        loss: LossOptions,
        *,
        labels: Sequence[str],
        relations: Sequence[str] = (),
    ) -> None:
        """`rows` are the examples cut to the model's windows, for the loss; `labels` and `relations` all there are."""
        self._examples = _with_relations(_with_labels(examples, labels, sampler), relations, sampler)
        self._rows = _with_relations(_with_labels(rows, labels, sampler), relations, sampler)
        self._decode = decode
        self._loss = loss

    def measure(self, extractor: Extractor) -> Measured:
        """The report and the loss now."""
        report = evaluate(extractor, self._examples, options=self._decode)
        return Measured(report, self._mean_loss(extractor))

    def _mean_loss(self, extractor: Extractor) -> float:
        model, encoder = extractor.model, extractor.encoder
        total, count = 0.0, 0
        for rows in _slices(self._rows):
            batch, targets = encoder.encode_with_targets(
                [_row(example) for example in rows],
                [example.spans for example in rows],
                [example.relations for example in rows],
                seed="validation",
            )
            with modes.inference(model):
                scores = model(batch.to(model.device))
                loss = span_loss(scores, targets.to(model.device), self._loss)
                total, count = total + float(loss.total), count + int(loss.count)
        return total / max(count, 1)


def _with_labels(examples: Sequence[Example], inventory: Sequence[str], sampler: LabelSampler) -> list[Example]:
    if len(inventory) <= _MOST_LABELS:
        return [e if e.labels is not None else replace(e, labels=tuple(inventory)) for e in examples]
    return [
        replace(example, labels=tuple(sorted(sampler.labels_for(example, epoch=0, index=index))))
        for index, example in enumerate(examples)
    ]


def _with_relations(examples: Sequence[Example], inventory: Sequence[str], sampler: LabelSampler) -> list[Example]:
    """Examples whose relations somebody annotated, with the list of those to ask; nothing for a plain model."""
    asked = []
    for index, example in enumerate(examples):
        gold = example.gold_relations
        if gold is not None and not inventory:
            gold = None
        elif gold is not None and gold.labels is None:
            whole = len(inventory) <= _MOST_LABELS
            labels = inventory if whole else sorted(sampler.relations_for(example, epoch=0, index=index))
            gold = replace(gold, labels=tuple(labels))
        asked.append(replace(example, gold_relations=gold))
    return asked


def _row(example: Example) -> Row:
    """What an example that lists its labels is asked."""
    gold = example.gold_relations
    return Row(tuple(example.word_texts), example.labels or (), (gold.labels or ()) if gold is not None else ())


def _slices(rows: Sequence[Example]) -> Iterator[list[Example]]:
    ordered = sorted(rows, key=lambda row: len(row.words))
    for start in range(0, len(ordered), _ROWS):
        yield ordered[start : start + _ROWS]
