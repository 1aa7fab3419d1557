from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanwright import ConfigError, DataError, DecodeOptions, Extractor
from spanwright.encoding import Question, Row, batches_of, label_groups
from spanwright.text.windows import Window
from support.tiny import LABELS, SENTENCES, tiny_extractor

LOOSE = DecodeOptions(threshold=0.3)


@pytest.fixture(scope="module")
def extractor():
    return tiny_extractor("bert", seed=1)


@pytest.fixture
def no_contest(monkeypatch):
    """Every span of every label is an answer: none wins over another by the rounding that another batch brings."""
    monkeypatch.setattr("spanwright.extractor.resolve", lambda spans, options: list(spans))
    return DecodeOptions(threshold=0.0, overlap="nested", multi_label=True)  # in which nothing is left out beforehand


def same(found, expected):
    """Whether two answers agree up to the rounding that another batch brings."""
    return [(e.start, e.end, e.label) for e in found] == [(e.start, e.end, e.label) for e in expected] and [
        e.score for e in found
    ] == pytest.approx([e.score for e in expected], abs=1e-5)


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=60))
def test_every_entity_stands_where_it_says(text):
    extractor = tiny_extractor("bert", seed=1) if not CACHE else CACHE[0]
    CACHE.append(extractor)
    for entity in extractor.extract(text, LABELS, LOOSE):
        assert text[entity.start : entity.end] == entity.text
        assert entity.label in LABELS
        assert 0.3 < entity.score < 1


CACHE: list[Extractor] = []


@pytest.mark.parametrize("odd", ["", " \n", "\u200b", "\ud800 Angela", "<<ENT>> [SEP] <<SEP>>", "a" * 5000, "\x00"])
def test_an_odd_text_does_not_spoil_its_neighbours(extractor, odd, no_contest):
    alone = extractor.extract(SENTENCES[0], LABELS, no_contest)
    assert len(alone) > 100
    found = extractor.extract_many([SENTENCES[0], odd, SENTENCES[0]], LABELS, no_contest)
    assert same(found[0], alone)
    assert same(found[2], alone)


def test_labels_for_each_text(extractor, no_contest):
    found = extractor.extract_many([SENTENCES[0], SENTENCES[1]], [["person"], ["country", "person"]], no_contest)
    assert {e.label for e in found[0]} == {"person"}
    assert {e.label for e in found[1]} == {"country", "person"}
    assert same(found[1], extractor.extract(SENTENCES[1], ["country", "person"], no_contest))


def test_repeated_labels_count_once(extractor):
    once, twice = ["person", "country"], ["person", "person", "country"]
    assert extractor.extract(SENTENCES[0], twice, LOOSE) == extractor.extract(SENTENCES[0], once, LOOSE)


def test_no_labels_no_entities(extractor):
    assert extractor.extract(SENTENCES[0], []) == []
    assert extractor.extract_many([], LABELS) == []


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ("one string", LABELS, "Ask for a single text by itself"),
        (["a", None], LABELS, r"texts\[1\] must be a string, but is None"),
        (["a"], "person", r"Did you mean \['person'\]"),
        (["a"], ["person", 3], "a mixture"),
        (["a"], [""], "something in it"),
        (["a"], [["person"], ["city"]], "2 lists for 1 texts"),
        (["a"], [[3]], "must be a string"),
        (["a b"], ["\u200b"], "something to read"),
    ],
)
def test_wrong_arguments_are_one_clear_sentence(extractor, texts, labels, message):
    with pytest.raises(DataError, match=message):
        extractor.extract_many(texts, labels)


@pytest.mark.parametrize("num", [100, 400])
def test_many_labels_on_few_positions(extractor, num):
    labels = [f"kind {number}" for number in range(num)]
    assert len(label_groups(extractor.encoder, tuple(labels))) > 1
    found = extractor.extract(SENTENCES[0], labels, DecodeOptions(threshold=0.2, multi_label=True))
    assert {e.label for e in found} <= set(labels)


def test_what_every_group_of_labels_finds_counts(extractor):
    labels = [f"kind {number}" for number in range(100)]
    groups = label_groups(extractor.encoder, tuple(labels))
    options = DecodeOptions(threshold=0.3, multi_label=True)
    found = {entity.label for entity in extractor.extract(SENTENCES[0], labels, options)}
    alone = [{entity.label for entity in extractor.extract(SENTENCES[0], list(group), options)} for group in groups]
    assert sum(map(bool, alone)) > 1  # else one group would do
    assert sum(bool(found & set(group)) for group in groups) > 1


def test_labels_stay_together_where_words_and_prompt_fit(extractor):
    """As in gliner, which asks all labels at once: the same scores wherever it does not cut."""
    encoder = extractor.encoder
    labels = tuple(f"kind {number}" for number in range(400))
    while len(encoder.prompt(labels).ids) > encoder.max_positions * 3 // 4:
        labels = labels[:-1]
    room = encoder.room(labels)
    assert 0 < room < encoder.max_positions // 3
    assert label_groups(encoder, labels, room_for=room) == [labels]
    assert len(label_groups(encoder, labels, room_for=room + 1)) == 2


@pytest.mark.parametrize(("family", "most"), [("bert", None), ("deberta-v2", 1024)])
def test_groups_are_full_and_keep_the_order(family, most):
    encoder = tiny_extractor(family).encoder
    most = most or encoder.max_positions // 2
    labels = tuple(f"kind {number}" for number in range(1000))
    groups = label_groups(encoder, labels)
    assert len(groups) > 1
    assert tuple(label for group in groups for label in group) == labels
    for group, after in pairwise(groups):
        assert len(encoder.prompt(group).ids) <= most < len(encoder.prompt((*group, after[0])).ids)


def test_a_batch_of_long_questions_has_few_rows():
    """Attention that keeps a score for each pair of subtokens, in every head, must not fill a device's memory."""
    row = {"ids": ((1,),), "labels": ("person",), "window": Window(0, 1, 0, 1), "cost": 4096, "alone": True}
    questions = [Question(index=index, **row) for index in range(5)]
    batches = list(batches_of(questions, max_tokens=1 << 30, max_width=12))
    # 2 * 4096 ** 2 = 2 ** 25, the bound
    assert [len(batch) for batch in batches] == [2, 2, 1]


def test_a_label_longer_than_the_positions_is_refused(extractor):
    with pytest.raises(DataError, match="must fit half"):
        extractor.extract(SENTENCES[0], ["word " * 400])


def test_long_documents_are_read_whole(extractor):
    """The same sentence, planted far apart between other words, has a say in every place."""
    filler = " ".join(["Yes ."] * 150)
    document = f" {filler} ".join([SENTENCES[1]] * 4)
    options = DecodeOptions(threshold=0.05, overlap="nested")
    found = extractor.extract(document, LABELS, options)
    assert all(document[e.start : e.end] == e.text for e in found)
    places = [i for i in range(len(document)) if document.startswith(SENTENCES[1], i)]
    assert len(places) == 4
    for place in places:
        assert any(place <= e.start < place + len(SENTENCES[1]) for e in found)


def test_windows_lose_and_repeat_no_span(extractor):
    """With a threshold that everything passes, a long text yields each span of each label exactly once."""
    words = tuple((SENTENCES[0] * 30).split())
    small = tiny_extractor("bert", seed=1, max_words=40)
    spans = small.find_spans([Row(words, LABELS[:1])], DecodeOptions(threshold=0.0, overlap="nested", multi_label=True))
    kept = [(s.start, s.end) for s in spans[0]]
    assert len(set(kept)) == len(kept)
    import spanwright.extractor as module

    all_candidates = []
    original = module.resolve
    try:
        module.resolve = lambda spans, options: all_candidates.extend(spans) or []
        small.find_spans([Row(words, LABELS[:1])], DecodeOptions(threshold=0.0))
    finally:
        module.resolve = original
    expected = {(s, e) for s in range(len(words)) for e in range(s + 1, min(s + 4, len(words)) + 1)}
    assert sorted((s.start, s.end) for s in all_candidates) == sorted(expected)


def test_what_is_asked_about_a_text_may_be_asked_in_any_portions(extractor, no_contest, monkeypatch):
    """Windows and groups of labels of one text among other texts: all of it comes together at the text."""
    texts = [SENTENCES[5], " ".join(SENTENCES * 8), "", SENTENCES[1]]
    labels = [LABELS, [f"kind {number}" for number in range(60)], LABELS, LABELS]
    small = tiny_extractor("bert", seed=1, max_words=60)
    assert len(label_groups(small.encoder, tuple(labels[1]))) > 1
    whole = small.extract_many(texts, labels, no_contest)
    assert all(whole[index] for index in (0, 1, 3))
    monkeypatch.setattr("spanwright.extractor._QUESTIONS_AT_ONCE", 1)
    for found, expected in zip(small.extract_many(texts, labels, no_contest), whole, strict=True):
        assert same(sorted(found, key=place), sorted(expected, key=place))


def place(entity):
    return entity.start, entity.end, entity.label


def test_text_without_spaces():
    extractor = tiny_extractor("xlm-roberta", word_splitter="script")
    everything = DecodeOptions(threshold=0.0, overlap="nested")
    text = "東京に行くAngela Merkel"
    found = extractor.extract(text, LABELS, everything)
    assert found
    assert all(text[e.start : e.end] == e.text for e in found)
    assert {e.text for e in extractor.extract("東京", LABELS, everything)} == {
        "東",
        "京",
        "東京",
    }  # none crosses another


def test_thresholds_by_label(extractor):
    loose = extractor.extract(SENTENCES[0], LABELS, DecodeOptions(threshold=0.0, multi_label=True, overlap="nested"))
    strict = DecodeOptions(
        threshold={"person": 1.0, **dict.fromkeys(LABELS[1:], 0.0)}, multi_label=True, overlap="nested"
    )
    assert "person" in {e.label for e in loose}
    assert "person" not in {e.label for e in extractor.extract(SENTENCES[0], LABELS, strict)}


def test_devices_and_dtypes(tmp_path, extractor):
    extractor.save(tmp_path / "model")
    half = Extractor.from_pretrained(tmp_path / "model", device="cpu", dtype="bfloat16")
    assert str(half.model.dtype) == "torch.bfloat16"
    for entity in half.extract(SENTENCES[0], LABELS, LOOSE):
        assert entity.label in LABELS
    with pytest.raises(ConfigError, match="must be one of float32"):
        Extractor.from_pretrained(tmp_path / "model", dtype="int8")
    with pytest.raises(ConfigError, match="must be a name such as"):
        Extractor.from_pretrained(tmp_path / "model", device="gpu")
    with pytest.raises(ConfigError, match="must be on this machine"):
        Extractor.from_pretrained(tmp_path / "model", device="cuda")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 2}, r"must lie in \[0, 1\]"),
        ({"threshold": "high"}, "must be a number"),
        ({"threshold": {"person": True}}, "must be a number"),
        ({"overlap": "flatt"}, "Did you mean `flat`"),
    ],
)
def test_options_are_checked_when_made(options, message):
    with pytest.raises(ConfigError, match=message):
        DecodeOptions(**options)
