"""Spans of token scores, against the rule written down as loops."""

from __future__ import annotations

import time

import torch
from hypothesis import given
from hypothesis import strategies as st

from spanwright.config import DecodeOptions
from spanwright.decoding import Selection, candidates, named, resolve
from spanwright.pairs import pairs, spans_in
from spanwright.tensors import TokenScores


def drawn(seed: int, counts: list[tuple[int, int]]) -> TokenScores:
    """Scores of rows of these numbers of words and labels."""
    words, labels = (max(column) for column in zip(*counts, strict=True))
    logits = torch.randn(len(counts), words, labels, 3, generator=torch.Generator().manual_seed(seed)) + 0.5
    sizes = torch.tensor(counts)
    return TokenScores(logits, torch.arange(words)[None] < sizes[:, :1], torch.arange(labels)[None] < sizes[:, 1:])


def by_hand(scores: TokenScores, threshold: float, strict: bool) -> list[tuple[int, int, int, int, float]]:
    found = []
    for b, row in enumerate(torch.sigmoid(scores.logits).tolist()):
        words, labels = int(scores.word_mask[b].sum()), int(scores.label_mask[b].sum())
        for start in range(words):
            for c in range(labels):
                for end in range(start, words):
                    inside = [row[w][c][2] for w in range(start, end + 1)]
                    whole = all(value > threshold if strict else value >= threshold for value in inside)
                    if row[start][c][0] > threshold and row[end][c][1] > threshold and whole:
                        found.append((b, start, end, c, min(*inside, row[start][c][0], row[end][c][1])))
    return found


@given(
    seed=st.integers(0, 10**6),
    counts=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=3),
    threshold=st.sampled_from([0.2, 0.5, 0.7]),
    strict=st.booleans(),
)
def test_equals_the_rule_as_loops(seed, counts, threshold, strict):
    scores = drawn(seed, counts)
    found = pairs(scores, threshold, strict_inside=strict)
    columns = (found.row, found.first, found.last, found.column, found.score)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == by_hand(scores, threshold, strict)


def test_what_a_span_head_is_shown():
    scores = drawn(3, [(6, 2), (2, 1)])
    shown = spans_in(scores, 0.5)
    expected = [(b, first, last) for b, first, last, _, _ in by_hand(scores, 0.5, True)]
    assert [(b, *shown.bounds[b, n].tolist()) for b, n in shown.mask.nonzero().tolist()] == expected
    nothing = spans_in(scores, 0.9999)
    assert nothing.bounds.shape == (2, 1, 2)
    assert not nothing.mask.any()


def test_dense_scores_of_400_words_and_10_labels_are_decoded_at_once():
    logits = torch.full((1, 400, 10, 3), 3.0)
    mask = torch.ones(1, 400, dtype=torch.bool)
    before = time.process_time()
    scores = TokenScores(logits, mask, torch.ones(1, 10, dtype=torch.bool))
    assert len(pairs(scores, 0.5).row) == 10 * 400 * 401 // 2
    assert time.process_time() - before < 5  # loops over pairs take ten seconds and more
    assert len(candidates(scores, [[str(n) for n in range(10)]], DecodeOptions(threshold=0.99))[0]) == 0


@given(seed=st.integers(0, 10_000), levels=st.integers(2, 9), threshold=st.sampled_from([0.0, 0.3, 0.5, 0.8]))
def test_the_best_pairs_lead_to_the_same_spans(seed, levels, threshold):
    """Scores on few levels, so that many are equal and the order decides."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randint(1, levels, (2, 7, 3, 3), generator=generator) / levels
    counts = torch.tensor([[7], [4]])
    scores = TokenScores(torch.logit(level), torch.arange(7)[None] < counts, torch.arange(3)[None] < 3 - counts % 2)
    names, options = [("a", "b", "c"), ("a", "b", "c")], DecodeOptions(threshold=threshold)
    whole, best = (named(Selection(scores, names, options, whole=each).arrays(), names) for each in (True, False))
    assert [resolve(row, options) for row in best] == [resolve(row, options) for row in whole]
    assert all(set(few) <= set(all_) for few, all_ in zip(best, whole, strict=True))
    nested = DecodeOptions(threshold=threshold, overlap="nested")
    assert named(Selection(scores, names, nested, whole=False).arrays(), names) == whole
