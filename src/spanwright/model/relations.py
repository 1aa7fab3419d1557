"""Which entities belong together, and by which relation.

Three parts, each with the names of published models: an adjacency (a probability for every pair of entities; pairs
above a threshold are looked at), and a score of pairs for each relation: a projection of both vectors, or a function of
triples as knowledge graphs have them (`triples.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spanwright.config import Adjacency, TripleScore
from spanwright.model.projection import Projection
from spanwright.model.triples import triple_scorer
from spanwright.pairs import in_rows
from spanwright.tensors import Candidates, EntityPairs, RelationQuestions, RelationScores

_HEADS = 8  # of published attention adjacencies
_CELLS = 1 << 25  # numbers of a hidden layer that exist at a time


class RelationScorer(nn.Module):
    """Scores the relations asked between the entities of each row."""

    def __init__(self, size: int, *, adjacency: Adjacency, triples: TripleScore | None, dropout: float) -> None:
        super().__init__()
        self.adjacency = None if adjacency == "none" else adjacency_of(adjacency, size)
        if triples is None:
            self.pairs = Projection(2 * size, size, dropout)
            self.triples = None
        else:
            self.triples = triple_scorer(triples, size)

    def forward(
        self, vectors: Tensor, entities: Candidates, labels: Tensor, asked: RelationQuestions, threshold: float
    ) -> RelationScores:
        """Entity vectors (B, E, D), relation vectors (B, R, D) -> scores. `threshold` is the least adjacency."""
        adjacency = None if self.adjacency is None else self.adjacency(vectors, entities.mask)
        pairs = asked.pairs
        if pairs is None:
            pairs = _pairs_of(entities.mask if adjacency is None else adjacency > threshold, entities.mask)
        if self.triples is None:
            logits = self._projected(vectors, pairs, labels)
        else:
            heads, tails = (_take(vectors, pairs.places[..., side]) for side in (0, 1))
            logits = _grouped(
                lambda of: self.triples(heads[:, of], labels, tails[:, of], pairs.mask[:, of]),  # type: ignore[misc]
                heads.shape[1],
                heads.shape[0] * heads.shape[2] * max(labels.shape[1], 1),
            )
        return RelationScores(logits, entities, pairs, asked.mask, adjacency)

    def _projected(self, vectors: Tensor, pairs: EntityPairs, labels: Tensor) -> Tensor:
        """The product of a pair's projection and a relation's vector.

        W1 splits into a half for heads and one for tails, applied per entity; W2 is applied to the relations.
        """
        first, last = self.pairs.first, self.pairs.last
        head_half, tail_half = first.weight.chunk(2, dim=1)
        heads, tails = F.linear(vectors, head_half), F.linear(vectors, tail_half, first.bias)
        weights, bias = (labels @ last.weight).transpose(1, 2), (labels @ last.bias).unsqueeze(1)

        def scored(of: slice) -> Tensor:
            hidden = F.relu(_take(heads, pairs.places[:, of, 0]) + _take(tails, pairs.places[:, of, 1]))
            return cast(Tensor, self.pairs.dropout(hidden) @ weights + bias)

        return _grouped(scored, pairs.places.shape[1], heads.shape[0] * heads.shape[2])


class _Dot(nn.Module):
    """sigmoid(X X^T)."""

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        return _masked(_products(vectors), mask)


class _Mlp(nn.Module):
    """sigmoid of an MLP of both vectors; its first layer splits into halves, applied per entity."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * size, size), nn.ReLU(), nn.Linear(size, 1))

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        first, last = cast(nn.Linear, self.mlp[0]), self.mlp[2]
        head_half, tail_half = first.weight.chunk(2, dim=1)
        heads, tails = F.linear(vectors, head_half).unsqueeze(2), F.linear(vectors, tail_half, first.bias).unsqueeze(1)
        logits = _grouped(lambda of: last(F.relu(heads[:, of] + tails)).squeeze(-1), heads.shape[1], tails.numel())
        return _masked(torch.sigmoid(logits), mask)


class _Attention(nn.Module):
    """The weights that entities give each other, averaged over heads: no sigmoid, and each row sums to 1."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(size, _HEADS, batch_first=True)

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        return _masked(_attended(self.attn, vectors, mask)[1], mask)


class _Bilinear(nn.Module):
    """sigmoid(Z Z^T) of projected vectors Z."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(size, size)

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        return _masked(_products(self.proj(vectors)), mask)


class _GraphConvolution(nn.Module):
    """ReLU of a linear layer after one symmetrically normalised step over the graph (Kipf & Welling, 2017)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, vectors: Tensor, graph: Tensor) -> Tensor:
        scale = graph.sum(dim=-1).clamp_min(1e-6).pow(-0.5)
        return F.relu(self.linear((graph * scale.unsqueeze(2) * scale.unsqueeze(1)) @ vectors))


class _Gcn(nn.Module):
    """sigmoid(Z Z^T) of vectors that have seen their neighbours in the graph of `_Dot`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gcn = _GraphConvolution(size)
        self.proj = nn.Linear(size, size)

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        graph = _masked(_products(vectors), mask) + torch.diag_embed(mask.to(vectors.dtype))
        return _masked(_products(self.proj(self.gcn(vectors, graph))), mask)


class _Gat(nn.Module):
    """sigmoid(Z Z^T) of vectors that have attended to each other."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(size, _HEADS, batch_first=True)
        self.linear = nn.Linear(size, size)

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        return _masked(_products(self.linear(_attended(self.attn, vectors, mask)[0])), mask)


def adjacency_of(kind: Adjacency, size: int) -> nn.Module:
    """The module of a published `relations_layer`: vectors (B, E, D), mask (B, E) -> probabilities (B, E, E)."""
    if kind == "dot":
        return _Dot()
    kinds = {"mlp": _Mlp, "attention": _Attention, "bilinear": _Bilinear, "gcn": _Gcn, "gat": _Gat}
    return kinds[kind](size)


def _products(vectors: Tensor) -> Tensor:
    return torch.sigmoid(vectors @ vectors.transpose(1, 2))


def _masked(adjacency: Tensor, mask: Tensor) -> Tensor:
    return adjacency.masked_fill(~(mask.unsqueeze(2) & mask.unsqueeze(1)), 0.0)


def _attended(attention: nn.MultiheadAttention, vectors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """States and mean weights. A row without entities looks at its padding: a softmax over nothing is no number."""
    ignored = ~mask & mask.any(dim=1, keepdim=True)
    states, weights = attention(vectors, vectors, vectors, key_padding_mask=ignored, need_weights=True)
    return states, weights


def _pairs_of(linked: Tensor, mask: Tensor) -> EntityPairs:
    """The ordered pairs of different entities that are linked (B, E, E), or of all real ones (B, E)."""
    square = mask.unsqueeze(2) & mask.unsqueeze(1)
    square = square & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    if linked.dim() == 3:
        square = square & linked
    row, head, tail = square.nonzero(as_tuple=True)
    return EntityPairs(*in_rows(row, torch.stack([head, tail], dim=1), len(mask)))


def _take(vectors: Tensor, places: Tensor) -> Tensor:
    """Vectors (B, E, D) at places (B, P) -> (B, P, D)."""
    return vectors.gather(1, places.unsqueeze(-1).expand(-1, -1, vectors.shape[-1]))


def _grouped(scored: Callable[[slice], Tensor], number: int, cost: int) -> Tensor:
    """`scored` of slices along dimension 1, so that memory does not grow with the number of pairs."""
    group = max(_CELLS // max(cost, 1), 1)
    return torch.cat([scored(slice(start, start + group)) for start in range(0, max(number, 1), group)], dim=1)
