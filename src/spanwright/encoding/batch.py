"""Words and labels to `EncodedBatch`, gold spans to `Targets`.

The prompt's form is decided here and nowhere else: for each label the entity marker and the label, then the separator,
then the words. A relation model reads its relations, marked likewise, and a second separator before the words.
Positions of labels and words are handed on, so the network need not know the form. Gold is in `targets.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from spanwright.config import ModelConfig
from spanwright.encoding.subtokens import Subtokens
from spanwright.encoding.targets import Row, gold_cells
from spanwright.entities import Span, SpanRelation
from spanwright.errors import DataError
from spanwright.tensors import EncodedBatch, LabelTexts, RelationQuestions, Targets


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """A row whose words have been looked up: `ids` are the subtokens of each."""

    ids: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    relations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """The subtokens before the words, and where each label's and each relation's vector is read."""

    ids: tuple[int, ...]
    label_positions: tuple[int, ...]
    relation_positions: tuple[int, ...] = ()


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

    def prompt(self, labels: tuple[str, ...], relations: tuple[str, ...] = ()) -> Prompt:
        """The prompt for these labels and relations.

        Raises:
            DataError: a label gives the tokenizer nothing to read.

        """
        return self._prompt(labels, relations)

    def room(self, labels: tuple[str, ...], relations: tuple[str, ...] = ()) -> int | None:
        """Subtokens left for words beside this prompt; None for no limit."""
        if self.max_positions is None:
            return None
        return self.max_positions - len(self.prompt(labels, relations).ids) - len(self.subtokens.suffix)

    def tokenized(self, row: Row) -> TokenizedRow:
        """The row with its words looked up: the unknown token for one that the tokenizer finds nothing in."""
        return TokenizedRow(tuple(self.subtokens.ids_or_stand_in(row.words)), row.labels, row.relations)

    def costs(self, words: Sequence[str]) -> list[int]:
        """How many subtokens each word has as `encode` will lay it out."""
        return list(map(len, self.subtokens.ids_or_stand_in(words)))

    def encode_labels(self, labels: Sequence[str]) -> LabelTexts:
        """Labels as texts of their own (N, T), as a bi-encoder reads them."""
        assert self.label_subtokens is not None
        ids = [self.label_subtokens.text_ids(label) for label in labels]
        padded = _padded(chain.from_iterable(ids), list(map(len, ids)), fill=self.label_subtokens.pad_id)
        return LabelTexts(torch.from_numpy(padded.values), torch.from_numpy(padded.mask))

    def encode_with_targets(
        self,
        rows: Sequence[Row],
        spans: Sequence[Sequence[Span]],
        relations: Sequence[Sequence[SpanRelation]] = (),
        *,
        seed: str,
    ) -> tuple[EncodedBatch, Targets]:
        """A batch and its gold cells; `relations` of each row, if there are any.

        A span head is shown the gold spans and as many others, drawn from `seed`; a relation model is shown the gold
        entities, and their pairs.

        Raises:
            DataError: as `encode`.

        """
        return gold_cells(self.encode(rows), rows, spans, relations or [()] * len(rows), self.config, seed=seed)

    def encode(self, rows: Sequence[Row]) -> EncodedBatch:
        """Rows as one padded batch.

        Raises:
            DataError: a row has no words or no labels, or a label gives the tokenizer nothing to read.

        """
        return self.encode_tokenized([self.tokenized(row) for row in rows])

    def encode_tokenized(
        self, rows: Sequence[TokenizedRow], label_places: Mapping[str, int] | None = None
    ) -> EncodedBatch:
        """As `encode`. `label_places`: where a bi-encoder finds each label among vectors made before.

        Raises:
            DataError: as `encode`.

        """
        prompts = [self.prompt(row.labels, row.relations) for row in rows]
        words = [self._fitting_ids(row) for row in rows]
        if not all(words) or not all(row.labels for row in rows):
            raise DataError("Every row of a batch must have words and labels, but one has none.")
        texts: LabelTexts | None = None
        if self.label_subtokens is not None:
            if label_places is None:
                distinct = list(dict.fromkeys(label for row in rows for label in row.labels))
                label_places = {label: place for place, label in enumerate(distinct)}
                texts = self.encode_labels(distinct)
            positions = [tuple(label_places[label] for label in row.labels) for row in rows]
        else:
            positions = [prompt.label_positions for prompt in prompts]
        labels = _padded(chain.from_iterable(positions), list(map(len, positions)))
        word_counts = tuple(map(len, words))
        costs = _padded(map(len, chain.from_iterable(words)), word_counts)
        before = np.array([len(prompt.ids) for prompt in prompts])[:, None]
        ends = np.where(costs.mask, before + np.cumsum(costs.values, axis=1), 0)
        tail = self.subtokens.suffix
        flat: list[int] = []
        for prompt, word_ids in zip(prompts, words, strict=True):
            flat += prompt.ids
            flat += chain.from_iterable(word_ids)
            flat += tail
        ids = _padded(flat, (ends.max(axis=1) + len(tail)).tolist(), fill=self.subtokens.pad_id)
        asked: RelationQuestions | None = None
        if any(prompt.relation_positions for prompt in prompts):
            places = [prompt.relation_positions for prompt in prompts]
            related = _padded(chain.from_iterable(places), list(map(len, places)))
            asked = RelationQuestions(torch.from_numpy(related.values), torch.from_numpy(related.mask))
        return EncodedBatch(
            input_ids=torch.from_numpy(ids.values),
            attention_mask=torch.from_numpy(ids.mask),
            label_positions=torch.from_numpy(labels.values),
            label_mask=torch.from_numpy(labels.mask),
            word_starts=torch.from_numpy(ends - costs.values),
            word_ends=torch.from_numpy(ends),
            word_mask=torch.from_numpy(costs.mask),
            word_counts=word_counts,
            labels=texts,
            relations=asked,
        )

    def _fitting_ids(self, row: TokenizedRow) -> tuple[tuple[int, ...], ...]:
        ids = row.ids
        if len(ids) == 1:  # a single word may be longer than the positions (base64): its first subtokens stand for it
            return (ids[0][: self.room(row.labels, row.relations)],)
        return ids

    def _make_prompt(self, labels: tuple[str, ...], relations: tuple[str, ...]) -> Prompt:
        if self.label_subtokens is not None:
            return Prompt(self.subtokens.prefix, ())
        config = self.config
        ids = list(self.subtokens.prefix)
        positions = self._marked(ids, labels, config.entity_token_id, at_marker=config.label_at_marker)
        if not config.finds_relations:
            return Prompt(tuple(ids), positions)
        asked = self._marked(ids, relations, config.relation_token_id, at_marker=config.relation_at_marker)
        return Prompt(tuple(ids), positions, asked)

    def _marked(self, ids: list[int], names: tuple[str, ...], marker: int, *, at_marker: bool) -> tuple[int, ...]:
        """Append each name behind its marker, then the separator; where each vector is read comes back."""
        positions = []
        for name, name_ids in zip(names, self.subtokens.ids(names), strict=True):
            if not name_ids:
                raise DataError(f"A label must have something to read in it, but is {name!r}. Name it in words.")
            positions.append(len(ids) + (not at_marker))
            ids += [marker, *name_ids]
        ids += self._separator
        return tuple(positions)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_prompt"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._prompt = lru_cache(maxsize=256)(self._make_prompt)


class _Padded(NamedTuple):
    """Rows of different lengths in one array, with the mask of what is real."""

    values: np.ndarray
    mask: np.ndarray


def _padded(flat: Iterable[int], lengths: Sequence[int], *, fill: int = 0) -> _Padded:
    """Rows of these lengths, laid end to end in `flat`."""
    mask = np.arange(max(lengths, default=1))[None] < np.array(lengths, dtype=np.int64)[:, None]
    values = np.full(mask.shape, fill, dtype=np.int64)
    values[mask] = np.fromiter(flat, dtype=np.int64, count=sum(lengths))
    return _Padded(values, mask)
