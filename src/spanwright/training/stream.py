"""The stream of micro-batches that a run reads, endless, and the same however it is cut among workers or resumed."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch.utils.data import DataLoader, Dataset

from spanwright.data.batches import BatchPlan, plan_batches
from spanwright.data.indexed import IndexedRows
from spanwright.data.labels import LabelSampler
from spanwright.data.mixture import Mixture
from spanwright.encoding import BatchEncoder, Row
from spanwright.entities import Example
from spanwright.errors import TrainingError
from spanwright.tensors import EncodedBatch, Targets
from spanwright.train_config import LoopOptions
from spanwright.training.signals import ignore_stop_signals

_SETTLED_AFTER = 1.0  # seconds in which torch tells of a loader's death after its connection broke


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward and backward see, and where its rows came from."""

    batch: EncodedBatch
    targets: Targets
    origins: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        """Rows in it."""
        return len(self.origins)

    def to(self, device: torch.device) -> MicroBatch:
        """The same on `device`."""
        return MicroBatch(self.batch.to(device), self.targets.to(device), self.origins)

    def describe(self) -> str:
        """Its size and rows, for an error message."""
        rows, length = self.batch.input_ids.shape
        listed = ", ".join(self.origins[:8]) + (" ..." if len(self.origins) > 8 else "")
        return f"{rows} rows of up to {length} subtokens and {self.batch.label_mask.shape[1]} labels ({listed})"


class MicroBatches(Dataset[MicroBatch]):
    """Micro-batch k of the stream, for any k: epoch after epoch, each in an order and with labels of its own."""

    def __init__(
        self,
        rows: Sequence[Example],
        encoder: BatchEncoder,
        sampler: LabelSampler,
        options: LoopOptions,
        *,
        mixture: Mixture | None = None,
        digest: str = "",
    ) -> None:
        """`digest` names the data that the rows come from: a run goes on with the same alone."""
        self.digest = digest
        self._mixture = mixture
        self._rows = rows
        self._encoder = encoder
        self.sampler = sampler
        self._options = options
        self._costs = rows.costs if isinstance(rows, IndexedRows) else [row_cost(encoder, row) for row in rows]
        self._firsts = [0]  # k of the first micro-batch of each epoch planned so far, and of the next
        self._plans: dict[int, BatchPlan] = {}

    @property
    def num_rows(self) -> int:
        """Rows of the data."""
        return len(self._rows)

    @property
    def epoch_length(self) -> int:
        """Micro-batches of the first epoch; later ones differ by a few at most."""
        if len(self._firsts) < 2:
            self._plan(0)
        return self._firsts[1]

    def __getitem__(self, k: int) -> MicroBatch:
        while k >= self._firsts[-1]:
            self._plan(len(self._firsts) - 1)
        epoch = bisect_right(self._firsts, k) - 1
        return self._encode(epoch, self._plan(epoch)[k - self._firsts[epoch]])

    def _plan(self, epoch: int) -> BatchPlan:
        """The plan of an epoch up to the next that is not planned yet. Two are kept: the stream moves on."""
        if epoch not in self._plans:
            while len(self._plans) > 1:
                del self._plans[min(self._plans)]
            self._plans[epoch] = plan_batches(
                self._costs,
                batch_size=self._options.batch_size,
                max_tokens=self._options.max_batch_tokens,
                seed=self._options.seed,
                epoch=epoch,
                mixture=self._mixture,
            )
            if len(self._firsts) == epoch + 1:
                self._firsts.append(self._firsts[-1] + len(self._plans[epoch]))
        return self._plans[epoch]

    def _encode(self, epoch: int, indices: Sequence[int]) -> MicroBatch:
        examples = [self._rows[index] for index in indices]
        asked = [
            self._asked(example, epoch=epoch, index=index) for example, index in zip(examples, indices, strict=True)
        ]
        batch, targets = self._encoder.encode_with_targets(
            asked,
            [example.spans for example in examples],
            [example.relations for example in examples],
            seed=f"{self._options.seed}/{epoch}/{indices[0]}",
        )
        return MicroBatch(batch, targets, tuple(example.origin for example in examples))

    def _asked(self, example: Example, *, epoch: int, index: int) -> Row:
        labels = self.sampler.labels_for(example, epoch=epoch, index=index)
        relations = self.sampler.relations_for(example, epoch=epoch, index=index)
        return Row(tuple(example.word_texts), labels, relations)


def row_cost(encoder: BatchEncoder, row: Example) -> int:
    """Subtokens of a row's words."""
    return sum(encoder.costs(row.word_texts))


def stream(batches: MicroBatches, *, start: int, stop: int, stride: int, num_workers: int) -> Iterator[MicroBatch]:
    """Micro-batches start, start + stride, ... below stop, made ahead of time by worker processes if there are any."""
    # nothing to read: a loader of no batches would start its workers all the same
    if start >= stop:
        return
    generator = torch.Generator()  # its own: the loader must not draw its workers' seed from the global one
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, stop, stride),
        num_workers=num_workers,
        generator=generator,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=ignore_stop_signals if num_workers else None,
    )
    try:
        yield from loader
    except (ConnectionError, EOFError):
        time.sleep(_SETTLED_AFTER)  # a loader that is killed breaks its connection first; torch tells of it right after
        raise


class Ahead:
    """The micro-batches of each step in turn; those of the next one are read while a device works on this one's."""

    def __init__(self, source: Iterator[MicroBatch], count: int, device: torch.device) -> None:
        """`count`: micro-batches of a step, on one process."""
        self._source, self._count, self._device = source, count, device
        self._next: list[MicroBatch] | None = None
        self._trouble: Exception | None = None

    def read(self) -> list[MicroBatch]:
        """Those of the next step; fewer at the end of the stream. What went wrong in `prepare` is raised here."""
        if self._trouble is not None:
            raise self._trouble
        ready, self._next = self._next, None
        return list(islice(self._source, self._count)) if ready is None else ready

    def prepare(self) -> None:
        """Read those of the next step, and send them. On a CPU nothing is gained by that, and nothing done."""
        if self._device.type == "cpu" or self._next is not None:
            return
        try:
            self._next = self.read()
            self._next = [micro.to(self._device) for micro in self._next]
        except torch.OutOfMemoryError:
            pass  # the step sends them, and knows what to do
        except Exception as error:
            self._trouble = error


@contextmanager
def dead_workers_named() -> Iterator[None]:
    """Say in one sentence that a worker process of `stream` died.

    It spans the whole loop: torch's handler of SIGCHLD raises wherever the main thread is at that moment, and that is
    seldom in the loader.
    """
    try:
        yield
    except RuntimeError as error:
        death = _death_of_a_loader(error)
        if death is None:
            raise
        raise TrainingError(
            f"Every loader process must live, but one did not: {death} Memory may have run "
            "out; lower `training.num_workers`, or go on with `--resume`."
        ) from error


def _death_of_a_loader(error: BaseException | None) -> str | None:
    """What torch says of a loader that died: `error` itself, or the one in whose course `error` was raised.

    A file that was being written when the signal came complains too that it ended early.
    """
    while error is not None:
        if "DataLoader worker" in str(error):
            return str(error).splitlines()[0]
        error = error.__cause__ or error.__context__
    return None
