"""Words and labels to `EncodedBatch`, gold spans to `Targets`.

The prompt's form is decided here and nowhere else: for each label the entity marker and the label, then the separator,
then the words. Positions of labels and words are handed on, so the network need not know the form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from spanwright.config import ModelConfig
from spanwright.encoding.subtokens import Subtokens
from spanwright.entities import Span
from spanwright.errors import DataError
from spanwright.tensors import EncodedBatch, Targets


@dataclass(frozen=True, slots=True)
class Row:
    """One question to the network: which of `labels` do the spans of `words` carry?"""

    words: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """The subtokens before the words, and where each label's vector is read."""

    ids: tuple[int, ...]
    label_positions: tuple[int, ...]


class BatchEncoder:
    """Rows of words and labels to tensors. Holds no model, so that loader processes can carry it."""

    def __init__(self, subtokens: Subtokens, config: ModelConfig, *, max_positions: int | None) -> None:
        self.subtokens = subtokens
        self.config = config
        self.max_positions = max_positions
        separator = subtokens.id_of(config.separator_token)
        self._separator = () if separator is None else (separator,)
        self._prompt = lru_cache(maxsize=256)(self._make_prompt)

    def prompt(self, labels: tuple[str, ...]) -> Prompt:
        """The prompt for these labels.

        Raises:
            DataError: a label gives the tokenizer nothing to read.

        """
        return self._prompt(labels)

    def room(self, labels: tuple[str, ...]) -> int | None:
        """Subtokens left for words beside this prompt; None for no limit."""
        if self.max_positions is None:
            return None
        return self.max_positions - len(self.prompt(labels).ids) - len(self.subtokens.suffix)

    def costs(self, words: Sequence[str]) -> list[int]:
        """Subtokens of each word as `encode` will lay it out."""
        return [len(ids) for ids in self.subtokens.ids_or_stand_in(words)]

    def encode(self, rows: Sequence[Row]) -> EncodedBatch:
        """Rows as one padded batch.

        Raises:
            DataError: a row has no words or no labels, or a label gives the tokenizer nothing to read.

        """
        prompts = [self.prompt(row.labels) for row in rows]
        words = [self._word_ids(row) for row in rows]
        if not all(words) or not all(row.labels for row in rows):
            raise DataError("Every row of a batch must have words and labels, but one has none.")
        tail = self.subtokens.suffix
        lengths = [len(p.ids) + sum(map(len, ids)) + len(tail) for p, ids in zip(prompts, words, strict=True)]
        ids_array = np.full((len(rows), max(lengths)), self.subtokens.pad_id, dtype=np.int64)
        labels = _Padded(len(rows), max(len(p.label_positions) for p in prompts))
        starts = _Padded(len(rows), max(map(len, words)))
        ends = _Padded(len(rows), max(map(len, words)))
        for b, (prompt, word_ids) in enumerate(zip(prompts, words, strict=True)):
            flat = [i for ids in word_ids for i in ids]
            ids_array[b, : lengths[b]] = [*prompt.ids, *flat, *tail]
            word_ends = len(prompt.ids) + np.cumsum([len(ids) for ids in word_ids])
            labels.fill(b, prompt.label_positions)
            ends.fill(b, word_ends)
            starts.fill(b, np.concatenate([[len(prompt.ids)], word_ends[:-1]]))
        attention = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
        return EncodedBatch(
            input_ids=torch.from_numpy(ids_array),
            attention_mask=torch.from_numpy(attention),
            label_positions=torch.from_numpy(labels.values),
            label_mask=torch.from_numpy(labels.mask),
            word_starts=torch.from_numpy(starts.values),
            word_ends=torch.from_numpy(ends.values),
            word_mask=torch.from_numpy(starts.mask),
            word_counts=tuple(map(len, words)),
        )

    def _word_ids(self, row: Row) -> list[tuple[int, ...]]:
        ids = self.subtokens.ids_or_stand_in(row.words)
        if len(ids) == 1:  # a single word may be longer than the positions (base64): its first subtokens stand for it
            return [ids[0][: self.room(row.labels)]]
        return ids

    def _make_prompt(self, labels: tuple[str, ...]) -> Prompt:
        marker = self.config.entity_token_id
        ids = list(self.subtokens.prefix)
        positions = []
        for label, label_ids in zip(labels, self.subtokens.ids(labels), strict=True):
            if not label_ids:
                raise DataError(f"A label must have something to read in it, but is {label!r}. Name it in words.")
            positions.append(len(ids) + (not self.config.label_at_marker))
            ids += [marker, *label_ids]
        return Prompt((*ids, *self._separator), tuple(positions))

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_prompt"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._prompt = lru_cache(maxsize=256)(self._make_prompt)


def encode_targets(spans: Sequence[Sequence[Span]], rows: Sequence[Row], *, max_width: int) -> Targets:
    """Gold cells (B, L, K, C) of rows whose spans all are at most `max_width` words wide and of a label asked."""
    longest = max(len(row.words) for row in rows)
    most = max(len(row.labels) for row in rows)
    values = np.zeros((len(rows), longest, max_width, most), dtype=np.float32)
    num_cells = 0
    for b, (row, gold) in enumerate(zip(rows, spans, strict=True)):
        column = {label: c for c, label in enumerate(row.labels)}
        for span in gold:
            values[b, span.start, span.end - span.start - 1, column[span.label]] = 1.0
        num_cells += num_spans(len(row.words), max_width) * len(row.labels)
    return Targets(torch.from_numpy(values), num_cells)


def num_spans(length: int, max_width: int) -> int:
    """Spans of at most `max_width` words in `length` words."""
    widest = min(length, max_width)
    return widest * length - widest * (widest - 1) // 2


class _Padded:
    """Rows of positions of different lengths in one array, with the mask of what is real."""

    def __init__(self, rows: int, longest: int) -> None:
        self.values = np.zeros((rows, longest), dtype=np.int64)
        self.mask = np.zeros((rows, longest), dtype=bool)

    def fill(self, row: int, values: Sequence[int] | np.ndarray) -> None:
        self.values[row, : len(values)] = values
        self.mask[row, : len(values)] = True
