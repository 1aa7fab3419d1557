"""Scores of pairs to relations between the spans that were kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from spanwright.config import DecodeOptions
from spanwright.entities import Bounds, ScoredRelation, ScoredSpan
from spanwright.tensors import RelationScores


def relation_candidates(
    scores: RelationScores, labels: Sequence[Sequence[str]], options: DecodeOptions
) -> list[list[ScoredRelation]]:
    """The relations of each row whose score is above their threshold, strictly, in the order of pairs, then columns.

    `labels[b][c]` names column c of row b. Of the same words in the same relation the first stands; a relation of
    words with themselves is none (a token model has an entity once for each of its labels, and gliner relates those).
    """
    values = torch.sigmoid(scores.logits.float())
    width = values.shape[-1]
    table = [[options.relation_threshold_of(label) for label in row] + [1.0] * (width - len(row)) for row in labels]
    thresholds = torch.tensor(table, device=values.device).reshape(len(labels), 1, width)
    kept = scores.cell_mask() & (values > thresholds)
    row, pair, column = kept.nonzero(as_tuple=True)
    head, tail = (scores.entities.bounds[row, scores.pairs.places[row, pair, side]] for side in (0, 1))
    places = torch.cat([row[:, None], head, tail, column[:, None]], dim=1).tolist()
    found: list[dict[tuple[Bounds, Bounds, str], ScoredRelation]] = [{} for _ in labels]
    for (b, start, last, tail_start, tail_last, c), score in zip(places, values[kept].tolist(), strict=True):
        one, other = (start, last + 1), (tail_start, tail_last + 1)
        if one != other:
            relation = ScoredRelation(one, other, labels[b][c], score)
            found[b].setdefault((one, other, relation.label), relation)
    return [list(relations.values()) for relations in found]


def between(relations: Iterable[ScoredRelation], spans: Iterable[ScoredSpan]) -> list[ScoredRelation]:
    """The relations whose head and tail are among the spans; found twice (in two windows), the better one."""
    kept = {(span.start, span.end) for span in spans}
    best: dict[tuple[Bounds, Bounds, str], ScoredRelation] = {}
    for relation in relations:
        key = (relation.head, relation.tail, relation.label)
        if {relation.head, relation.tail} <= kept and (key not in best or best[key].score < relation.score):
            best[key] = relation
    return list(best.values())
