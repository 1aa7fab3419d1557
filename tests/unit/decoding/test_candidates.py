import math

import torch

from spanwright.config import DecodeOptions
from spanwright.decoding import candidates
from spanwright.tensors import SpanScores


def logit(score):
    return math.log(score / (1 - score))


def scores(cells, *, words=(3, 2), labels=(2, 1), width=2):
    """Scores of two rows; `cells` maps (row, start, width - 1, column) to a score, all others are near 0."""
    logits = torch.full((2, max(words), width, max(labels)), -20.0)
    for place, score in cells.items():
        logits[place] = logit(score)
    word_mask = torch.arange(max(words))[None] < torch.tensor(words)[:, None]
    label_mask = torch.arange(max(labels))[None] < torch.tensor(labels)[:, None]
    return SpanScores(logits, word_mask, label_mask)


NAMES = [("person", "city"), ("country",)]


def test_spans_above_the_threshold_in_the_order_of_starts_widths_columns():
    found = candidates(
        scores({(0, 1, 0, 1): 0.9, (0, 0, 1, 0): 0.8, (0, 0, 1, 1): 0.7, (1, 1, 0, 0): 0.6}), NAMES, DecodeOptions()
    )
    assert [[(s.start, s.end, s.label, round(s.score, 5)) for s in row] for row in found] == [
        [(0, 2, "person", 0.8), (0, 2, "city", 0.7), (1, 2, "city", 0.9)],
        [(1, 2, "country", 0.6)],
    ]


def test_the_threshold_is_strict():
    given = scores({})
    given.logits[0, 0, 0, 0] = 0.0  # a score of exactly 0.5
    assert candidates(given, NAMES, DecodeOptions()) == [[], []]
    assert len(candidates(given, NAMES, DecodeOptions(threshold=0.4999))[0]) == 1


def test_what_is_not_real_is_never_found():
    beyond_the_words = {(1, 2, 0, 0): 0.9, (1, 1, 1, 0): 0.9, (0, 2, 1, 0): 0.9}
    no_such_label = {(1, 0, 0, 1): 0.9}
    assert candidates(scores(beyond_the_words | no_such_label), NAMES, DecodeOptions()) == [[], []]


def test_a_threshold_for_each_label():
    given = scores({(0, 0, 0, 0): 0.6, (0, 1, 0, 1): 0.6, (1, 0, 0, 0): 0.6})
    found = candidates(given, NAMES, DecodeOptions(threshold={"person": 0.7, "country": 0.1}))
    assert [[span.label for span in row] for row in found] == [["city"], ["country"]]  # city: 0.5 by default
