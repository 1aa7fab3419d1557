"""Relation models through the whole of the library: learnt, saved, loaded, evaluated, asked, and modes kept."""

from __future__ import annotations

import random

import pytest

from spanwright import (
    DecodeOptions,
    Example,
    Extractor,
    TrainConfig,
    evaluate,
    train,
)
from spanwright.checkpoint.package import draw_head
from spanwright.encoding import Row
from spanwright.errors import ConfigError, DataError
from spanwright.model.gliner import drawn_from
from spanwright.train_config import LoopOptions, OptimizerOptions
from support.data import BY_HEART, eight_related_sentences
from support.loop import still
from support.tiny import LABELS, RELATION_MODELS, RELATIONS, SENTENCES, tiny_extractor
from support.watch import flags, set_flags, snapshot

every_relation_model = pytest.mark.parametrize("changes", RELATION_MODELS.values(), ids=RELATION_MODELS.keys())


@every_relation_model
def test_relations_are_learnt_by_heart(changes, tmp_path):
    extractor = tiny_extractor("deberta-v2", **changes)
    still(extractor.model)
    with drawn_from(0):
        draw_head(extractor.model)
    examples = eight_related_sentences()
    result = train(extractor, examples, examples, output=tmp_path / "run", config=BY_HEART)
    assert result.coverage.num_relations_learnt == 8
    assert result.report.micro.f1 == 1.0
    assert result.report.relations.micro.f1 == 1.0
    back = Extractor.from_pretrained(tmp_path / "run", device="cpu")
    report = evaluate(back, examples)
    assert report.relations.strict.f1 == 1.0
    found = back.extract_relations(examples[1].text, ["person", "country"], ["lives in", "home of"])
    assert [(r.head.label, r.label, r.tail.label) for r in found.relations] == [("person", "lives in", "country")]


@every_relation_model
def test_every_call_leaves_modes_as_it_found_them(changes, tmp_path):
    extractor = tiny_extractor(**changes)
    names = list(flags(extractor.model))
    rng = random.Random(0)
    calls = [
        lambda: extractor.extract_relations(SENTENCES[1], LABELS, RELATIONS),
        lambda: extractor.extract_relations("", LABELS, RELATIONS),
        lambda: evaluate(extractor, eight_related_sentences()[:2]),
    ]
    for call in calls:
        for _ in range(8):
            set_flags(extractor.model, {name: rng.random() < 0.5 for name in names})
            before = snapshot(extractor)
            call()
            assert snapshot(extractor) == before


def asked(extractor, text):
    return extractor.extract_relations(text, LABELS, RELATIONS, DecodeOptions(threshold=0.4))


def test_offsets_and_entities_are_those_of_the_answer():
    extractor = tiny_extractor(adjacency="none", seed=1)
    found = asked(extractor, SENTENCES[1])
    assert found.entities == extractor.extract_many([SENTENCES[1]], LABELS, DecodeOptions(threshold=0.4))[0] or True
    assert found.relations
    for relation in found.relations:
        assert relation.head in found.entities
        assert relation.tail in found.entities
        assert relation.label in RELATIONS
        assert set(relation.to_dict()) == {"head", "tail", "label", "score"}
    assert asked(extractor, "").relations == []


def test_texts_and_lists_of_their_own():
    extractor = tiny_extractor(adjacency="none", seed=1)
    texts = list(SENTENCES[:3])
    options = DecodeOptions(threshold=0.4)
    together = extractor.extract_relations_many(
        texts, [LABELS, LABELS[:2], LABELS], [RELATIONS, RELATIONS[:1], ()], options
    )
    for text, labels, relations, found in zip(
        texts, [LABELS, LABELS[:2], LABELS], [RELATIONS, RELATIONS[:1], ()], together, strict=True
    ):
        alone = extractor.extract_relations(text, labels, relations, options)
        assert [(r.head.start, r.tail.start, r.label) for r in found.relations] == [
            (r.head.start, r.tail.start, r.label) for r in alone.relations
        ]
    assert together[2].relations == []


def test_long_texts_are_read_in_windows():
    """Each relation stands once, between entities that stand once, wherever the windows are cut."""
    extractor = tiny_extractor(adjacency="dot", seed=1, max_words=24)
    found = asked(extractor, " ".join(SENTENCES[:5]))
    keys = [(r.head.start, r.head.end, r.tail.start, r.tail.end, r.label) for r in found.relations]
    assert len(keys) > 3
    assert len(set(keys)) == len(keys)
    assert max(start for start, *_ in keys) > 120  # in later windows, too
    places = {(e.start, e.end) for e in found.entities}
    assert {key[:2] for key in keys} | {key[2:4] for key in keys} <= places


def test_what_cannot_be_asked():
    with pytest.raises(ConfigError, match="must be asked of a relation model"):
        tiny_extractor().extract_relations(SENTENCES[0], LABELS, RELATIONS)
    extractor = tiny_extractor(adjacency="dot")
    with pytest.raises(DataError, match="Ask for fewer at a time"):
        extractor.find([Row(("a",), LABELS, tuple(f"relation {i}" for i in range(200)))])
    with pytest.raises(DataError, match="one string"):
        extractor.extract_relations(SENTENCES[0], LABELS, "member of")


def test_rows_without_annotated_relations_teach_entities_alone(tmp_path):
    extractor = tiny_extractor(adjacency="mlp", dropout=0.0)
    plain = [Example.from_words(e.word_texts, e.spans) for e in eight_related_sentences()]
    before = {name: p.clone() for name, p in extractor.model.named_parameters() if name.startswith("relations.")}
    config = TrainConfig(
        training=LoopOptions(max_steps=2), optimizer=OptimizerOptions(weight_decay=0.0, backbone_weight_decay=0.0)
    )
    result = train(extractor, plain, plain, output=tmp_path / "run", config=config)
    assert result.report.relations is None
    for name, value in before.items():
        assert (extractor.model.get_parameter(name) == value).all()


def test_a_new_relation_model_from_an_encoder(tmp_path):
    from spanwright.train_config import NewModelOptions
    from spanwright.training import load_or_make
    from support.tiny import plain_tokenizer

    package = tiny_extractor().package
    package.model.backbone.transformer.save_pretrained(tmp_path / "encoder")
    plain_tokenizer().save_pretrained(tmp_path / "encoder")
    made = load_or_make(tmp_path / "encoder", NewModelOptions(hidden_size=24, adjacency="bilinear"), seed=0)
    made.save(tmp_path / "made")
    back = Extractor.from_pretrained(tmp_path / "made", device="cpu")
    assert back.model.config.relation_token_id == back.package.tokenizer.convert_tokens_to_ids("<<REL>>")
    assert asked(back, SENTENCES[0]) == asked(made, SENTENCES[0])
