from __future__ import annotations

import gzip
import json
import lzma

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spanwright import ConfigError, DataError, Example, Span
from spanwright.data import check, load_examples, read_records, write_examples
from spanwright.data.convert import convert
from spanwright.text import splitter
from support.data import sentences


def put(path, *records):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def spans(path, **options):
    return [[(s.start, s.end, s.label) for s in e.spans] for e in load_examples(path, **options).examples]


WORDS = {"tokenized_text": ["Ada", "went", "to", "New", "York"], "ner": [[0, 0, "person"], [3, 4, "city"]]}
FOUND = [(0, 1, "person"), (3, 5, "city")]


def test_gliners_own_form(tmp_path):
    record = {**WORDS, "ner_labels": ["city", "person", "river"], "ner_negatives": ["year"], "src": "x"}
    example = load_examples(put(tmp_path / "a.jsonl", record)).examples[0]
    assert [(s.start, s.end, s.label) for s in example.spans] == FOUND
    assert example.labels == ("city", "person", "river")
    assert example.negatives == ("year",)
    assert example.source == "x"
    assert example.origin.endswith("a.jsonl:1")
    assert example.text == "Ada went to New York"


@pytest.mark.parametrize(
    "record",
    [
        {
            "text": "Ada went to New York",
            "entities": [{"start": 0, "end": 3, "label": "person"}, {"start": 12, "end": 20, "label": "city"}],
        },
        {
            "text": "Ada went to New York",
            "spans": [{"start": 0, "end": 3, "label": "person"}, {"start": 12, "end": 20, "label": "city"}],
        },
        {"text": "Ada went to New York", "label": [[0, 3, "person"], [12, 20, "city"]]},
        {"id": 7, "text": "Ada went to New York", "labels": [[0, 4, "person"], [11, 20, "city"]]},
        ["Ada went to New York", {"entities": [[0, 3, "person"], [12, 20, "city"]]}],
    ],
    ids=["entities", "spacy spans", "doccano", "with blanks", "spacy pair"],
)
def test_raw_text_in_the_forms_of_other_tools(tmp_path, record):
    assert spans(put(tmp_path / "a.jsonl", record)) == [FOUND]
    (tmp_path / "b.json").write_text(json.dumps([record, record], indent=1))
    assert spans(tmp_path / "b.json") == [FOUND, FOUND]


@pytest.mark.parametrize(
    "tags",
    [
        "B-person O O B-city I-city",
        "I-person O O I-city I-city",
        "S-person O O B-city E-city",
        "U-person O O B-city L-city",
    ],
    ids=["IOB2", "IOB1", "BIOES", "BILOU"],
)
@pytest.mark.parametrize("gap", [" ", "\t", " x y "])
def test_conll_columns(tmp_path, tags, gap):
    lines = [f"{word}{gap}{tag}" for word, tag in zip(WORDS["tokenized_text"], tags.split(), strict=True)]
    path = put(tmp_path / "a.conll", "-DOCSTART- -X- O", "", *lines, "", "# comment", *lines)
    assert spans(path) == [FOUND, FOUND]


def test_neighbours_of_one_label_in_both_old_schemes(tmp_path):
    iob1 = put(tmp_path / "1.conll", "a I-x", "b B-x", "c I-y")
    iob2 = put(tmp_path / "2.conll", "a B-x", "b B-x", "c B-y")
    assert spans(iob1) == spans(iob2) == [[(0, 1, "x"), (1, 2, "x"), (2, 3, "y")]]


def test_compressed_files_marks_and_line_ends(tmp_path):
    text = ("\ufeff" + json.dumps(WORDS) + "\r\n\r\n" + json.dumps(WORDS)).encode()
    for name, opener in (("a.jsonl.gz", gzip.open), ("a.jsonl.xz", lzma.open), ("a.jsonl", open)):
        with opener(tmp_path / name, "wb") as file:
            file.write(text)
        assert spans(tmp_path / name) == [FOUND, FOUND]


BAD = [
    ("{", "unreadable"),
    ('{"tokenized_text": NaN, "ner": []}', "wrong-type"),
    ("[" * 100_000, "unreadable"),
    ("7", "not-an-example"),
    ({"words": []}, "not-an-example"),
    ({"tokenized_text": "Ada", "ner": []}, "wrong-type"),
    ({"tokenized_text": [], "ner": []}, "empty-text"),
    ({"tokenized_text": ["a"]}, "wrong-type"),
    ({"tokenized_text": ["a"], "ner": {}}, "wrong-type"),
    ({"tokenized_text": ["a"], "ner": [[0, 0]]}, "wrong-type"),
    ({"tokenized_text": ["a"], "ner": [["0", 0, "x"]]}, "wrong-type"),
    ({"tokenized_text": ["a"], "ner": [[True, 0, "x"]]}, "wrong-type"),
    ({"tokenized_text": ["a"], "ner": [[0.0, 0, "x"]]}, "wrong-type"),
    ({"tokenized_text": ["a", "b"], "ner": [[1, 0, "x"]]}, "reversed"),
    ({"tokenized_text": ["a"], "ner": [[-1, 0, "x"]]}, "negative"),
    ({"tokenized_text": ["a"], "ner": [[0, 1, "x"]]}, "out-of-range"),
    ({"tokenized_text": ["a"], "ner": [[0, 0, ""]]}, "empty-label"),
    ({"tokenized_text": ["a"], "ner": [[0, 0, None]]}, "empty-label"),
    ({"tokenized_text": ["a"], "ner": [[0, 0, "x"]], "ner_negatives": ["x"]}, "false-negative"),
    ({"tokenized_text": ["a"], "ner": [], "ner_labels": "x"}, "wrong-type"),
    ({"text": None, "entities": []}, "wrong-type"),
    ({"text": "a"}, "wrong-type"),
    ({"text": " ", "entities": []}, "empty-text"),
    ({"text": "Ada went", "entities": [[0, 2, "x"]]}, "cuts-a-word"),
    ({"text": "Ada went", "entities": [[3, 4, "x"]]}, "cuts-a-word"),
    ({"text": "Ada went", "entities": [[2, 1, "x"]]}, "reversed"),
    ({"text": "Ada went", "entities": [[0, 99, "x"]]}, "out-of-range"),
    ({"text": "Ada went", "entities": [[-1, 3, "x"]]}, "negative"),
    ({"text": "Ada went", "entities": [["a", 3, "x"]]}, "wrong-type"),
    ({"text": "Ada went", "entities": [3]}, "wrong-type"),
]


@pytest.mark.parametrize(("record", "code"), BAD)
@pytest.mark.parametrize("line", [1, 3])
def test_each_defect_has_its_line_and_code(tmp_path, record, code, line):
    around = [WORDS, WORDS]
    path = put(tmp_path / "a.jsonl", *around[: line - 1], record, WORDS)
    if line == 1 and isinstance(record, str) and not record.startswith("{"):
        path = put(tmp_path / "a.jsonl", WORDS, record, WORDS)
        line = 2
    defects = [d for r in read_records(path) for d in r.defects if d.severity == "error"]
    assert [(d.code, d.place.rsplit(":", 1)[1]) for d in defects] == [(code, str(line))]
    with pytest.raises(DataError, match=rf":{line}: .*`spanwright check"):
        load_examples(path)
    loaded = load_examples(path, skip_invalid=True)
    assert loaded.num_spans == sum(len(e.spans) for e in loaded.examples) + sum(d.num_spans for d in loaded.skipped)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(WORDS).encode() + b"\n\xff\xfe{}\n")
    assert [d.code for r in read_records(path) for d in r.defects] == ["unreadable"]
    (tmp_path / "b.json").write_bytes(b'[{"text": "a\xff", "entities": []}]')
    assert [d.code for r in read_records(tmp_path / "b.json") for d in r.defects] == ["surrogate"]


def test_conll_defects(tmp_path):
    path = put(tmp_path / "a.conll", "a B-x", "b", "", "a B-x y", "b O", "", "a X-x", "b O")
    assert [(d.code, d.place[-1]) for r in read_records(path) for d in r.defects] == [
        ("unreadable", "2"),
        ("unreadable", "5"),
        ("bad-tag", "7"),
    ]


def test_arrays_that_break_off(tmp_path):
    for text, code in (
        ('[{"text": "a", "entities": []}', "unreadable"),
        ('[{"text": "a", "enti', "unreadable"),
        ("[", "unreadable"),
    ):
        path = tmp_path / "a.json"
        path.write_text(text)
        assert [d.code for r in read_records(path) for d in r.defects] == [code]


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        load_examples(tmp_path / "none.jsonl")
    (tmp_path / "a.jsonl.gz").write_text("plain")
    with pytest.raises(DataError, match="must be a gz file"):
        load_examples(tmp_path / "a.jsonl.gz")
    with pytest.raises(DataError, match="must be a file"):
        load_examples(tmp_path)


def test_exclusive_ends_on_request(tmp_path):
    record = {**WORDS, "ner": [[0, 1, "person"], [3, 5, "city"]]}
    path = put(tmp_path / "a.jsonl", record)
    with pytest.raises(DataError, match="Are the ends exclusive"):
        load_examples(path)
    assert spans(path, exclusive_ends=True) == [FOUND]


words = st.lists(st.text("abc-é東", min_size=1, max_size=4), min_size=1, max_size=8)


@st.composite
def examples(draw):
    texts = draw(words)
    found = draw(
        st.lists(
            st.builds(
                lambda start, width, label: Span(
                    start % len(texts), min(start % len(texts) + width, len(texts)), label
                ),
                st.integers(0, 7),
                st.integers(1, 3),
                st.sampled_from(["person", "political party"]),
            ),
            max_size=4,
            unique=True,
        )
    )
    labels = draw(st.none() | st.just(("person", "political party", "year")))
    return Example.from_words(texts, found, labels=labels, negatives=draw(st.sampled_from([(), ("river",)])))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    made=st.lists(examples(), min_size=1, max_size=4),
    name=st.sampled_from(["a.jsonl", "a.json", "a.jsonl.gz", "a.json.xz"]),
)
def test_words_go_round(tmp_path, made, name):
    write_examples(made, tmp_path / name)
    assert list(load_examples(tmp_path / name).examples) == made


def flat(example):
    taken, kept = set(), []
    for span in sorted(example.spans, key=lambda s: (s.start, -s.end)):
        if not taken & set(range(span.start, span.end)):
            taken |= set(range(span.start, span.end))
            kept.append(span)
    return kept


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(made=st.lists(examples(), min_size=1, max_size=4))
def test_conll_goes_round_but_for_what_it_counts(tmp_path, made):
    written = write_examples(made, tmp_path / "a.conll")
    back = load_examples(tmp_path / "a.conll").examples
    assert [e.word_texts for e in back] == [e.word_texts for e in made]
    assert [set(e.spans) for e in back] == [set(flat(e)) for e in made]
    lost = sum(len(e.spans) for e in made) - written.num_spans
    assert written.lost.get("spans that overlap others", 0) == lost


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(text=st.text(min_size=1, max_size=30))
def test_text_goes_round(tmp_path, text):
    split = splitter("whitespace")(text)
    if not split or any("\ud800" <= c <= "\udfff" for c in text):
        return
    made = Example(text, split, (Span(0, 1, "x"),))
    write_examples([made], tmp_path / "a.jsonl", "text")
    assert load_examples(tmp_path / "a.jsonl").examples == (made,)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(
    content=st.binary(max_size=200) | st.text('{}[]",:0aentitokzd_ \n\t-BIOx', max_size=120).map(str.encode),
    name=st.sampled_from(["a.jsonl", "a.json", "a.conll", "a.txt"]),
)
def test_garbage_is_refused_in_words(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    for record in read_records(tmp_path / name):
        assert record.example is not None or record.defects


def test_check_sees_what_only_whole_files_show(tmp_path):
    train = put(
        tmp_path / "train.jsonl",
        *[{"tokenized_text": ["in", "New", "York", ",", str(n)], "ner": [[1, 3, "city"]]} for n in range(25)],
        {"tokenized_text": ["a"] * 30, "ner": [[0, 14, "long"], [2, 20, "City"], [0, 14, "long"]]},
        {"tokenized_text": ["in", "new", "york", ",", "3"], "ner": []},
    )
    dev = put(tmp_path / "dev.jsonl", {"tokenized_text": ["in", "New", "York", ",", "3"], "ner": [[0, 0, "river"]]})
    report = check([], train=[train], dev=[dev], max_words=20)
    assert report.num_errors == 0
    assert report.codes == {
        "exclusive-looking-ends": 1,
        "too-wide": 2,
        "longer-than-window": 1,
        "overlapping": 1,
        "repeated-sentence": 1,
        "repeated-across-files": 1,
        "repeated-span": 1,
        "near-duplicate-labels": 1,
        "label-unseen-in-train": 1,
    }
    summary = report.to_dict()["files"][0]
    assert (summary["sentences"], summary["spans"], summary["labels"]["city"]) == (27, 27, 25)


def test_check_reports_errors_and_empty_files(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    report = check([empty, put(tmp_path / "a.jsonl", {"tokenized_text": ["a"], "ner": [[0, 1, "x"]]})])
    assert report.codes == {"empty-file": 1, "out-of-range": 1}
    assert report.num_errors == 2


def test_convert_refuses_whole_or_counts(tmp_path):
    path = put(tmp_path / "a.jsonl", WORDS, {"tokenized_text": ["a"], "ner": [[0, 1, "x"]]})
    target = tmp_path / "b.conll"
    with pytest.raises(DataError, match="skip-invalid"):
        convert(path, target)
    assert not target.exists()
    written, skipped = convert(path, target, skip_invalid=True)
    assert (written.num_examples, written.num_spans, len(skipped)) == (2, 2, 1)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    with pytest.raises(ConfigError, match="must end in"):
        convert(path, tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match="must be one of 'gliner'"):
        convert(path, target, to="conl")
    with pytest.raises(DataError, match="must be writable"):
        write_examples(sentences(), tmp_path / "no" / "folder.jsonl")


def test_what_conll_cannot_carry_is_counted(tmp_path):
    odd = Example.from_words(["a\tb", " ", "c"], [Span(0, 2, "x"), Span(1, 3, "y")], negatives=("z",))
    written = write_examples([odd], tmp_path / "a.conll")
    assert written.lost == {
        "spans that overlap others": 1,
        "lists of labels": 1,
        "line breaks in words": 1,
        "empty words": 1,
    }
    assert load_examples(tmp_path / "a.conll").examples[0].word_texts == ["a b", "_", "c"]


def test_a_large_array_is_read_in_bounded_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "big.json"
    element = json.dumps(WORDS)
    with path.open("w") as file:
        file.write("[" + ",\n".join([element] * 60_000) + "]")
    assert path.stat().st_size > 5_000_000
    tracemalloc.start()
    count = sum(1 for _ in read_records(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 60_000
    assert peak < 1_500_000
