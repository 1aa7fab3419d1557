from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spanwright.config import DecodeOptions
from spanwright.decoding import Selection, named, resolve, selection
from spanwright.tensors import SpanScores

NAMES = [("a", "b", "c"), ("a", "b"), ("a",)]


def scores(seed):
    generator = torch.Generator().manual_seed(seed)
    word_mask = torch.arange(6)[None] < torch.tensor([6, 2, 4])[:, None]
    label_mask = torch.arange(3)[None] < torch.tensor([3, 2, 1])[:, None]
    return SpanScores(torch.randn(3, 6, 4, 3, generator=generator) * 2, word_mask, label_mask)


@pytest.mark.parametrize("threshold", [0.5, 0.9, {"a": 0.3, "b": 0.99}])
@pytest.mark.parametrize("seed", range(3))
def test_what_has_a_fixed_size_holds_the_same(seed, threshold):
    drawn, options = scores(seed), DecodeOptions(threshold=threshold)
    row, first, last, column, score = Selection(drawn, NAMES, options).arrays()
    assert len(row) > 0
    table = selection._bounded(drawn, NAMES, options, 64).numpy()
    assert table[0] == len(row)
    found = np.unravel_index(table[1 : 1 + len(row)].astype(int), drawn.logits.shape)
    assert [found[0].tolist(), found[1].tolist(), found[3].tolist()] == [row.tolist(), first.tolist(), column.tolist()]
    assert (found[1] + found[2]).tolist() == last.tolist()
    assert table[65 : 65 + len(row)].tolist() == score.tolist()


def test_more_than_there_is_room_for_is_counted():
    drawn, options = scores(0), DecodeOptions(threshold=0.1)
    total = len(Selection(drawn, NAMES, options).arrays()[0])
    table = selection._bounded(drawn, NAMES, options, 5)
    assert table[0] == total > 5
    assert len(table) == 11


def test_nothing_found_is_nothing():
    found = Selection(scores(0), NAMES, DecodeOptions(threshold=1.0)).arrays()
    assert [len(each) for each in found] == [0] * 5


@settings(max_examples=300)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.2, 0.5, {"a": 0.3, "b": 0.7}]), st.booleans())
def test_what_is_beaten_is_never_missed(seed, threshold, many_ties):
    """The spans that `resolve` keeps are the same without those that hold a better one, ties included."""
    given_scores, options = scores(seed), DecodeOptions(threshold=threshold)
    if many_ties:
        given_scores = replace(given_scores, logits=given_scores.logits.round())
    whole, some = (named(Selection(given_scores, NAMES, options, whole=w).arrays(), NAMES) for w in (True, False))
    for all_of_row, few in zip(whole, some, strict=True):
        assert set(few) <= set(all_of_row)
        assert resolve(few, options) == resolve(all_of_row, options)
    assert sum(map(len, some)) < sum(map(len, whole)) or sum(map(len, whole)) < 4
    for other in (DecodeOptions(threshold=threshold, overlap="nested"), DecodeOptions(threshold, multi_label=True)):
        found = Selection(given_scores, NAMES, other, whole=False).arrays()
        assert len(found[0]) == sum(map(len, whole))
