"""gliner's calls, put to gliner and to Spanwright with the same arguments: the same answers and numbers."""

from __future__ import annotations

import pytest

from spanwright.compat.gliner import GLiNER
from support.tiny import LABELS, RELATIONS, SENTENCES, bi_encoder, tiny_extractor

TEXTS = list(SENTENCES[:4])
MAPPINGS = [
    {"PER": "person", "LAND": "country"},
    {"X": "organisation"},
    {"PARTY": "political party"},
    {"a": "country", "b": "person"},
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Ours and gliner's model of the same folder."""
    from gliner import GLiNER as Peer

    made = {}

    def load(name, **changes):
        if name not in made:
            folder = tmp_path_factory.mktemp("models") / "model"
            tiny_extractor(seed=1, **changes).save(folder)
            made[name] = (
                GLiNER.from_pretrained(folder, map_location="cpu"),
                Peer.from_pretrained(str(folder), local_files_only=True),
            )
        return made[name]

    return load


def spans(pair):
    return pair("spans")


def relations(pair):
    return pair("relations", adjacency="none")


def near(value):
    """The same with scores as near as float32 lets two programs be."""
    if isinstance(value, (list, tuple)):
        return type(value)(near(each) for each in value)
    if isinstance(value, dict):
        return {key: near(each) for key, each in value.items()}
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


def ask(pair, method, *args, **named):
    ours, theirs = (getattr(model, method)(*args, **named) for model in pair)
    assert ours == near(theirs)
    return ours


def test_descriptions_of_each_text(pair):
    found = ask(spans(pair), "inference", TEXTS, MAPPINGS, threshold=0.3)
    assert [{e["label"] for e in row} <= set(own) for row, own in zip(found, MAPPINGS, strict=True)] == [True] * 4
    assert sum(map(len, found)) >= 4
    mixed = ask(spans(pair), "inference", TEXTS[:2], [MAPPINGS[0], ["person"]], threshold=0.3)
    assert all(mixed)


def test_descriptions_of_each_text_and_their_relations(pair):
    found, related = ask(relations(pair), "inference", TEXTS[:2], MAPPINGS[:2], list(RELATIONS), threshold=0.45)
    assert {e["label"] for e in found[0]} <= set(MAPPINGS[0])
    assert {e["label"] for e in found[1]} == {"X"}
    assert related[1]
    assert {end["type"] for relation in related[1] for end in (relation["head"], relation["tail"])} == {"X"}


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("a", ["person"]), {}),
        ((SENTENCES[1], "person"), {"threshold": 0.3}),
        ((SENTENCES[1], list(LABELS), False, 0.3, True), {}),
        ((None, list(LABELS)), {}),
    ],
)
def test_entities_of_one_text(pair, args, named):
    ask(spans(pair), "predict_entities", *args, **named)


def test_positional_arguments_of_many(pair):
    assert all(ask(spans(pair), "inference", TEXTS, list(LABELS), False, 0.3, True, 2, None, None, False))
    with pytest.warns(FutureWarning, match="use `inference`"):
        found = ask(spans(pair), "batch_predict_entities", TEXTS, list(LABELS), False, 0.3, True, batch_size=3)
    assert all(found)


def test_what_asks_for_nothing(pair):
    ask(
        spans(pair),
        "inference",
        TEXTS,
        list(LABELS),
        packing_config=None,
        input_spans=None,
        return_class_probs=False,
        return_vectors=False,
        return_label_vectors=False,
        threshold=0.3,
    )
    ask(relations(pair), "inference", TEXTS, list(LABELS), None, threshold=0.45)


def test_entities_of_a_relation_model(pair):
    """Relations are read beside the labels: they change the scores, there and here."""
    both = relations(pair)
    asked = {"threshold": 0.45, "adjacency_threshold": 0.25, "relation_threshold": 0.7}
    found = ask(both, "predict_entities", TEXTS[1], list(LABELS), relations=list(RELATIONS), **asked)
    assert found
    alone = ask(both, "predict_entities", TEXTS[1], list(LABELS), threshold=0.45)
    assert [e["score"] for e in alone] != [e["score"] for e in found]
    assert found == ask(both, "predict_entities", TEXTS[1], list(LABELS), list(RELATIONS), True, 0.45, 0.25, False)


def test_positional_arguments_of_relations(pair):
    both = relations(pair)
    args = (list(LABELS), list(RELATIONS), True, 0.45, 0.3, 0.4, False)
    found, related = ask(both, "predict_relations", TEXTS[1], *args)
    assert found
    assert related
    ask(both, "inference", TEXTS, *args, 2)
    ask(both, "inference", TEXTS, *args, 2, None, None, False)
    ask(both, "inference", TEXTS[:2], list(LABELS), [["met in"], ["member of", "met in"]], threshold=0.45)


def test_vectors_of_labels(pair):
    both = pair("bi-encoder", **bi_encoder())
    vectors = both[1].encode_labels(list(LABELS))
    for given in (vectors, vectors.numpy()):
        found = both[0].batch_predict_with_embeds([None, TEXTS[1]], given, list(LABELS), threshold=0.4)
        assert found == near(both[1].batch_predict_with_embeds([None, TEXTS[1]], vectors, list(LABELS), threshold=0.4))
    assert found[0] == []
    assert found[1]


def words_and_gold(text, entities):
    """A row in gliner's form whose gold is every second of the `entities`, and one that nobody finds."""
    words = text.split()
    starts = [sum(len(word) + 1 for word in words[:place]) for place in range(len(words))]
    ends = {start + len(word): place for place, (start, word) in enumerate(zip(starts, words, strict=True))}
    gold = [[starts.index(e["start"]), ends[e["end"]], e["label"]] for e in entities]
    missed = next([0, 0, label] for label in LABELS if [0, 0, label] not in gold)
    return {"tokenized_text": words, "ner": [*gold[::2], missed]}


PLAIN = [SENTENCES[0], SENTENCES[1], SENTENCES[3]]  # whose words stand between spaces
KINDS = {
    "spans": {},
    "token": {"span_mode": "token_level"},
    "bi-encoder": bi_encoder(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"flat_ner": True}, {"multi_label": True}], ids=str)
def test_evaluation(pair, kind, options):
    both = pair(kind, **KINDS[kind])
    asked = {**options, "threshold": 0.4, "entity_types": list(LABELS)}
    found = both[0].inference(PLAIN, list(LABELS), flat_ner=False, threshold=0.4)
    data = [words_and_gold(*each) for each in zip(PLAIN, found, strict=True)]
    data[0]["ner_labels"] = ["person"]  # types that are named go first
    line, f1 = ask(both, "evaluate", data, batch_size=2, **asked)
    assert 0 < f1 < 1
    assert line.count("%") == 3
    assert ask(
        both, "evaluate", data, options.get("flat_ner", False), options.get("multi_label", False), 0.4, 2, list(LABELS)
    )


@pytest.mark.parametrize("span_mode", ["markerV0", "token_level"])
def test_evaluation_of_relations(pair, span_mode):
    ours, theirs = pair(f"relations, {span_mode}", adjacency="dot", span_mode=span_mode)
    types = {"entity_types": list(LABELS), "relation_types": list(RELATIONS)}
    asked = {"threshold": 0.45, "relation_threshold": 0.5, "adjacency_threshold": 0.4, "flat_ner": True}
    found, related = ours.inference(PLAIN, list(LABELS), list(RELATIONS), **asked)
    data = []
    for text, entities, relations_ in zip(PLAIN, found, related, strict=True):
        every = words_and_gold(text, [e for e in entities for _ in range(2)])  # none left out
        places = [(r["head"]["entity_idx"], r["tail"]["entity_idx"], r["relation"]) for r in relations_]
        pairs = [place for place in places if every["ner"][place[0]][:2] != every["ner"][place[1]][:2]]
        data.append({**every, "relations": [list(place) for place in pairs[::2]]})
    (line, f1), (relation_line, relation_f1) = ours.evaluate(data, **asked, **types)
    (their_line, their_f1), (their_relation_line, their_relation_f1) = theirs.evaluate(data, **asked, **types)
    assert (line, f1) == near((their_line, their_f1))
    assert 0 < f1 < 1
    assert 0 < relation_f1 < 1
    if span_mode == "markerV0":
        assert (relation_line, relation_f1) == near((their_relation_line, their_relation_f1))
    else:  # gliner relates entities there with themselves, which can only be wrong: decision 0005
        assert relation_f1 >= their_relation_f1
        recall = [each.split("\t")[1] for each in (relation_line, their_relation_line)]
        assert recall[0] == recall[1]


def test_a_word_without_subtokens_keeps_its_place(pair):
    """The scores of the other words are those of a text without it; gliner's belong to their neighbours."""
    ours, theirs = spans(pair)
    clean = SENTENCES[1]
    text = clean.replace("Merkel", "\u200b Merkel", 1)
    named = {"flat_ner": True, "threshold": 0.3}

    def told(found):
        return [(e["text"].replace("\u200b ", ""), e["label"], near(e["score"])) for e in found]

    found = ours.predict_entities(text, list(LABELS), **named)
    assert all(text[e["start"] : e["end"]] == e["text"] for e in found)
    expected = told(theirs.predict_entities(clean, list(LABELS), **named))
    assert expected
    assert [(e["text"].replace("\u200b ", ""), e["label"], e["score"]) for e in found] == expected
    assert told(theirs.predict_entities(text, list(LABELS), **named)) != expected


def test_a_span_head_gives_each_entity_once(pair):
    """Where spans carry several labels, gliner gives some entities again and again."""
    ours, theirs = pair("span head", span_mode="token_level", span_head=True)
    found, expected = (
        [(e["start"], e["end"], e["label"]) for e in model.inference(TEXTS[3], list(LABELS), False, 0.4, True)[0]]
        for model in (ours, theirs)
    )
    assert len(expected) > len(set(expected)) > 0
    assert len(found) == len(set(found))
    assert set(found) == set(expected)
