"""Defects, and how a reader writes them down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from spanwright.entities import Example, Span, SpanRelation

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Defect:
    """Something wrong at a place. `num_spans` gold spans are lost by it where it is passed over."""

    place: str
    field: str
    code: str
    message: str
    severity: Severity = "error"
    num_spans: int = 0

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {name: getattr(self, name) for name in ("place", "field", "code", "message", "severity", "num_spans")}


@dataclass(slots=True)
class Record:
    """One record read: the example that it gives without its defective parts (None where it gives none)."""

    place: str
    example: Example | None
    num_spans: int
    defects: list[Defect] = field(default_factory=list)


class Notes:
    """Writes defects into a record."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.word_lines: Sequence[int] = ()  # where each word has a line of its own

    def place_of_word(self, index: int) -> str:
        """The place of a word, or of its record."""
        if not self.word_lines:
            return self._record.place
        return f"{self._record.place.rpartition(':')[0]}:{self.word_lines[index]}"

    def __call__(
        self,
        code: str,
        name: str,
        message: str,
        severity: Severity = "error",
        *,
        place: str | None = None,
        num_spans: int = 0,
    ) -> None:
        """Note a defect of the record, or of another `place`."""
        self._record.defects.append(Defect(place or self._record.place, name, code, message, severity, num_spans))

    def row(self, code: str, name: str, message: str) -> None:
        """A defect of the whole row, with all its spans."""
        self(code, name, message, num_spans=self._record.num_spans)

    def span(self, code: str, name: str, message: str) -> Span | None:
        """A defect of one span, which is left out: None in its place."""
        self(code, name, message, num_spans=1)
        return None

    def relation(self, code: str, name: str, message: str) -> SpanRelation | None:
        """A defect of one relation, which is left out: None in its place."""
        self(code, name, message)
        return None

    def labelled(self, where: str, start: int, end: int, label: Any) -> Span | None:
        """The span, if its label is one."""
        if not isinstance(label, str) or not label.strip():
            message = f"`{where}` must have a label with something in it, but has {brief(label)}."
            return self.span("empty-label", where, message)
        return Span(start, end, label)


def label_list(note: Notes, value: dict[str, Any], key: str) -> tuple[str, ...] | None:
    """The list of labels under `key`, each once; None where there is none, or none that can be read."""
    given = value.get(key)
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(label, str) and label.strip() for label in given):
        note("wrong-type", key, f"`{key}` must be a list of labels, but is {brief(given)}.")
        return None
    if len(set(given)) < len(given):
        note("repeated-label", key, f"`{key}` must list each label once, but repeats some.", "warning")
    return tuple(dict.fromkeys(given))


def is_index(value: Any) -> bool:
    """Whether `value` is a whole number (True is none)."""
    return isinstance(value, int) and not isinstance(value, bool)


def brief(value: Any) -> str:
    """`value` as a message shows it, cut short."""
    try:
        text = repr(value)
    except RecursionError:
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
