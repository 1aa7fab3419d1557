"""The same words from a text, the same spans from the same logits, the same figures from the same spans as gliner."""

from __future__ import annotations

import os
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spanwright.config import DecodeOptions
from spanwright.decoding import Selection, candidates, named, resolve
from spanwright.entities import Span
from spanwright.evaluation.metrics import score
from spanwright.tensors import SpanScores, TokenScores
from spanwright.text import splitter

pytest.importorskip("gliner")

WAYS = [(overlap, multi_label) for overlap in ("flat", "nested") for multi_label in (False, True)]
CASES = 500 if "SPANWRIGHT_PARITY_CASES" in os.environ else 60  # of each of four ways, for spans and for tokens


def decode(scores, labels, options):
    """By all candidates and by those that an extractor asks for, which must come to the same."""
    found = [resolve(row, options) for row in candidates(scores, labels, options)]
    asked = named(Selection(scores, labels, options, whole=False).arrays(), labels)
    assert [resolve(row, options) for row in asked] == found
    return found


def random_scores(rng):
    """One to three rows of their own numbers of words and labels; half of the time with many equal scores."""
    rows = [(rng.randint(1, 9), rng.randint(1, 4)) for _ in range(rng.randint(1, 3))]
    words, labels = max(words for words, _ in rows), max(labels for _, labels in rows)
    logits = torch.randn(
        len(rows), words, rng.randint(1, 5), labels, generator=torch.Generator().manual_seed(rng.getrandbits(32))
    )
    if rng.random() < 0.5:
        logits = logits.round()
    counts = torch.tensor(rows)
    word_mask, label_mask = (torch.arange(most)[None] < counts[:, i, None] for i, most in enumerate((words, labels)))
    return SpanScores(logits, word_mask, label_mask), [tuple(f"label {c}" for c in range(number)) for _, number in rows]


@pytest.mark.parametrize(("overlap", "multi_label"), WAYS)
def test_spans_are_those_of_the_peer(overlap, multi_label):
    from gliner.decoding.decoder import SpanDecoder

    rng = random.Random(f"{overlap} {multi_label}")
    num_spans = 0
    for _ in range(CASES):
        scores, labels = random_scores(rng)
        threshold = rng.choice([0.0, 0.3, 0.5, 0.5, 0.7, 0.9])
        theirs = SpanDecoder(config=None).decode(
            [[""] * number for number in scores.word_mask.sum(dim=1).tolist()],
            [{column + 1: label for column, label in enumerate(names)} for names in labels],
            scores.logits,
            flat_ner=overlap == "flat",
            threshold=threshold,
            multi_label=multi_label,
        )
        ours = decode(scores, labels, DecodeOptions(threshold=threshold, overlap=overlap, multi_label=multi_label))
        assert [[(s.start, s.end, s.label, s.score) for s in row] for row in ours] == [
            [(s.start, s.end + 1, s.entity_type, s.score) for s in row] for row in theirs
        ]
        num_spans += sum(map(len, ours))
    assert num_spans > CASES  # it was not about nothing


@pytest.mark.parametrize(("overlap", "multi_label"), WAYS)
def test_spans_of_token_scores_are_those_of_the_peer(overlap, multi_label):
    from gliner.decoding.decoder import TokenDecoder

    rng = random.Random(f"tokens {overlap} {multi_label}")
    num_spans = 0
    for _ in range(CASES):
        words, labels = rng.randint(1, 9), rng.randint(1, 4)
        logits = torch.randn(1, words, labels, 3, generator=torch.Generator().manual_seed(rng.getrandbits(32))) + 0.5
        if rng.random() < 0.5:
            logits = logits.round()
        threshold = rng.choice([0.3, 0.5, 0.5, 0.7])
        names = [f"label {c}" for c in range(labels)]
        theirs = TokenDecoder(config=None).decode(
            [[""] * words],
            {column + 1: label for column, label in enumerate(names)},
            logits,
            flat_ner=overlap == "flat",
            threshold=threshold,
            multi_label=multi_label,
        )
        mask = torch.ones(1, words, dtype=torch.bool)
        scores = TokenScores(logits, mask, torch.ones(1, labels, dtype=torch.bool))
        ours = decode(scores, [names], DecodeOptions(threshold=threshold, overlap=overlap, multi_label=multi_label))
        assert [(s.start, s.end, s.label, pytest.approx(s.score, abs=2e-7)) for s in ours[0]] == [
            (s.start, s.end + 1, s.entity_type, s.score) for s in theirs[0]
        ]
        num_spans += len(ours[0])
    assert num_spans > CASES


@settings(max_examples=500)
@given(text=st.text(st.one_of(st.characters(), st.sampled_from("ab1é-_ .\u0301中า"))))
def test_words_are_those_of_the_peer(text):
    from gliner.data_processing.tokenizer import WhitespaceTokenSplitter

    ours = [(word.text, word.start, word.end) for word in splitter("whitespace")(text)]
    assert ours == list(WhitespaceTokenSplitter()(text))


def test_words_of_all_characters_are_those_of_the_peer():
    from gliner.data_processing.tokenizer import WhitespaceTokenSplitter

    text = "".join(f"a{chr(code)}b-{chr(code)} " for code in range(0x3100))
    ours = [(word.text, word.start, word.end) for word in splitter("whitespace")(text)]
    assert ours == list(WhitespaceTokenSplitter()(text))


spans = st.lists(st.builds(Span, st.integers(0, 4), st.integers(5, 7), st.sampled_from("ABC")), max_size=8)


@given(st.lists(st.tuples(spans, spans), max_size=5))
def test_figures_are_those_of_the_peer(examples):
    from gliner.evaluation.evaluator import BaseNEREvaluator

    gold, found = [g for g, _ in examples], [p for _, p in examples]
    theirs = [[[(s.start, s.end - 1, s.label) for s in row] for row in side] for side in (gold, found)]
    evaluator = BaseNEREvaluator(*theirs)
    micro = score(gold, found).micro
    figures = evaluator.compute_prf(*evaluator.transform_data())
    assert (micro.precision, micro.recall, micro.f1) == pytest.approx(tuple(figures.values()))
