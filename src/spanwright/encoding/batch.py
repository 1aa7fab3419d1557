"""Words and labels to `EncodedBatch`, gold spans to `Targets`.

The prompt's form is decided here and nowhere else: for each label the entity marker and the label, then the separator,
then the words. Positions of labels and words are handed on, so the network need not know the form.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from spanwright.config import ModelConfig
from spanwright.encoding.subtokens import Subtokens
from spanwright.entities import Span
from spanwright.errors import DataError
from spanwright.tensors import Candidates, EncodedBatch, LabelTexts, Targets


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

    def __init__(
        self,
        subtokens: Subtokens,
        config: ModelConfig,
        *,
        max_positions: int | None,
        label_subtokens: Subtokens | None = None,
    ) -> None:
        """`label_subtokens`: of a bi-encoder, what reads the labels."""
        self.subtokens = subtokens
        self.label_subtokens = label_subtokens
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
        return list(map(len, self.subtokens.ids_or_stand_in(words)))

    def encode_labels(self, labels: Sequence[str]) -> LabelTexts:
        """Labels as texts of their own (N, T), as a bi-encoder reads them."""
        assert self.label_subtokens is not None
        ids = [self.label_subtokens.text_ids(label) for label in labels]
        padded = _padded(list(chain.from_iterable(ids)), list(map(len, ids)), fill=self.label_subtokens.pad_id)
        return LabelTexts(torch.from_numpy(padded.values), torch.from_numpy(padded.mask))

    def encode_with_targets(
        self, rows: Sequence[Row], spans: Sequence[Sequence[Span]], *, seed: str
    ) -> tuple[EncodedBatch, Targets]:
        """A batch and its gold cells. A span head is shown the gold spans and as many others, drawn from `seed`.

        Raises:
            DataError: as `encode`.

        """
        batch = self.encode(rows)
        if not self.config.is_token_level:
            return batch, encode_targets(spans, rows, max_width=self.config.max_width)
        if not self.config.span_head:
            return batch, encode_token_targets(spans, rows)
        candidates, head_values = _head_targets(rows, spans, random.Random(seed), self.config.max_width)
        targets = encode_token_targets(spans, rows)
        num_cells = targets.num_cells + int((candidates.mask.sum(dim=1) * batch.label_mask.sum(dim=1)).sum())
        return replace(batch, candidates=candidates), replace(targets, num_cells=num_cells, head_values=head_values)

    def encode(self, rows: Sequence[Row], label_places: Mapping[str, int] | None = None) -> EncodedBatch:
        """Rows as one padded batch. `label_places`: where a bi-encoder finds each label among vectors made before.

        Raises:
            DataError: a row has no words or no labels, or a label gives the tokenizer nothing to read.

        """
        prompts = [self.prompt(row.labels) for row in rows]
        words = [self._word_ids(row) for row in rows]
        if not all(words) or not all(row.labels for row in rows):
            raise DataError("Every row of a batch must have words and labels, but one has none.")
        tail = self.subtokens.suffix
        lengths = [len(p.ids) + sum(map(len, ids)) + len(tail) for p, ids in zip(prompts, words, strict=True)]
        texts: LabelTexts | None = None
        if self.label_subtokens is not None:
            if label_places is None:
                distinct = list(dict.fromkeys(label for row in rows for label in row.labels))
                label_places = {label: place for place, label in enumerate(distinct)}
                texts = self.encode_labels(distinct)
            positions = [[label_places[label] for label in row.labels] for row in rows]
        else:
            positions = [list(prompt.label_positions) for prompt in prompts]
        flat: list[int] = []
        for prompt, word_ids in zip(prompts, words, strict=True):
            flat += prompt.ids
            flat += chain.from_iterable(word_ids)
            flat += tail
        ids = _padded(flat, lengths, fill=self.subtokens.pad_id)
        labels = _padded(list(chain.from_iterable(positions)), list(map(len, positions)))
        costs = _padded(list(map(len, chain.from_iterable(words))), list(map(len, words)))
        before = np.array([len(prompt.ids) for prompt in prompts])[:, None]
        ends = np.where(costs.mask, before + np.cumsum(costs.values, axis=1), 0)
        return EncodedBatch(
            input_ids=torch.from_numpy(ids.values),
            attention_mask=torch.from_numpy(ids.mask),
            label_positions=torch.from_numpy(labels.values),
            label_mask=torch.from_numpy(labels.mask),
            word_starts=torch.from_numpy(ends - costs.values),
            word_ends=torch.from_numpy(ends),
            word_mask=torch.from_numpy(costs.mask),
            word_counts=tuple(map(len, words)),
            labels=texts,
        )

    def _word_ids(self, row: Row) -> list[tuple[int, ...]]:
        ids = self.subtokens.ids_or_stand_in(row.words)
        if len(ids) == 1:  # a single word may be longer than the positions (base64): its first subtokens stand for it
            return [ids[0][: self.room(row.labels)]]
        return ids

    def _make_prompt(self, labels: tuple[str, ...]) -> Prompt:
        if self.label_subtokens is not None:
            return Prompt(self.subtokens.prefix, ())
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


def encode_token_targets(spans: Sequence[Sequence[Span]], rows: Sequence[Row]) -> Targets:
    """Gold cells (B, L, C, 3): whether a word starts, ends, lies inside a span of the label."""
    longest = max(len(row.words) for row in rows)
    most = max(len(row.labels) for row in rows)
    values = np.zeros((len(rows), longest, most, 3), dtype=np.float32)
    for b, (row, gold) in enumerate(zip(rows, spans, strict=True)):
        column = {label: c for c, label in enumerate(row.labels)}
        for span in gold:
            c = column[span.label]
            values[b, span.start, c, 0] = values[b, span.end - 1, c, 1] = 1.0
            values[b, span.start : span.end, c, 2] = 1.0
    return Targets(torch.from_numpy(values), sum(len(row.words) * len(row.labels) for row in rows))


def _head_targets(
    rows: Sequence[Row], spans: Sequence[Sequence[Span]], rng: random.Random, max_width: int
) -> tuple[Candidates, torch.Tensor]:
    """What a span head is shown in training, and its gold cells (B, N, C)."""
    shown = []
    for row, gold in zip(rows, spans, strict=True):
        bounds = dict.fromkeys((span.start, span.end - 1) for span in gold)
        wanted = max(2 * len(bounds), 1)
        for _ in range(20 * wanted):  # short rows may not have as many spans as are wanted
            if len(bounds) == wanted:
                break
            first = rng.randrange(len(row.words))
            bounds.setdefault((first, min(first + rng.randrange(max_width), len(row.words) - 1)))
        shown.append(list(bounds))
    most = max(map(len, shown))
    places = np.zeros((len(rows), most, 2), dtype=np.int64)
    values = np.zeros((len(rows), most, max(len(row.labels) for row in rows)), dtype=np.float32)
    for b, (row, gold) in enumerate(zip(rows, spans, strict=True)):
        places[b, : len(shown[b])] = shown[b]
        for span in gold:
            values[b, shown[b].index((span.start, span.end - 1)), row.labels.index(span.label)] = 1.0
    mask = np.arange(most)[None] < np.array([len(bounds) for bounds in shown])[:, None]
    return Candidates(torch.from_numpy(places), torch.from_numpy(mask)), torch.from_numpy(values)


def num_spans(length: int, max_width: int) -> int:
    """Spans of at most `max_width` words in `length` words."""
    widest = min(length, max_width)
    return widest * length - widest * (widest - 1) // 2


class _Padded(NamedTuple):
    """Rows of different lengths in one array, with the mask of what is real."""

    values: np.ndarray
    mask: np.ndarray


def _padded(flat: Sequence[int], lengths: Sequence[int], *, fill: int = 0) -> _Padded:
    """Rows of these lengths, laid end to end in `flat`."""
    mask = np.arange(max(lengths, default=1))[None] < np.array(lengths, dtype=np.int64)[:, None]
    values = np.full(mask.shape, fill, dtype=np.int64)
    values[mask] = flat
    return _Padded(values, mask)
