"""What a run measures on held-out examples. It observes: it draws no random number and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from spanwright import faults, modes
from spanwright.arguments import checked_labels
from spanwright.config import DecodeOptions
from spanwright.data.labels import LabelSampler, label_inventory
from spanwright.entities import Example
from spanwright.evaluation import Answer, Asked, Report, asked_of, judge, predict
from spanwright.extractor import Extractor
from spanwright.losses import span_loss
from spanwright.train_config import LossOptions
from spanwright.training.world import World

_MOST_LABELS = 100  # inventories up to this size are asked whole; of larger ones each row is asked a fixed sample
_EXAMPLES = 64  # of a slice of the report
_ROWS = 16  # of a slice of the loss
Result = TypeVar("Result")


class Interrupted(Exception):
    """A stop signal came during an evaluation."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


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
        self._asked = Asked(checked_labels(label_inventory(self._examples)), tuple(relations))
        self._decode = decode
        self._loss = loss

    def measure(self, extractor: Extractor, world: World, received: Callable[[], int] = lambda: 0) -> Measured:
        """The report and the loss now, worked out by all processes together and given to each.

        Slices are the same for any number of processes, and each is one process's: so are the answers, bit for bit.

        Raises:
            Interrupted: a process has a stop signal, as `received` tells.

        """
        faults.point("evaluation.begin")

        def answers(part: Sequence[Example]) -> list[Answer]:
            return predict(extractor, part, self._asked, self._decode)

        predicted = _shared(list(_slices(self._examples, _EXAMPLES)), answers, world, received)
        report = judge(self._examples, [answer for part in predicted for answer in part], self._asked)
        ordered = sorted(self._rows, key=lambda row: len(row.words))
        losses = _shared(list(_slices(ordered, _ROWS)), lambda rows: self._loss_of(extractor, rows), world, received)
        total, count = (sum(values) for values in zip((0.0, 0), *losses, strict=True))
        return Measured(report, total / max(count, 1))

    def _loss_of(self, extractor: Extractor, rows: Sequence[Example]) -> tuple[float, int]:
        model, encoder = extractor.model, extractor.encoder
        batch, targets = encoder.encode_with_targets(
            [asked_of(row, self._asked) for row in rows],
            [row.spans for row in rows],
            [row.relations for row in rows],
            seed="validation",
        )
        with modes.inference(model):
            loss = span_loss(model(batch.to(model.device)), targets.to(model.device), self._loss)
            return float(loss.total), int(loss.count)


def _shared(
    slices: Sequence[Sequence[Example]],
    work: Callable[[Sequence[Example]], Result],
    world: World,
    received: Callable[[], int],
) -> list[Result]:
    """`work` of every slice, in order, in every process; each slice is worked on in one."""
    own: dict[int, Result] = {}
    for start in range(0, len(slices), world.size):
        trouble: Exception | None = None
        try:
            faults.point("evaluation.slice")
            if start + world.rank < len(slices):
                own[start + world.rank] = work(slices[start + world.rank])
        except Exception as error:
            trouble = error
        if signal := world.agreement.meet("The evaluation", trouble=trouble, received=received()):
            raise Interrupted(signal)
    everyone = {place: result for part in world.agreement.gather(own) for place, result in part.items()}
    return [everyone[place] for place in range(len(slices))]


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


def _slices(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    for start in range(0, len(examples), size):
        yield examples[start : start + size]
