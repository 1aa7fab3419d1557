"""The stream of micro-batches that a run reads, endless, and the same however it is cut among workers or resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.utils.data import DataLoader, Dataset

from spanwright.config import LoopOptions
from spanwright.data.batches import plan_batches
from spanwright.data.labels import LabelSampler
from spanwright.encoding import BatchEncoder, Row
from spanwright.entities import Example
from spanwright.errors import TrainingError
from spanwright.tensors import EncodedBatch, Targets
from spanwright.training.signals import ignore_stop_signals


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
        self, rows: Sequence[Example], encoder: BatchEncoder, sampler: LabelSampler, options: LoopOptions
    ) -> None:
        self._rows = rows
        self._encoder = encoder
        self.sampler = sampler
        self._options = options
        self._costs = [sum(encoder.costs(row.word_texts)) for row in rows]
        self._epochs: list[tuple[int, list[list[int]]]] = []  # (first k, batches) of each epoch planned so far

    @property
    def num_rows(self) -> int:
        """Rows of the data."""
        return len(self._rows)

    @cached_property
    def digest(self) -> str:
        """What the rows are: 64 bits of their words, spans and labels."""
        digest = hashlib.blake2b(digest_size=8)
        for row in self._rows:
            content = (row.word_texts, [(s.start, s.end, s.label) for s in row.spans], row.labels, row.negatives)
            digest.update(repr(content).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @property
    def epoch_length(self) -> int:
        """Micro-batches of the first epoch; later ones differ by a few at most."""
        return len(self._epoch(0)[1])

    def __getitem__(self, k: int) -> MicroBatch:
        epoch = 0
        while k >= self._epoch(epoch)[0] + len(self._epoch(epoch)[1]):
            epoch += 1
        first, batches = self._epoch(epoch)
        return self._encode(epoch, batches[k - first])

    def _epoch(self, epoch: int) -> tuple[int, list[list[int]]]:
        while len(self._epochs) <= epoch:
            number = len(self._epochs)
            first = self._epochs[-1][0] + len(self._epochs[-1][1]) if self._epochs else 0
            batches = plan_batches(
                self._costs,
                batch_size=self._options.batch_size,
                max_tokens=self._options.max_batch_tokens,
                seed=self._options.seed,
                epoch=number,
            )
            self._epochs.append((first, batches))
        return self._epochs[epoch]

    def _encode(self, epoch: int, indices: Sequence[int]) -> MicroBatch:
        examples = [self._rows[index] for index in indices]
        asked = [
            Row(tuple(example.word_texts), self.sampler.labels_for(example, epoch=epoch, index=index))
            for example, index in zip(examples, indices, strict=True)
        ]
        seed = f"{self._options.seed}/{epoch}/{indices[0]}"
        batch, targets = self._encoder.encode_with_targets(asked, [example.spans for example in examples], seed=seed)
        return MicroBatch(batch, targets, tuple(example.origin for example in examples))


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
    except RuntimeError as error:
        if num_workers and "DataLoader worker" in str(error):
            raise TrainingError(
                f"Every loader process must live, but one did not: {str(error).splitlines()[0]} Memory may have run "
                "out; lower `training.num_workers`, or go on with `--resume`."
            ) from error
        raise
