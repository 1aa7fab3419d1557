"""The values that travel between the stages. Plain, frozen, free of torch.

Two units occur: *characters* of the user's string and *words* of `text.words`. Every interval is half-open and
zero-based, whichever the unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text: `text[start:end]`, in characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Span:
    """Words `[start, end)` of an example that carry `label`."""

    start: int
    end: int
    label: str


class ScoredSpan(NamedTuple):
    """Words `[start, end)` that a model gives `label` with `score` in (0, 1). A tuple, for there are many of them."""

    start: int
    end: int
    label: str
    score: float

    def shifted(self, by: int) -> ScoredSpan:
        """The same span `by` words further right."""
        return ScoredSpan(self.start + by, self.end + by, self.label, self.score)


@dataclass(frozen=True, slots=True)
class Entity:
    """An answer in characters of the user's string: `string[start:end] == text`."""

    start: int
    end: int
    text: str
    label: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """The form that the GLiNER world exchanges: start, end, text, label, score."""
        return {"start": self.start, "end": self.end, "text": self.text, "label": self.label, "score": self.score}


@dataclass(frozen=True, slots=True)
class Example:
    """A gold datum: a text, its words and the spans that are right.

    `labels` are exactly the labels to ask this row (None: let the label sampler choose); `negatives` are labels
    known to be absent. `origin` names the place it was read from, as in ``train.jsonl:17``.
    """

    text: str
    words: tuple[Word, ...]
    spans: tuple[Span, ...]
    labels: tuple[str, ...] | None = None
    negatives: tuple[str, ...] = ()
    origin: str = field(default="", compare=False)

    @classmethod
    def from_words(
        cls,
        words: Sequence[str],
        spans: Sequence[Span] = (),
        *,
        labels: tuple[str, ...] | None = None,
        negatives: tuple[str, ...] = (),
        origin: str = "",
    ) -> Example:
        """An example of words without their original text: they are joined by single spaces."""
        return cls(" ".join(words), join_words(words), tuple(spans), labels, negatives, origin)

    @property
    def word_texts(self) -> list[str]:
        """The words as strings."""
        return [word.text for word in self.words]


def join_words(words: Sequence[str]) -> tuple[Word, ...]:
    """Words with the character offsets that they have in ``" ".join(words)``."""
    placed, start = [], 0
    for word in words:
        placed.append(Word(word, start, start + len(word)))
        start += len(word) + 1
    return tuple(placed)
