import math

import torch
from hypothesis import given as given_that
from hypothesis import strategies as st

from spanwright.config import DecodeOptions
from spanwright.decoding import candidates
from spanwright.entities import ScoredSpan
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


def test_no_rows_and_no_labels_give_nothing():
    none = SpanScores(torch.zeros(0, 3, 2, 2), torch.ones(0, 3, dtype=torch.bool), torch.ones(0, 2, dtype=torch.bool))
    bare = SpanScores(torch.zeros(1, 3, 2, 0), torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 0, dtype=torch.bool))
    for threshold in (0.1, {"person": 0.1}):
        assert candidates(none, [], DecodeOptions(threshold=threshold)) == []
        assert candidates(bare, [()], DecodeOptions(threshold=threshold)) == [[]]


def test_scores_are_those_of_float32_to_the_bit():
    given = scores({(0, 0, 0, 0): 0.7})
    half = SpanScores(given.logits.bfloat16().requires_grad_(), given.word_mask, given.label_mask)
    (found,), _ = candidates(half, NAMES, DecodeOptions())
    assert found.score == torch.sigmoid(half.logits[0, 0, 0, 0].detach().float()).item()


@given_that(
    seed=st.integers(0, 10**6),
    rows=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=3),
    threshold=st.one_of(st.sampled_from([0.0, 0.5, 0.9]), st.dictionaries(st.sampled_from("ABC"), st.floats(0, 1))),
)
def test_equals_asking_every_cell(seed, rows, threshold):
    options = DecodeOptions(threshold=threshold)
    logits = torch.randn(len(rows), 4, 3, 3, generator=torch.Generator().manual_seed(seed))
    words, columns = (torch.tensor(counts) for counts in zip(*rows, strict=True))
    masks = torch.arange(4)[None] < words[:, None], torch.arange(3)[None] < columns[:, None]
    labels = ["ABC"[:number] for _, number in rows]
    expected = [
        [
            ScoredSpan(start, start + width, label, value)
            for start in range(number)
            for width in range(1, min(3, number - start) + 1)
            for column, label in enumerate(labels[row])
            for value in [torch.sigmoid(logits)[row, start, width - 1, column].item()]
            if value > torch.tensor(options.threshold_of(label)).item()  # a threshold is a float32, too
        ]
        for row, (number, _) in enumerate(rows)
    ]
    assert candidates(SpanScores(logits, *masks), labels, options) == expected
