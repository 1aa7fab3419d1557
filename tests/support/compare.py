"""What comparisons with gliner share: real sentences, random gold, and gradients parameter by parameter."""

from __future__ import annotations

import random

import torch

from spanwright import Span
from spanwright.checkpoint.published import to_published
from spanwright.data.load import load_examples


def sentences(seed: str, number: int) -> list[list[str]]:
    """Real sentences, of CrossNER politics, some cut short."""
    rng = random.Random(seed)
    examples = load_examples("examples/data/crossner_politics/train.jsonl").examples
    return [example.word_texts[: rng.choice([1, 3, 8, 40, 40])] for example in rng.sample(examples, number)]


def gold_spans(extractor, words, labels, rng, *, every=0.4):
    """Random gold spans that do not cross, of labels asked, within reach."""
    gold = []
    for row in words:
        spans, start = [], 0
        while start < len(row):
            end = min(start + rng.randint(1, extractor.model.config.reach or 5), len(row))
            if rng.random() < every:
                spans.append(Span(start, end, rng.choice(labels)))
            start = end
        gold.append(spans)
    return gold


def compare_gradients(extractor, peer):
    theirs = dict(peer.model.named_parameters())
    largest = max(p.grad.abs().max().item() for p in extractor.model.parameters() if p.grad is not None)
    compared = 0
    for name, parameter in extractor.model.named_parameters():
        if parameter.grad is None:
            continue
        expected = theirs[to_published(name)].grad
        assert expected is not None, name
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-4, atol=1e-5 * max(largest, 1.0), msg=lambda m, n=name: f"{n}: {m}"
        )
        compared += 1
    assert compared > 10
