"""Scores of pairs to relations between the spans that were kept."""

from __future__ import annotations

import torch

from spanwright.config import DecodeOptions
from spanwright.decoding import between, relation_candidates
from spanwright.entities import ScoredRelation, ScoredSpan
from spanwright.tensors import Candidates, EntityPairs, RelationScores


def scores(logits, bounds, places):
    """One row."""
    logits, bounds, places = torch.tensor([logits]), torch.tensor([bounds]), torch.tensor([places])
    return RelationScores(
        logits,
        Candidates(bounds, torch.ones(bounds.shape[:2], dtype=torch.bool)),
        EntityPairs(places, torch.ones(places.shape[:2], dtype=torch.bool)),
        torch.ones(1, logits.shape[-1], dtype=torch.bool),
    )


def half(value):
    return torch.sigmoid(torch.tensor(value)).item()


def test_relations_above_their_threshold():
    found = relation_candidates(
        scores([[2.0, -1.0], [0.0, 0.4]], [[0, 1], [3, 3]], [[0, 1], [1, 0]]), [("a", "b")], DecodeOptions()
    )
    assert found == [[ScoredRelation((0, 2), (3, 4), "a", half(2.0)), ScoredRelation((3, 4), (0, 2), "b", half(0.4))]]


def test_thresholds_by_label_and_their_defaults():
    given = scores([[1.0, 1.0]], [[0, 0], [1, 1]], [[0, 1]])
    assert len(relation_candidates(given, [("a", "b")], DecodeOptions(threshold=0.9))[0]) == 0
    assert len(relation_candidates(given, [("a", "b")], DecodeOptions(threshold=0.9, relation_threshold=0.5))[0]) == 2
    named = DecodeOptions(threshold={"person": 0.9}, relation_threshold={"a": 0.8})
    assert [r.label for r in relation_candidates(given, [("a", "b")], named)[0]] == ["b"]
    assert named.least_adjacency() == 0.5
    assert DecodeOptions(threshold=0.3).least_adjacency() == 0.3


def test_an_entity_has_no_relation_with_itself_and_none_twice():
    given = scores([[1.0], [2.0], [3.0]], [[0, 0], [0, 0], [2, 2]], [[0, 1], [0, 2], [1, 2]])
    assert relation_candidates(given, [("a",)], DecodeOptions()) == [[ScoredRelation((0, 1), (2, 3), "a", half(2.0))]]


def test_rows_with_fewer_relations():
    logits = torch.full((2, 1, 2), 3.0)
    given = RelationScores(
        logits,
        Candidates(torch.tensor([[[0, 0], [1, 1]]] * 2), torch.ones(2, 2, dtype=torch.bool)),
        EntityPairs(torch.tensor([[[0, 1]]] * 2), torch.tensor([[True], [True]])),
        torch.tensor([[True, True], [True, False]]),
    )
    found = relation_candidates(given, [("a", "b"), ("c",)], DecodeOptions())
    assert [[r.label for r in row] for row in found] == [["a", "b"], ["c"]]


def test_only_between_what_was_kept_and_the_better_of_two():
    spans = [ScoredSpan(0, 1, "x", 0.9), ScoredSpan(2, 4, "x", 0.8)]
    low, high = ScoredRelation((0, 1), (2, 4), "a", 0.6), ScoredRelation((0, 1), (2, 4), "a", 0.7)
    lost = ScoredRelation((0, 1), (2, 3), "a", 0.99)
    assert between([low, lost, high], spans) == [high]
    assert high.shifted(3) == ScoredRelation((3, 4), (5, 7), "a", 0.7)
