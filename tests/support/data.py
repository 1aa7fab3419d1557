"""Small annotated data sets."""

from __future__ import annotations

import json
import random
from pathlib import Path

from spanwright import Example, RelationGold, Span, SpanRelation, TrainConfig
from spanwright.train_config import LoopOptions, OptimizerOptions, ValidationOptions

# how tiny models learn eight sentences by heart; a run ends a hundred steps after the last gain
BY_HEART = TrainConfig(
    training=LoopOptions(max_steps=400, batch_size=8),
    optimizer=OptimizerOptions(backbone_lr=1.5e-3, lr=4e-3, warmup=0.05),
    validation=ValidationOptions(every=25, patience=4),
)

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


def eight_sentences() -> list[Example]:
    """Eight sentences in which a name's own word says its label: a tiny model can know them all."""
    rng = random.Random(0)
    names = {"person": ["Angela", "Barack"], "country": ["Serbia", "Russia"]}
    examples = []
    for _ in range(8):
        words, spans = [], []
        for label in rng.sample(sorted(names), 2):
            words += rng.choices(["met", "in", "the", "and"], k=rng.randint(1, 2))
            spans.append(Span(len(words), len(words) + 1, label))
            words.append(rng.choice(names[label]))
        examples.append(Example.from_words([*words, "."], spans))
    return examples


def eight_related_sentences() -> list[Example]:
    """Eight sentences in which the names say who is related, and how: a tiny model can know them all."""
    rng = random.Random(0)
    examples = []
    for index in range(8):
        person = rng.choice(["Angela", "Barack"])
        country = "Serbia" if index % 2 else "Russia"
        words = [*rng.choices(["met", "the"], k=rng.randint(1, 2)), person, "in", country, "."]
        at = words.index(person)
        spans = (Span(at, at + 1, "person"), Span(at + 2, at + 3, "country"))
        relation = SpanRelation(*spans, "lives in") if index % 2 else SpanRelation(*reversed(spans), "home of")
        examples.append(Example.from_words(words, spans, gold_relations=RelationGold((relation,))))
    return examples
