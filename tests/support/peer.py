"""Asking gliner itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from spanwright import modes
from spanwright.encoding import Row

# Logits agree within 1e-5, scores thus within a quarter of it, and two scores may move towards each other.
_TIE = 5e-6


def peer_batch(peer, words, labels, gold=None):
    """The tensors that gliner makes of rows of words, with its own targets where gold spans are given."""
    collate = peer.data_collator_class(
        peer.config,
        data_processor=peer.data_processor,
        return_tokens=True,
        return_entities=True,
        return_id_to_classes=True,
        prepare_labels=gold is not None,
    )
    spans = gold or [[] for _ in words]
    rows = [
        {"tokenized_text": list(w), "ner": [[s.start, s.end - 1, s.label] for s in g]}
        for w, g in zip(words, spans, strict=True)
    ]
    batch = collate(rows, entity_types=[list(labels)] * len(rows) if gold is not None else list(labels))
    return {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}


def assert_same_entities(found, expected, tied: Callable[[], bool], largest: Callable[[], float] = lambda: 4.0) -> bool:
    """Entities of ours and dictionaries of gliner say the same: True. Where they do not, it must hang on a tie.

    Scores are as near as logits are, 1e-5 of the `largest`: the slope of a sigmoid is at most a quarter.
    """
    same = [(e.start, e.end, e.text, e.label) for e in found] == [
        (e["start"], e["end"], e["text"], e["label"]) for e in expected
    ]
    if same:
        assert [e.score for e in found] == pytest.approx(
            [e["score"] for e in expected], abs=1e-5 / 4 * max(largest(), 4.0)
        )
    else:
        assert tied(), (found, expected)
    return same


def largest_logit(extractor, text, labels) -> float:
    """The largest size of a logit of a text."""
    words = tuple(word.text for word in extractor.split_words(text))
    with modes.inference(extractor.model):
        scores = extractor.model(extractor.encoder.encode([Row(words, tuple(labels))]))
    values = [c.logits[c.real.expand_as(c.logits)].abs() for c in scores.cells()]
    return torch.cat([value.flatten() for value in values]).max().item()


def hangs_on_a_tie(extractor, text, labels, threshold) -> bool:
    """Whether two scores, or a score and the threshold, are too close for float32 to keep their order."""
    words = tuple(word.text for word in extractor.split_words(text))
    with modes.inference(extractor.model):
        scores = extractor.model(extractor.encoder.encode([Row(words, tuple(labels))]), threshold)
    values = torch.cat([torch.sigmoid(c.logits[c.real.expand_as(c.logits)]) for c in scores.cells()])
    values = values[values > threshold - _TIE].sort().values
    close = len(values) > 1 and values.diff().min() < _TIE
    return bool(close or (values - threshold).abs().min() < _TIE)
