"""Small annotated data sets."""

from __future__ import annotations

import json
from pathlib import Path

from spanwright import Example, Span

PEOPLE = ("Ada", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gil", "Hana")
PLACES = ("Rome", "Oslo", "Lima", "Kyiv", "Bonn", "Cork", "Riga", "Bern")


def sentences(num: int = 8) -> list[Example]:
    """Sentences of two kinds that a model can tell apart, and one in four without entities."""
    made = []
    for index in range(num):
        if index % 4 == 3:
            made.append(Example.from_words(["nothing", "to", "see", "here", "."], origin=f"made:{index}"))
            continue
        person, place = PEOPLE[index % 8], PLACES[(index * 3) % 8]
        words = f"{person} went to {place} .".split()
        spans = [Span(0, 1, "person"), Span(3, 4, "city")]
        made.append(Example.from_words(words, spans, origin=f"made:{index}"))
    return made


def write_jsonl(path: Path, examples: list[Example]) -> Path:
    """The examples in GLiNER's own form."""
    lines = [
        json.dumps({"tokenized_text": e.word_texts, "ner": [[s.start, s.end - 1, s.label] for s in e.spans]})
        for e in examples
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
