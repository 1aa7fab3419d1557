"""The relation part: adjacencies and scores, row by row, in groups, and where there is nothing to relate."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from spanwright import modes
from spanwright.config import TripleScore
from spanwright.model import relations as module
from spanwright.model.relations import RelationScorer, adjacency_of
from spanwright.model.triples import triple_scorer
from spanwright.tensors import Candidates, EntityPairs, RelationQuestions
from support.tiny import ADJACENCIES

SIZE = 16
LEARNT = [kind for kind in ADJACENCIES if kind != "none"]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def asked(rows, relations=2, pairs=None):
    mask = torch.ones(rows, relations, dtype=torch.bool)
    return RelationQuestions(torch.zeros(rows, relations, dtype=torch.long), mask, pairs)


def scorer(adjacency="dot", triples=None, seed=0):
    torch.manual_seed(seed)
    part = RelationScorer(SIZE, adjacency=adjacency, triples=triples, dropout=0.0)
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return part


def entities(*counts):
    most = max(*counts, 1)
    mask = torch.arange(most)[None] < torch.tensor(counts)[:, None]
    return Candidates(torch.zeros(len(counts), most, 2, dtype=torch.long), mask)


@pytest.mark.parametrize("kind", LEARNT)
def test_an_adjacency_is_a_probability_of_real_pairs(kind):
    torch.manual_seed(0)
    layer = adjacency_of(kind, SIZE)
    mask = entities(3, 1, 0).mask
    vectors = drawn(3, 3, SIZE)
    found = layer(vectors, mask)
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[1].nonzero() == 0).all()  # only of the single entity with itself
    assert (found[2] == 0).all()
    alone = layer(vectors[1:2, :1], mask[1:2, :1])
    torch.testing.assert_close(alone[0, 0, 0], found[1, 0, 0])


@pytest.mark.parametrize("kind", ADJACENCIES)
def test_gradients_are_numbers_where_a_row_has_no_entity(kind):
    part = scorer(kind)
    vectors = drawn(2, 3, SIZE).requires_grad_()
    pairs = EntityPairs(torch.tensor([[[0, 1]], [[0, 0]]]), torch.tensor([[True], [False]]))
    scores = part(vectors, entities(3, 0), drawn(2, 2, SIZE), asked(2, pairs=pairs), 0.5)
    total = sum((cells.logits.masked_fill(~cells.real, 0.0) ** 2).sum() for cells in scores.cells())
    total.backward()
    assert torch.isfinite(vectors.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in part.parameters() if p.grad is not None)


def test_dot_by_hand():
    vectors = torch.zeros(1, 2, SIZE)
    vectors[0, 0, 0], vectors[0, 1, 0] = 2.0, 0.5
    found = adjacency_of("dot", SIZE)(vectors, torch.ones(1, 2, dtype=torch.bool))
    expected = torch.sigmoid(torch.tensor([[4.0, 1.0], [1.0, 0.25]]))
    torch.testing.assert_close(found[0], expected)


def test_pairs_are_those_above_the_threshold_in_both_directions():
    part = scorer("dot")
    vectors = torch.zeros(2, 3, SIZE)
    vectors[0, :, 0] = torch.tensor([2.0, 1.0, -1.0])
    scores = part(vectors, entities(3, 2), drawn(2, 2, SIZE), asked(2), 0.6)
    assert scores.pairs.places[0][scores.pairs.mask[0]].tolist() == [[0, 1], [1, 0]]
    assert not scores.pairs.mask[1].any()  # sigmoid(0) is 0.5
    every = scorer("none")(vectors, entities(3, 2), drawn(2, 2, SIZE), asked(2), 0.6)
    assert every.pairs.places[1][every.pairs.mask[1]].tolist() == [[0, 1], [1, 0]]
    assert int(every.pairs.mask[0].sum()) == 6
    assert every.adjacency is None


@pytest.mark.parametrize("triples", [None, *(kind for kind in get_args(TripleScore) if kind != "TuckER")])
def test_groups_of_pairs_change_nothing(triples, monkeypatch):
    part = scorer("mlp", triples)
    vectors, labels = drawn(2, 5, SIZE), drawn(2, 3, SIZE, seed=1)
    with modes.inference(part):  # ConvKB drops out
        whole = part(vectors, entities(5, 4), labels, asked(2, 3), 0.0)
        monkeypatch.setattr(module, "_CELLS", 1)
        parts = part(vectors, entities(5, 4), labels, asked(2, 3), 0.0)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.adjacency, whole.adjacency)


def test_the_factorised_score_is_the_plain_one():
    part = scorer("none")
    vectors, labels = drawn(1, 3, SIZE), drawn(1, 2, SIZE, seed=1)
    scores = part(vectors, entities(3), labels, asked(1), 0.5)
    for place, (head, tail) in enumerate(scores.pairs.places[0].tolist()):
        expected = labels[0] @ part.pairs(torch.cat([vectors[0, head], vectors[0, tail]]))
        torch.testing.assert_close(scores.logits[0, place], expected, rtol=1e-5, atol=1e-5)


def test_tucker_by_hand_and_with_one_pair():
    """W[k, i, j] with k of the head, i of the relation, j of the tail; untouched statistics are 0 and 1."""
    layer = triple_scorer("TuckER", 2)
    with torch.no_grad():
        layer.W.zero_()
        layer.W[0, 1, 1] = 3.0
    layer.bn0.eps = layer.bn1.eps = 0.0
    head, relation, tail = torch.tensor([[[2.0, 9.0]]]), torch.tensor([[[7.0, 5.0]]]), torch.tensor([[[8.0, 4.0]]])
    one = torch.ones(1, 1, dtype=torch.bool)
    with modes.inference(layer):
        assert layer(head, relation, tail, one).item() == 3.0 * 2 * 5 * 4
    assert torch.isfinite(layer(head, relation, tail, one)).all()  # in training, one pair has no deviation
