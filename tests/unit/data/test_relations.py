"""Relations in data: read with every defect named, written, counted, sampled."""

from __future__ import annotations

import json

import pytest

from spanwright import Example, RelationGold, Span, SpanRelation
from spanwright.data import LabelSampler, check, load_examples, read_records, relation_inventory, write_examples
from spanwright.data.convert import convert
from spanwright.data.coverage import training_rows
from spanwright.errors import DataError
from spanwright.text.windows import Window
from spanwright.train_config import LabelOptions

WORDS = ["Ada", "met", "Bob", "in", "Rome", "."]
ADA, BOB, ROME = Span(0, 1, "person"), Span(2, 3, "person"), Span(4, 5, "city")
NER = [[0, 0, "person"], [2, 2, "person"], [4, 4, "city"]]
GOOD = {"tokenized_text": WORDS, "ner": NER, "relations": [[0, 1, "met"], [2, 0, "visited by"]]}


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def only(path, record):
    (read,) = read_records(write(path, record))
    return read


def test_relations_are_between_spans(tmp_path):
    (example,) = load_examples(write(tmp_path / "a.jsonl", GOOD)).examples
    assert example.relations == (SpanRelation(ADA, BOB, "met"), SpanRelation(ROME, ADA, "visited by"))
    plain = {key: value for key, value in GOOD.items() if key != "relations"}
    (example,) = load_examples(write(tmp_path / "b.jsonl", plain)).examples
    assert example.gold_relations is None  # nobody annotated any, which is not: there are none
    (example,) = load_examples(write(tmp_path / "c.jsonl", GOOD | {"relations": []})).examples
    assert example.gold_relations == RelationGold()


def test_objects_and_raw_text_have_relations_too(tmp_path):
    record = {
        "text": "Ada met Bob.",
        "entities": [{"start": 0, "end": 3, "label": "person"}, {"start": 8, "end": 11, "label": "person"}],
        "relations": [{"head": 0, "tail": 1, "type": "met"}],
        "rel_labels": ["met", "born in"],
    }
    (example,) = load_examples(write(tmp_path / "a.jsonl", record)).examples
    assert example.relations == (SpanRelation(ADA, BOB, "met"),)
    assert example.gold_relations.labels == ("met", "born in")


@pytest.mark.parametrize(
    ("relations", "code", "message"),
    [
        ("x", "wrong-type", "`relations` must be a list of"),
        ([[0, 1]], "wrong-type", r"`relations\[0\]` must be \[head, tail, label\], but is \[0, 1\]"),
        ([[0, 1, "met"], ["0", 1, "met"]], "wrong-type", r"`relations\[1\]` must have the places of two entities"),
        ([[True, 1, "met"]], "wrong-type", "must have the places of two entities"),
        ([[0, 3, "met"]], "out-of-range", r"two of the 3 entities, counted from 0, but has \[0, 3\]"),
        ([[-1, 0, "met"]], "out-of-range", "counted from 0"),
        ([[1, 1, "met"]], "self-relation", r"two entities, but has the words \[2, 3\) twice"),
        ([[0, 1, " "]], "empty-label", "a label with something in it"),
        ([{"head": 0, "tail": 1}], "empty-label", "but has None"),
    ],
)
def test_defects(tmp_path, relations, code, message):
    record = only(tmp_path / "a.jsonl", GOOD | {"relations": relations})
    (defect,) = record.defects
    assert (defect.code, defect.severity, defect.num_spans) == (code, "error", 0)
    with pytest.raises(DataError, match=message):
        load_examples(tmp_path / "a.jsonl")
    assert len(record.example.spans) == 3  # the entities stay


def test_a_relation_of_a_span_that_cannot_be_read(tmp_path):
    record = only(tmp_path / "a.jsonl", GOOD | {"ner": [[0, 9, "person"], *NER[1:]]})
    assert [d.code for d in record.defects] == ["out-of-range", "relation-of-nothing", "relation-of-nothing"]
    assert record.example.relations == ()
    assert record.example.spans == (BOB, ROME)


def test_what_can_be_lived_with(tmp_path):
    record = only(
        tmp_path / "a.jsonl",
        GOOD | {"relations": [[0, 1, "met"]] * 2, "rel_labels": ["born in"], "rel_negatives": ["met", "owns"]},
    )
    assert sorted((d.code, d.severity) for d in record.defects) == [
        ("false-negative", "error"),
        ("label-not-listed", "warning"),
        ("repeated-relation", "warning"),
    ]
    assert record.example.gold_relations == RelationGold((SpanRelation(ADA, BOB, "met"),), ("born in",), ("owns",))


@pytest.mark.parametrize("form", ["gliner", "text"])
def test_there_and_back(tmp_path, form):
    gold = RelationGold((SpanRelation(ROME, ADA, "visited by"),), ("visited by", "met"), ("owns",))
    examples = [
        Example.from_words(WORDS, [ADA, BOB, ROME], gold_relations=gold),
        Example.from_words(WORDS[:3], [ADA], gold_relations=RelationGold()),
        Example.from_words(WORDS[:2], [ADA]),
    ]
    write_examples(examples, tmp_path / "a.jsonl", form)
    assert list(load_examples(tmp_path / "a.jsonl").examples) == examples


def test_conll_cannot_carry_them_and_says_so(tmp_path):
    written, _ = convert(write(tmp_path / "a.jsonl", GOOD), tmp_path / "a.conll")
    assert written.lost["relations"] == 2


def test_check_counts_them(tmp_path):
    report = check([write(tmp_path / "a.jsonl", GOOD, GOOD | {"tokenized_text": [*WORDS, "!"]})])
    assert report.files[0].to_dict()["relations"] == {"met": 2, "visited by": 2}


def test_windows_keep_relations_that_they_hold_whole():
    gold = RelationGold((SpanRelation(ADA, BOB, "met"), SpanRelation(ROME, ADA, "visited by")))
    example = Example.from_words(WORDS, [ADA, BOB, ROME], gold_relations=gold)
    rows, coverage = training_rows([example], lambda _: [Window(0, 4, 0, 3), Window(2, 6, 3, 6)], max_width=5)
    assert [row.relations for row in rows] == [(SpanRelation(ADA, BOB, "met"),), ()]
    assert (coverage.num_relations, coverage.num_relations_learnt) == (2, 1)
    assert "1 of 2 relations too, 1 are relations between spans that no window holds both" in str(coverage)


def test_relations_of_wide_spans_and_of_words_with_themselves_cannot_be_learnt():
    wide, again = Span(0, 3, "group"), Span(0, 1, "writer")
    gold = RelationGold((SpanRelation(wide, ROME, "in"), SpanRelation(ADA, again, "is"), SpanRelation(ADA, ROME, "in")))
    example = Example.from_words(WORDS, [ADA, again, wide, ROME], gold_relations=gold)
    (row,), coverage = training_rows([example], lambda _: [Window(0, 6, 0, 6)], max_width=2)
    assert row.relations == (SpanRelation(ADA, ROME, "in"),)
    assert (coverage.num_relations, coverage.num_relations_learnt) == (3, 1)


def test_a_row_is_asked_its_relations_and_others():
    gold = RelationGold((SpanRelation(ADA, BOB, "met"),))
    annotated = Example.from_words(WORDS, [ADA, BOB], gold_relations=gold)
    none_there = Example.from_words(WORDS, [ADA, BOB], gold_relations=RelationGold(negatives=("owns",)))
    unknown = Example.from_words(WORDS, [ADA, BOB])
    inventory = relation_inventory([annotated, none_there, unknown])
    assert inventory == ["met", "owns"]
    sampler = LabelSampler(["person"], LabelOptions(max_relations=2), seed=0, relations=[*inventory, "a", "b"])
    for epoch in range(5):
        asked = sampler.relations_for(annotated, epoch=epoch, index=0)
        assert "met" in asked
        assert len(asked) == 2
        assert "owns" in sampler.relations_for(none_there, epoch=epoch, index=1)
        assert sampler.relations_for(unknown, epoch=epoch, index=2) == ()
