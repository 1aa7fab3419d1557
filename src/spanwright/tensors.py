"""The tensors that cross the stages: words -> `EncodedBatch` -> `Scores` -> spans, or -> `LossSum` with `Targets`.

Letters: B examples, S subtokens, L words, K widths, C labels. A mask is True where real. Each class checks at birth
what it alone can know, and moves as a whole with `to`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor

Moved = TypeVar("Moved", bound="_Movable")


class _Movable:
    """Moves every tensor field to a device, without waiting for it."""

    def to(self: Moved, device: torch.device | str) -> Moved:
        """The same values on `device`."""
        moved = {
            field.name: _moved(value, device)
            for field in fields(self)  # type: ignore[arg-type]
            for value in [getattr(self, field.name)]
        }
        return type(self)(**moved)

    def __reduce__(self) -> Any:
        """As arrays: who is sent a tensor by another process asks for each by itself, half a millisecond long."""
        values = [getattr(self, field.name) for field in fields(self)]  # type: ignore[arg-type]
        return _rebuilt, (type(self), [value.numpy() if _is_plain(value) else value for value in values])


def _is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor that NumPy can hold."""
    if not isinstance(value, Tensor) or value.device.type != "cpu" or value.layout != torch.strided:
        return False
    return not (value.requires_grad or value.dtype == torch.bfloat16 or value.is_conj() or value.is_neg())


def _rebuilt(kind: type[Moved], values: Sequence[Any]) -> Moved:
    return kind(*(torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in values))


def _moved(value: object, device: torch.device | str) -> object:
    if isinstance(value, Tensor):
        if torch.device(device).type == "cuda" and value.device.type == "cpu":
            value = value.pin_memory()  # else the copy waits for all that the device still has to do
        return value.to(device, non_blocking=True)
    return value.to(device) if isinstance(value, _Movable) else value


@dataclass(frozen=True, slots=True)
class LabelTexts(_Movable):
    """Labels that are read by themselves (bi-encoder): input_ids, attention_mask (N, T)."""

    input_ids: Tensor
    attention_mask: Tensor


@dataclass(frozen=True, slots=True)
class Candidates(_Movable):
    """Spans that a second head scores: bounds (B, N, 2), each its first and its last word; mask (B, N)."""

    bounds: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class EntityPairs(_Movable):
    """Pairs of a row's candidates: places (B, P, 2), the head's and the tail's among them; mask (B, P)."""

    places: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class RelationQuestions(_Movable):
    """What a relation model is asked: positions, mask (B, R): the subtoken where each relation's vector is read.

    pairs: in training, the pairs of `EncodedBatch.candidates` that are scored; without, the model finds its own.
    """

    positions: Tensor
    mask: Tensor
    pairs: EntityPairs | None = None


@dataclass(frozen=True, slots=True)
class EncodedBatch(_Movable):
    """What the network reads.

    input_ids, attention_mask (B, S) · label_positions, label_mask (B, C): where each label's vector is: at this
    subtoken of the row or, in a bi-encoder, at this row of `labels` · word_starts, word_ends, word_mask (B, L): the
    subtokens `[start, end)` of each word · word_counts: words of each row, on the host, so that packing needs no copy
    back from the device · labels: of a bi-encoder, the texts of the distinct labels, or their vectors (N, D) ·
    candidates: in training, the spans that a span head scores or that may be related; without, the model finds its
    own · relations: of a relation model, which relations are asked.
    """

    input_ids: Tensor
    attention_mask: Tensor
    label_positions: Tensor
    label_mask: Tensor
    word_starts: Tensor
    word_ends: Tensor
    word_mask: Tensor
    word_counts: tuple[int, ...]
    labels: LabelTexts | Tensor | None = None
    candidates: Candidates | None = None
    relations: RelationQuestions | None = None

    def __post_init__(self) -> None:
        rows = self.input_ids.shape[0]
        _require_shape("attention_mask", self.attention_mask, tuple(self.input_ids.shape))
        _require_shape("label_mask", self.label_mask, (rows, self.label_positions.shape[1]))
        for name in ("word_ends", "word_mask"):
            _require_shape(name, getattr(self, name), (rows, self.word_starts.shape[1]))
        if len(self.word_counts) != rows:
            raise ValueError(
                f"`word_counts` must have one entry for each of {rows} rows, but has {len(self.word_counts)}."
            )


Term = Literal["entity", "head", "adjacency", "relation"]


@dataclass(frozen=True, slots=True)
class Cells:
    """One term of a loss: logits, and which of them are `real`; or probabilities, where a part gives those."""

    term: Term
    logits: Tensor
    real: Tensor
    are_probabilities: bool = False


@dataclass(frozen=True, slots=True)
class RelationScores(_Movable):
    """What the relation part gives: logits (B, P, R) of `pairs` of `entities`; label_mask (B, R).

    adjacency (B, E, E): how likely two entities are related at all, a probability; None of a model that asks every
    pair.
    """

    logits: Tensor
    entities: Candidates
    pairs: EntityPairs
    label_mask: Tensor
    adjacency: Tensor | None = None

    def cell_mask(self) -> Tensor:
        """(B, P, R) True where both the pair and the relation are real."""
        return self.pairs.mask.unsqueeze(-1) & self.label_mask.unsqueeze(1)

    def cells(self) -> tuple[Cells, ...]:
        """What a loss is computed of; of rows that ask no relation, and of an entity with itself, nothing.

        gliner trains the adjacency of an entity with itself towards 0, where most adjacencies cannot get: x.x >= 0.
        """
        relations = Cells("relation", self.logits, self.cell_mask())
        if self.adjacency is None:
            return (relations,)
        mask = self.entities.mask & self.label_mask.any(dim=1, keepdim=True)
        itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        square = mask.unsqueeze(2) & mask.unsqueeze(1) & ~itself
        return Cells("adjacency", self.adjacency, square, are_probabilities=True), relations


@dataclass(frozen=True, slots=True)
class SpanScores(_Movable):
    """What the span network gives: logits (B, L, K, C); word_mask (B, L); label_mask (B, C).

    Cell (b, l, k, c) is the span of words `[l, l + k + 1)` of row b with label c. relations: of a relation model.
    """

    logits: Tensor
    word_mask: Tensor
    label_mask: Tensor
    relations: RelationScores | None = None

    def span_mask(self) -> Tensor:
        """(B, L, K) True where the span ends within its row's words."""
        return span_mask(self.word_mask, self.logits.shape[2])

    def cell_mask(self) -> Tensor:
        """(B, L, K, C) True where both the span and the label are real."""
        return self.span_mask().unsqueeze(-1) & self.label_mask[:, None, None, :]

    def cells(self) -> tuple[Cells, ...]:
        """What a loss is computed of."""
        spans = Cells("entity", self.logits, self.cell_mask())
        return (spans,) if self.relations is None else (spans, *self.relations.cells())


@dataclass(frozen=True, slots=True)
class TokenScores(_Movable):
    """What the token network gives: logits (B, L, C, 3) of start, end, inside; word_mask (B, L); label_mask (B, C).

    candidates, head_logits (B, N, C): of a model with a span head, the spans that it scored. relations: of a relation
    model.
    """

    logits: Tensor
    word_mask: Tensor
    label_mask: Tensor
    candidates: Candidates | None = None
    head_logits: Tensor | None = None
    relations: RelationScores | None = None

    def cell_mask(self) -> Tensor:
        """(B, L, C, 1) True where both the word and the label are real."""
        return (self.word_mask.unsqueeze(-1) & self.label_mask.unsqueeze(1)).unsqueeze(-1)

    def cells(self) -> tuple[Cells, ...]:
        """What a loss is computed of."""
        tokens = Cells("entity", self.logits, self.cell_mask())
        if self.relations is not None:
            return tokens, *self.relations.cells()
        if self.candidates is None or self.head_logits is None:
            return (tokens,)
        real = self.candidates.mask.unsqueeze(-1) & self.label_mask.unsqueeze(1)
        return tokens, Cells("head", self.head_logits, real)


Scores = SpanScores | TokenScores


@dataclass(frozen=True, slots=True)
class Targets(_Movable):
    """Gold cells in {0, 1}, of the shapes of the logits: `values` (B, L, K, C), or (B, L, C, 3) of a token model.

    num_cells: the real cells among them, known on the host (of a token model, pairs of words and labels).
    head_values (B, N, C): those of the span head's candidates. adjacency (B, E, E), relation_values (B, P, R): of a
    relation model, which entities are related, and by which relation.
    """

    values: Tensor
    num_cells: int
    head_values: Tensor | None = None
    adjacency: Tensor | None = None
    relation_values: Tensor | None = None

    def of(self, term: Term) -> Tensor:
        """The gold cells of a term of the scores' `cells`."""
        values = {
            "entity": self.values,
            "head": self.head_values,
            "adjacency": self.adjacency,
            "relation": self.relation_values,
        }[term]
        if values is None:
            raise ValueError(f"`targets` must have cells of {term}, as the scores have, but have none.")
        return values


@dataclass(frozen=True, slots=True)
class LossSum:
    """A loss as a sum `total` () and the `count` () of cells that it is a sum over. The caller divides."""

    total: Tensor
    count: Tensor


def span_mask(word_mask: Tensor, width: int) -> Tensor:
    """(B, L) -> (B, L, K): True where the span of k + 1 words from word l ends within its row."""
    counts = word_mask.sum(dim=1)
    ends = torch.arange(word_mask.shape[1], device=word_mask.device)[:, None] + torch.arange(
        1, width + 1, device=word_mask.device
    )
    return ends[None] <= counts[:, None, None]


def _require_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"`{name}` must be of shape {shape}, but is of shape {tuple(value.shape)}.")
