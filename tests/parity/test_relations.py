"""Relation models drawn at random, the same weights in both: scores, entities, relations, losses, gradients, folders.

A few in `make test`; `make parity` draws a third as many as of entity models. Departures, each shown at the end: the
adjacency's target, its cells on the diagonal, and relations of an entity with itself.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from spanwright import DecodeOptions, Extractor, Span, SpanRelation, modes
from spanwright.config import TripleScore
from spanwright.encoding import Row
from spanwright.losses import cell_loss, span_loss
from spanwright.model.triples import triple_scorer
from spanwright.tensors import EntityPairs
from spanwright.train_config import LossOptions
from support.compare import compare_gradients, gold_spans, sentences
from support.loop import still
from support.tiny import ADJACENCIES, FAMILIES, SPAN_MODES, tiny_extractor

SEED = os.environ.get("SPANWRIGHT_PARITY_SEED", "0")
CASES = max(int(os.environ.get("SPANWRIGHT_PARITY_CASES", "24")) // 3, 8)
LABELS = ("politician", "political party", "country", "event")
RELATIONS_COMPARED: list[int] = []  # of each case, in this process
PAIRS_COMPARED: list[int] = []
MOST_PAIRS = 20_000  # of a sentence: gliner repeats every vector for every pair and relation, gigabytes of them
RELATIONS = ("member of", "head of", "took place in")
TRIPLES_DRAWN = [
    None,
    None,
    None,
    "UM",
    "SE",
    "TransE",
    "DistMult",
    "DistMA",
    "SimplE",
    "ComplEx",
    "QuatE",
    "HolE",
]


def draw(seed: str, case: int) -> tuple[str, dict[str, Any]]:
    """A family and changes to the tiny configuration; every adjacency in turn."""
    rng = random.Random(seed)
    token_level = rng.random() < 0.4
    changes: dict[str, Any] = {
        "subtoken_pooling": rng.choice(["first", "last", "mean", "max"]),
        "num_rnn_layers": rng.randrange(3),
        "label_at_marker": rng.random() < 0.7,
        "relation_at_marker": rng.random() < 0.7,
        "max_width": rng.randint(2, 5),
        "hidden_size": rng.choice([24, 32, 40]),
        "fuse_layers": rng.random() < 0.2,
        "span_mode": "token_level" if token_level else rng.choice(SPAN_MODES),
        "adjacency": ADJACENCIES[case % len(ADJACENCIES)],
        "triples": rng.choice(TRIPLES_DRAWN),
    }
    return rng.choice(FAMILIES), changes


@pytest.fixture
def pair(request, tmp_path, load_peer):
    case = request.param
    family, changes = draw(f"{SEED}/{case}/relations", case)
    extractor = tiny_extractor(family, seed=case, dropout=0.0, **changes)
    extractor.save(tmp_path / "model")
    peer = load_peer(tmp_path / "model")
    still(extractor.model)
    still(peer.model)
    return extractor, peer, case


cases = pytest.mark.parametrize("pair", range(CASES), indirect=True)


def peer_batch(peer, words, gold=None, relations=None):
    """The tensors that gliner makes of rows of words, with its own targets where gold is given."""
    collate = peer.data_collator_class(
        peer.config,
        data_processor=peer.data_processor,
        return_tokens=True,
        return_entities=True,
        return_id_to_classes=True,
        return_rel_id_to_classes=True,
        prepare_labels=gold is not None,
    )
    rows = []
    for index, row in enumerate(words):
        rows.append({"tokenized_text": list(row), "ner": None if gold is None else []})
        if gold is not None:
            rows[-1]["ner"] = [[s.start, s.end - 1, s.label] for s in gold[index]]
            place = {span: at for at, span in enumerate(gold[index])}
            rows[-1]["relations"] = [[place[r.head], place[r.tail], r.label] for r in relations[index]]
    asked = [LABELS, RELATIONS] if gold is None else [[list(LABELS)] * len(words), [list(RELATIONS)] * len(words)]
    batch = collate(rows, entity_types=list(asked[0]), relation_types=list(asked[1]))
    return {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}


def thresholds(adjacency):
    """An entity's, and one of adjacency that lets some pairs pass: attention gives a row's weights that sum to 1."""
    return 0.5, (0.08 if adjacency == "attention" else 0.5)


@cases
def test_scores(pair):
    extractor, peer, case = pair
    threshold, adjacency = thresholds(extractor.model.config.adjacency)
    compared = num_pairs = 0
    for words in sentences(f"{SEED}/{case}/scores", 6):
        batch = extractor.encoder.encode([Row(tuple(words), LABELS, RELATIONS)])
        theirs = peer_batch(peer, [words])
        assert torch.equal(batch.input_ids, theirs["input_ids"])
        with modes.inference(extractor.model), torch.no_grad():
            scores = extractor.model(batch, threshold, adjacency)
            if fails_there(scores, extractor.model.config.adjacency):
                compared += 1
                continue
            if scores.relations.logits.shape[1] > MOST_PAIRS:
                continue
            expected = peer.model(**theirs, threshold=threshold, adjacency_threshold=adjacency)
        real = scores.cell_mask().expand_as(scores.logits)
        close(scores.logits[real], expected.logits[real])
        if on_the_edge(scores, threshold, adjacency):
            continue
        ours = scores.relations
        assert torch.equal(ours.pairs.mask, expected.rel_mask)
        assert torch.equal(ours.pairs.places[ours.pairs.mask], expected.rel_idx[expected.rel_mask])
        bounds = expected.entity_spans[:, : ours.entities.bounds.shape[1]]
        kept = ours.entities.mask[:, : bounds.shape[1]]
        assert torch.equal(ours.entities.bounds[:, : bounds.shape[1]][kept], bounds[kept])
        close(ours.logits[ours.pairs.mask], expected.rel_logits[expected.rel_mask])
        num_pairs += int(ours.pairs.mask.sum())
        compared += 1
    assert compared >= 2, "too many scores on the edge to compare pairs"
    PAIRS_COMPARED.append(num_pairs)


def fails_there(scores, adjacency) -> bool:
    """Item 24, shown below: attention over no entity."""
    return adjacency in ("attention", "gat") and not scores.relations.entities.mask.any()


def close(ours, theirs):
    if ours.numel():
        assert (ours - theirs).abs().max().item() <= 1e-5 * max(theirs.abs().max().item(), 1.0)


def on_the_edge(scores, threshold, adjacency) -> bool:
    """Whether a score is so close to a threshold that float32 does not decide it."""
    values = torch.sigmoid(scores.logits[scores.cell_mask().expand_as(scores.logits)])
    edges = [(values - threshold).abs().min().item()]
    if scores.relations.adjacency is not None:
        edges.append((scores.relations.adjacency - adjacency).abs().min().item())
    return min(edges) < 2e-6


@cases
def test_entities_and_relations(pair):
    """A difference is accepted only where it hangs on a tie, and not in all texts."""
    extractor, peer, case = pair
    threshold, adjacency = thresholds(extractor.model.config.adjacency)
    compared = num_relations = 0
    for way, words in enumerate(sentences(f"{SEED}/{case}/answers", 8)):
        text = " ".join(words[:14])
        options = DecodeOptions(
            threshold=threshold,
            overlap="nested" if way % 2 else "flat",
            multi_label=way % 4 > 1,
            adjacency_threshold=adjacency,
            relation_threshold=(0.3, 0.5, 0.7)[way % 3],
        )
        found = extractor.extract_relations(text, LABELS, RELATIONS, options)
        if extractor.model.config.adjacency in ("attention", "gat") and not found.entities:
            compared += 1
            continue  # item 24, shown below: attention over no entity
        entities, relations = peer.inference(
            [text],
            list(LABELS),
            relations=list(RELATIONS),
            flat_ner=options.overlap == "flat",
            threshold=threshold,
            multi_label=options.multi_label,
            adjacency_threshold=adjacency,
            relation_threshold=options.relation_threshold,
        )
        expected = without_itself(relations[0])
        same = [(e.start, e.end, e.label) for e in found.entities] == [
            (e["start"], e["end"], e["label"]) for e in entities[0]
        ] and [named(r.head.to_dict(), r.tail.to_dict(), r.label) for r in found.relations] == list(expected)
        if not same:
            assert hangs_on_a_tie(extractor, text, options), (found, entities, expected)
            continue
        assert [r.score for r in found.relations] == pytest.approx(list(expected.values()), abs=1e-5)
        compared += 1
        num_relations += len(expected)
    assert compared >= 4, "too many ties to compare anything"
    RELATIONS_COMPARED.append(num_relations)


def test_relations_were_compared():
    """After the cases of this process: there must have been pairs and relations to compare."""
    for compared in (PAIRS_COMPARED, RELATIONS_COMPARED):
        assert not compared or sum(compared) >= 5 * len(compared), compared


def named(head, tail, label):
    return (head["start"], head["end"], tail["start"], tail["end"], label)


def without_itself(relations):
    """gliner's relations, each once, and none of an entity with itself: the departure shown below.

    In our order, of heads and tails; gliner's token models give them by the labels under which entities were found.
    """
    kept = {}
    for relation in relations:
        key = named(relation["head"], relation["tail"], relation["relation"])
        if key[:2] != key[2:4]:
            kept.setdefault(key, relation["score"])
    return dict(sorted(kept.items(), key=lambda item: item[0][:4]))


def hangs_on_a_tie(extractor, text, options) -> bool:
    """Whether two entities' scores, or a score and its threshold, are too close for float32 to tell."""
    words = tuple(word.text for word in extractor.split_words(text))
    with modes.inference(extractor.model):
        batch = extractor.encoder.encode([Row(words, LABELS, RELATIONS)])
        scores = extractor.model(batch, options.threshold, options.adjacency_threshold)
    if on_the_edge(scores, options.threshold, options.adjacency_threshold):
        return True
    relations = torch.sigmoid(scores.relations.logits[scores.relations.cell_mask()])
    values = torch.sigmoid(scores.logits[scores.cell_mask().expand_as(scores.logits)])
    values = values[values > options.threshold].sort().values
    too_close = len(values) > 1 and values.diff().min() < 5e-6
    edge = len(relations) and (relations - options.relation_threshold).abs().min() < 5e-6
    return bool(too_close or edge)


@cases
def test_losses_and_gradients(pair):
    """From gliner's own targets and pairs: rows one by one, since padding enters its layers."""
    extractor, peer, case = pair
    rng = random.Random(f"{SEED}/{case}/loss")
    words = max(sentences(f"{SEED}/{case}/loss", 12), key=len)
    gold = gold_spans(extractor, [words], LABELS, rng, every=0.6)
    pool = [(h, t) for h in gold[0] for t in gold[0] if (h.start, h.end) != (t.start, t.end)]
    relations = [[SpanRelation(h, t, rng.choice(RELATIONS)) for h, t in rng.sample(pool, min(3, len(pool)))]]
    assert relations[0]
    random.seed(case)
    theirs = peer_batch(peer, [words], gold, relations)
    rows = [Row(tuple(words), LABELS, RELATIONS)]
    batch, targets = extractor.encoder.encode_with_targets(rows, gold, relations, seed="")
    assert torch.equal(theirs["labels"].float().view_as(targets.values), targets.values)
    batch, targets = as_theirs(batch, targets, theirs, extractor.model.config)
    for options in (
        LossOptions(reduction="sum"),
        LossOptions(reduction="sum", focal_alpha=0.75, focal_gamma=2.0),
        LossOptions(reduction="sum", entity_weight=0.5, adjacency_weight=2.0, relation_weight=3.0),
    ):
        peer.config.span_loss_coef = options.entity_weight
        peer.config.adjacency_loss_coef = options.adjacency_weight
        peer.config.relation_loss_coef = options.relation_weight
        scores = extractor.model(batch)
        loss = span_loss(scores, targets, options).total + of_entities_with_themselves(scores, options)
        output = peer.model(**theirs, alpha=options.focal_alpha, gamma=options.focal_gamma, reduction="sum")
        assert loss.item() == pytest.approx(output.loss.item(), rel=1e-5, abs=1e-5)
        extractor.model.zero_grad()
        peer.model.zero_grad()
        loss.backward()
        output.loss.backward()
        compare_gradients(extractor, peer)


def of_entities_with_themselves(scores, options):
    """A term of gliner's loss that ours leaves out: the adjacency of an entity with itself, which there shall be 0."""
    if scores.relations.adjacency is None:
        return 0.0
    diagonal = scores.relations.adjacency[0].diagonal()
    return (
        options.adjacency_weight
        * cell_loss(diagonal, torch.zeros_like(diagonal), options, are_probabilities=True).sum()
    )


def as_theirs(batch, targets, theirs, config):
    """Our batch with the pairs that gliner drew; its adjacency target is 1 for each of them, the negatives too."""
    values = theirs["rel_matrix"]
    if config.adjacency == "none":
        return batch, replace(targets, relation_values=values)
    places = theirs["adj_matrix"][0].nonzero()
    mask = torch.ones(1, len(places), dtype=torch.bool)
    batch = replace(batch, relations=replace(batch.relations, pairs=EntityPairs(places[None], mask)))
    return batch, replace(targets, adjacency=theirs["adj_matrix"], relation_values=values)


@cases
def test_folders_go_both_ways(pair, tmp_path):
    extractor, peer, case = pair
    peer.save_pretrained(str(tmp_path / "theirs"), safe_serialization=case % 2 == 0)
    back = Extractor.from_pretrained(tmp_path / "theirs", device="cpu")
    returned = back.model.state_dict()
    assert returned.keys() == extractor.model.state_dict().keys()
    for name, value in extractor.model.state_dict().items():
        assert torch.equal(value, returned[name]), name


TRIPLES = {
    "UM": {},
    "SE": {},
    "TransE": {},
    "TransH": {"dim": 24},
    "TransF": {"dim": 24},
    "PairRE": {"dim": 24},
    "TripleRE": {"dim": 24},
    "DistMult": {},
    "DistMA": {},
    "SimplE": {},
    "ComplEx": {},
    "QuatE": {},
    "HolE": {},
    "TuckER": {"d_e": 24, "d_r": 24},
    "ERMLP": {"dim": 24},
    "ConvKB": {"dim": 24},
}


@pytest.mark.parametrize("kind", get_args(TripleScore))
def test_triples_score_as_gliner_scores_one(kind):
    """Layer by layer: gliner builds those with parameters for vectors of 768 only, and its TuckER mixes rows."""
    from gliner.modeling.multitask import triples_layers

    assert set(TRIPLES) == set(get_args(TripleScore))
    theirs = getattr(triples_layers, f"{kind}Interaction")(**TRIPLES[kind])
    ours = triple_scorer(kind, 24)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    heads, tails, relations = (torch.randn(2, n, 24) for n in (3, 3, 4))
    with modes.inference(ours), torch.no_grad():
        scores = ours(heads, relations, tails, torch.ones(2, 3, dtype=torch.bool))
        still_standing = theirs.train(False)
        for b in range(2):
            for p in range(3):
                for r in range(4):
                    expected = still_standing(heads[b, p][None], relations[b, r][None], tails[b, p][None])
                    torch.testing.assert_close(scores[b, p, r], expected[0], rtol=2e-5, atol=2e-5)


def test_item_10_negatives_are_no_related_entities():
    """There, every pair that is drawn, negatives included, is a positive of the adjacency."""
    ours = tiny_extractor(adjacency="dot")
    words = ("Angela", "Merkel", "met", "Barack", "Obama", "in", "Berlin", ".")
    gold = [[Span(0, 2, "person"), Span(3, 5, "person"), Span(6, 7, "country")]]
    relations = [[SpanRelation(gold[0][0], gold[0][1], "met")]]
    row = Row(words, ("person", "country"), ("met", "born in"))
    batch, targets = ours.encoder.encode_with_targets([row], gold, relations, seed="")
    assert targets.adjacency[0].nonzero().tolist() == [[0, 1], [1, 0]]
    assert batch.relations.pairs.places[0].tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert targets.relation_values[0].nonzero().tolist() == [[0, 0]]


def test_an_entity_is_not_trained_to_be_unrelated_to_itself(tmp_path, load_peer):
    """There, the adjacency of an entity with itself has the target 0, which x.x >= 0 cannot reach: vectors shrink."""
    ours = tiny_extractor(adjacency="dot", dropout=0.0)
    ours.save(tmp_path / "model")
    peer = load_peer(tmp_path / "model")
    still(ours.model)
    still(peer.model)
    words, gold = ["Angela", "Merkel", "won", "."], [[Span(0, 2, "politician")]]  # a single entity: nothing to relate
    theirs = peer_batch(peer, [words], gold, [[]])
    with_relations = peer.model(**theirs, reduction="sum").loss
    alone = peer.model(**{k: v for k, v in theirs.items() if k != "rel_matrix"}, reduction="sum").loss
    assert (with_relations - alone).item() > 0.69  # ln 2 at the least
    row = Row(tuple(words), LABELS, RELATIONS)
    batch, targets = ours.encoder.encode_with_targets([row], gold, [[]], seed="")
    loss = span_loss(ours.model(batch), targets, LossOptions(reduction="sum"))
    assert loss.total.item() == pytest.approx(alone.item(), rel=1e-5)


def test_item_9_relations_keep_their_entities(tmp_path, load_peer):
    """There, an entity of a label that is not asked takes a place without being one: relations shift."""
    ours = tiny_extractor(adjacency="none")
    ours.save(tmp_path / "model")
    peer = load_peer(tmp_path / "model")
    words = ["the", "European", "Union", "of", "Angela", "Merkel", "met", "Barack", "Obama", "."]
    row = {
        "tokenized_text": words,
        "ner": [[1, 2, "organisation"], [4, 5, "person"], [7, 8, "person"]],
        "relations": [[1, 2, "met"]],
    }
    collate = peer.data_collator_class(peer.config, data_processor=peer.data_processor, prepare_labels=True)
    theirs = collate([row], entity_types=[["person"]], relation_types=[["met"]])
    pairs = [(head, tail) for head in range(2) for tail in range(2) if head != tail]
    right = pairs.index((0, 1))
    assert theirs["rel_matrix"][0, :, 0].tolist() != [float(i == right) for i in range(len(theirs["rel_matrix"][0]))]
    gold = [[Span(4, 6, "person"), Span(7, 9, "person")]]
    relations = [[SpanRelation(*gold[0], "met")]]
    batch, targets = ours.encoder.encode_with_targets(
        [Row(tuple(words), ("person",), ("met",))], gold, relations, seed=""
    )
    assert targets.relation_values[0, :, 0].tolist() == [1.0, 0.0]
    assert torch.equal(batch.candidates.bounds[0], torch.tensor([[4, 5], [7, 8]]))


def test_item_24_no_entity_and_attention(tmp_path, load_peer):
    ours = tiny_extractor(adjacency="attention", scale=0.0)
    ours.save(tmp_path / "model")
    peer = load_peer(tmp_path / "model")
    text, labels = "Angela Merkel met Barack Obama .", ["person"]
    with pytest.raises(AttributeError):
        peer.inference([text], labels, relations=["met"], threshold=0.9)
    assert ours.extract_relations(text, labels, ["met"], DecodeOptions(threshold=0.9)).relations == []


def test_token_models_relate_an_entity_with_itself(tmp_path, load_peer):
    """There, an entity stands once for each of its labels, and is related with its own copies."""
    ours = tiny_extractor(adjacency="none", span_mode="token_level", seed=1)
    ours.save(tmp_path / "model")
    text = "Angela Merkel met Barack Obama in Berlin ."
    relations = load_peer(tmp_path / "model").inference([text], list(LABELS), relations=["met"])[1][0]
    named_there = [named(r["head"], r["tail"], r["relation"]) for r in relations]
    assert any(name[:2] == name[2:4] for name in named_there)
    assert len(set(named_there)) < len(named_there)
    found = ours.extract_relations(text, LABELS, ["met"]).relations
    named_here = [named(r.head.to_dict(), r.tail.to_dict(), r.label) for r in found]
    assert named_here
    assert len(set(named_here)) == len(named_here)
    assert not any(name[:2] == name[2:4] for name in named_here)
    assert set(named_here) == {name for name in named_there if name[:2] != name[2:4]}
