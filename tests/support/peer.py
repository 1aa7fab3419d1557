"""Asking gliner itself."""

from __future__ import annotations

import torch


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
