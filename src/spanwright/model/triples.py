"""How well a head, a relation and a tail fit: scores of knowledge graphs, as published relation models name them.

Each takes heads (B, P, D), relations (B, R, D), tails (B, P, D), mask (B, P) of the pairs that are real, and gives
(B, P, R). Those that learn have the size of the model's vectors; gliner builds them for 768 and fails with any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spanwright.config import TripleScore

_FARTHEST = 10.0  # distances are not told apart beyond it
_FILTERS = 32
_WIDE = 2048

Scored = Callable[[Tensor, Tensor, Tensor], Tensor]


class _Plain(nn.Module):
    """A score without parameters, of (B, P, 1, D), (B, 1, R, D), (B, P, 1, D)."""

    def __init__(self, score: Scored) -> None:
        super().__init__()
        self._score = score

    def forward(self, heads: Tensor, relations: Tensor, tails: Tensor, mask: Tensor) -> Tensor:
        scores: Tensor = self._score(heads.unsqueeze(2), relations.unsqueeze(1), tails.unsqueeze(2))
        return scores


def _nearness(difference: Tensor, norm: int = 2) -> Tensor:
    """Minus the distance, which is bounded."""
    distance: Tensor = torch.linalg.vector_norm(difference, ord=norm, dim=-1)
    return -distance.clamp(max=_FARTHEST)


def _simple(head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
    (h, h_inverse), (r, r_inverse), (t, t_inverse) = (x.chunk(2, dim=-1) for x in (head, relation, tail))
    return 0.5 * ((h * r * t_inverse).sum(dim=-1) + (t * r_inverse * h_inverse).sum(dim=-1))


def _complex(head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
    (h, h_i), (r, r_i), (t, t_i) = (x.chunk(2, dim=-1) for x in (head, relation, tail))
    return (h * r * t + h * r_i * t_i + h_i * r * t_i - h_i * r_i * t).sum(dim=-1)


def _quaternion(head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
    """The Hamilton product of head and relation, times the tail."""
    h, i, j, k = head.chunk(4, dim=-1)
    r, r_i, r_j, r_k = relation.chunk(4, dim=-1)
    mixed = (
        h * r - i * r_i - j * r_j - k * r_k,
        h * r_i + i * r + j * r_k - k * r_j,
        h * r_j - i * r_k + j * r + k * r_i,
        h * r_k + i * r_j - j * r_i + k * r,
    )
    scored: Tensor = (torch.cat(mixed, dim=-1) * tail).sum(dim=-1)
    return scored


def _holographic(head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
    """The circular correlation of head and tail, times the relation; in float32, as the transform needs it."""
    h, t = torch.fft.rfft(head.float(), dim=-1), torch.fft.rfft(tail.float(), dim=-1)
    correlation = torch.fft.irfft(h.conj() * t, n=head.shape[-1], dim=-1)
    scores: Tensor = (correlation * relation.float()).sum(dim=-1)
    return scores.to(head.dtype)


_PLAIN: dict[str, Scored] = {
    "UM": lambda h, r, t: _nearness(h - t + 0 * r),
    "SE": lambda h, r, t: _nearness(r * h - r * t),
    "TransE": lambda h, r, t: _nearness(h + r - t, norm=1),
    "DistMult": lambda h, r, t: (h * r * t).sum(dim=-1),
    "DistMA": lambda h, r, t: (h * r + h * t + r * t).sum(dim=-1),
    "SimplE": _simple,
    "ComplEx": _complex,
    "QuatE": _quaternion,
    "HolE": _holographic,
}


class _TransH(nn.Module):
    """Both projected onto a plane of the relation, and moved by it (Wang et al., 2014)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.r_to_rtr, self.r_to_w = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, heads: Tensor, relations: Tensor, tails: Tensor, mask: Tensor) -> Tensor:
        normal = F.normalize(self.r_to_w(relations), dim=-1).unsqueeze(1)
        head, tail = (
            x - (x * normal).sum(dim=-1, keepdim=True) * normal for x in (heads.unsqueeze(2), tails.unsqueeze(2))
        )
        return _nearness(head + self.r_to_rtr(relations).unsqueeze(1) - tail)


class _PairRE(nn.Module):
    """Head and tail scaled feature by feature as the relation says, and the distance between them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.r_to_alpha, self.r_to_beta = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, heads: Tensor, relations: Tensor, tails: Tensor, mask: Tensor) -> Tensor:
        head = self.r_to_alpha(relations).unsqueeze(1) * heads.unsqueeze(2)
        tail = self.r_to_beta(relations).unsqueeze(1) * tails.unsqueeze(2)
        return _nearness(head - tail)


class _TransF(nn.Module):
    """As PairRE, with a translation; a new one begins as TransE."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.r_to_rvec = nn.Linear(size, size)
        self.r_to_alpha, self.r_to_beta = nn.Linear(size, size), nn.Linear(size, size)
        nn.init.eye_(self.r_to_rvec.weight)
        nn.init.zeros_(self.r_to_rvec.bias)
        for layer in (self.r_to_alpha, self.r_to_beta):
            nn.init.zeros_(layer.weight)
            nn.init.ones_(layer.bias)

    def forward(self, heads: Tensor, relations: Tensor, tails: Tensor, mask: Tensor) -> Tensor:
        head = self.r_to_alpha(relations).unsqueeze(1) * heads.unsqueeze(2)
        tail = self.r_to_beta(relations).unsqueeze(1) * tails.unsqueeze(2)
        return _nearness(head + self.r_to_rvec(relations).unsqueeze(1) - tail)


class _TripleRE(nn.Module):
    """As PairRE, with a translation and a weight of the relation."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.r_to_alpha, self.r_to_beta = nn.Linear(size, size), nn.Linear(size, size)
        self.r_to_delta, self.r_to_gamma = nn.Linear(size, size), nn.Linear(size, 1)

    def forward(self, heads: Tensor, relations: Tensor, tails: Tensor, mask: Tensor) -> Tensor:
        head = self.r_to_alpha(relations).unsqueeze(1) * heads.unsqueeze(2)
        tail = self.r_to_beta(relations).unsqueeze(1) * tails.unsqueeze(2)
        weight: Tensor = self.r_to_gamma(relations).transpose(1, 2)
        return weight * _nearness(head + self.r_to_delta(relations).unsqueeze(1) - tail)


class _Tucker(nn.Module):
    """The product of head, relation and tail with a core tensor W (D, D, D) (Balazevic et al., 2019).

    score = sum over k, i, j of h_k r_i W_kij t_j: gliner's answer to a single triple; of several, it mixes the rows.
    Batch statistics are those of the real pairs.
    """

    def __init__(self, size: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(size, size, size))
        nn.init.xavier_uniform_(self.W)
        self.bn0, self.bn1 = nn.BatchNorm1d(size), nn.BatchNorm1d(size)
        self.dropout, self.input_dropout = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, heads: Tensor, relations: Tensor, tails: Tensor, mask: Tensor) -> Tensor:
        core = self.dropout(torch.einsum("bri,kij->brkj", relations, self.W))
        head, tail = (self._normalised(norm, x, mask) for norm, x in ((self.bn0, heads), (self.bn1, tails)))
        return torch.einsum("bpk,brkj,bpj->bpr", head, core, tail)

    def _normalised(self, norm: nn.BatchNorm1d, vectors: Tensor, mask: Tensor) -> Tensor:
        real = vectors[mask]
        if norm.training and len(real) < 2:  # no deviation can be taken of one
            return vectors
        normal = torch.zeros_like(vectors)
        normal[mask] = norm(real).to(vectors.dtype)
        dropped: Tensor = self.input_dropout(normal)
        return dropped


class _Perceptron(nn.Module):
    """An MLP of all three; its first layer splits into thirds, each applied before they meet."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3 * size, _WIDE), nn.ReLU(), nn.Linear(_WIDE, 1))

    def forward(self, heads: Tensor, relations: Tensor, tails: Tensor, mask: Tensor) -> Tensor:
        first, inner, last = cast(nn.Linear, self.mlp[0]), self.mlp[1], self.mlp[2]
        of_head, of_relation, of_tail = first.weight.chunk(3, dim=1)
        by_pair = F.linear(heads, of_head) + F.linear(tails, of_tail, first.bias)
        hidden = inner(by_pair.unsqueeze(2) + F.linear(relations, of_relation).unsqueeze(1))
        scores: Tensor = last(hidden).squeeze(-1)
        return scores


class _Convolution(nn.Module):
    """Filters over the three values of each feature (Nguyen et al., 2018)."""

    def __init__(self, size: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.conv = nn.Conv1d(3, _FILTERS, 1)
        self.fc = nn.Linear(_FILTERS * size, 1)

    def forward(self, heads: Tensor, relations: Tensor, tails: Tensor, mask: Tensor) -> Tensor:
        of_head, of_relation, of_tail = self.conv.weight.squeeze(-1).unbind(dim=1)
        bias = cast(Tensor, self.conv.bias)
        by_pair = torch.einsum("bpd,f->bpfd", heads, of_head) + torch.einsum("bpd,f->bpfd", tails, of_tail)
        by_relation = torch.einsum("brd,f->brfd", relations, of_relation) + bias[:, None]
        mapped = F.relu(by_pair.unsqueeze(2) + by_relation.unsqueeze(1)).flatten(3)
        scores: Tensor = self.fc(self.dropout(mapped)).squeeze(-1)
        return scores


def triple_scorer(kind: TripleScore, size: int) -> nn.Module:
    """The module of a published `triples_layer`."""
    if kind in _PLAIN:
        return _Plain(_PLAIN[kind])
    learning: dict[str, Callable[[int], nn.Module]] = {
        "TransH": _TransH,
        "TransF": _TransF,
        "PairRE": _PairRE,
        "TripleRE": _TripleRE,
        "TuckER": _Tucker,
        "ERMLP": _Perceptron,
        "ConvKB": _Convolution,
    }
    return learning[kind](size)
