"""Relations in prompts and in gold cells, by hand."""

from __future__ import annotations

import torch

from spanwright import Span, SpanRelation
from spanwright.encoding import Row
from spanwright.encoding import targets as module
from support.tiny import tiny_extractor, tiny_tokenizer

WORDS = ("Angela", "Merkel", "met", "Barack", "Obama", "in", "Berlin")
ANGELA, BARACK, BERLIN = Span(0, 2, "person"), Span(3, 5, "person"), Span(6, 7, "country")


def test_the_prompt_has_relations_and_a_second_separator():
    extractor = tiny_extractor(adjacency="dot")
    name = tiny_tokenizer(relations=True).convert_ids_to_tokens
    batch = extractor.encoder.encode([Row(("Yes",), ("person", "country"), ("met in",)), Row(("Yes",), ("person",))])
    tokens = name(batch.input_ids[0].tolist())
    markers = [token for token in tokens if token.startswith(("<<", "["))]
    assert markers == ["[CLS]", "<<ENT>>", "<<ENT>>", "<<SEP>>", "<<REL>>", "<<SEP>>", "[SEP]"]
    assert tokens[batch.relations.positions[0, 0]] == "<<REL>>"
    assert batch.relations.mask.tolist() == [[True], [False]]
    second = name(batch.input_ids[1].tolist())
    assert second.count("<<SEP>>") == 2  # a relation model reads two, whatever it is asked
    assert extractor.encoder.encode([Row(("Yes",), ("person",))]).relations is None


def test_the_vector_may_be_read_behind_the_marker():
    encoder = tiny_extractor(adjacency="dot", relation_at_marker=False).encoder
    batch = encoder.encode([Row(("Yes",), ("person",), ("met in",))])
    at = batch.input_ids[0].tolist().index(encoder.config.relation_token_id)
    assert batch.relations.positions.tolist() == [[at + 1]]


def gold_batch(adjacency, relations, labels=("met", "lives in")):
    extractor = tiny_extractor(adjacency=adjacency)
    rows = [Row(WORDS, ("person", "country"), labels), Row(WORDS[:2], ("person",), labels[:1])]
    spans = [[BERLIN, ANGELA, BARACK, Span(0, 2, "country")], [ANGELA]]
    return extractor.encoder.encode_with_targets(rows, spans, [relations, []], seed="")


def test_gold_cells_by_hand():
    relations = [SpanRelation(ANGELA, BARACK, "met"), SpanRelation(BARACK, BERLIN, "lives in")]
    batch, targets = gold_batch("mlp", relations)
    assert batch.candidates.bounds[0].tolist() == [[0, 1], [3, 4], [6, 6]]  # entities by place, each once
    assert batch.candidates.mask.tolist() == [[True] * 3, [True, False, False]]
    assert batch.relations.pairs.places[0].tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert not batch.relations.pairs.mask[1].any()
    assert targets.adjacency.nonzero().tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 2], [0, 2, 1]]
    assert targets.relation_values.nonzero().tolist() == [[0, 0, 0], [0, 3, 1]]
    spans = sum(module.num_spans(length, 4) * labels for length, labels in ((7, 2), (2, 1)))
    assert targets.num_cells == spans + 6 * 2 + 3 * 2
    assert gold_batch("none", relations)[1].num_cells == spans + 6 * 2


def test_counted_on_the_host_as_the_loss_counts():
    from spanwright.losses import span_loss

    for adjacency in ("mlp", "none"):
        extractor = tiny_extractor(adjacency=adjacency)
        batch, targets = gold_batch(adjacency, [SpanRelation(ANGELA, BARACK, "met")])
        assert int(span_loss(extractor.model(batch), targets).count) == targets.num_cells
        batch, targets = gold_batch(adjacency, [], labels=())
        assert int(span_loss(extractor.model(batch), targets).count) == targets.num_cells
        assert not batch.relations.mask.any()


def test_of_many_pairs_the_related_ones_and_some(monkeypatch):
    monkeypatch.setattr(module, "_MOST_PAIRS", 4)
    relations = [SpanRelation(BERLIN, ANGELA, "met")]
    batch, targets = gold_batch("dot", relations)
    again, _ = gold_batch("dot", relations)
    places = batch.relations.pairs.places[0][batch.relations.pairs.mask[0]].tolist()
    assert len(places) == 4
    assert [2, 0] in places
    assert places == sorted(places)
    assert targets.relation_values[0].nonzero().tolist() == [[places.index([2, 0]), 0]]
    assert torch.equal(batch.relations.pairs.places, again.relations.pairs.places)
