"""Configurations drawn at random, the same weights in both: the same logits, entities, losses, gradients, and folders.

A few in `make test`; `make parity` draws 160, or as many as SPANWRIGHT_PARITY_CASES says, by SPANWRIGHT_PARITY_SEED.
Where gliner's answers depend on what else is in a batch, ours do not (test_departures.py shows each), and rows are
compared one by one: span modes markerV1 and markerV2, fused layers (of a bi-encoder's labels, too: one label), and
span heads, which are shown spans in the padding.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
import torch

from spanwright import DecodeOptions, Extractor, modes
from spanwright.encoding import Row
from spanwright.losses import span_loss
from spanwright.tensors import Candidates, SpanScores, Targets
from spanwright.train_config import LossOptions
from support.compare import compare_gradients, gold_spans, sentences
from support.loop import still
from support.peer import assert_same_entities, hangs_on_a_tie, largest_logit, peer_batch
from support.tiny import FAMILIES, SPAN_MODES, bi_encoder, logits_of, tiny_extractor

SEED = os.environ.get("SPANWRIGHT_PARITY_SEED", "0")
CASES = int(os.environ.get("SPANWRIGHT_PARITY_CASES", "10"))
SCHEMAS = ["", "", "l2l-t2t", "l2t-t2l", "l2l-t2t-l2t-t2l", "t2l"]
LABELS = ("politician", "political party", "country", "event", "organisation", "location")


def draw(seed: str) -> tuple[str, dict[str, Any]]:
    """A family and changes to the tiny configuration."""
    rng = random.Random(seed)
    family = rng.choice(FAMILIES)
    changes: dict[str, Any] = {
        "subtoken_pooling": rng.choice(["first", "last", "mean", "max"]),
        "num_rnn_layers": rng.randrange(3),
        "label_at_marker": rng.random() < 0.7,
        "max_width": rng.randint(2, 6),
        "hidden_size": rng.choice([24, 32, 40]),
        "fuse_layers": rng.random() < 0.25,
        "span_mode": rng.choice(SPAN_MODES),
    }
    kind = rng.choice(["uni span", "uni span", "uni token", "token with head", "bi span", "bi token"])
    if "token" in kind:
        changes["span_mode"] = "token_level"
        changes["span_head"] = kind == "token with head"
    if kind.startswith("bi"):
        changes |= bi_encoder(rng.choice(FAMILIES), fusion=rng.choice(SCHEMAS), num_fusion_layers=rng.randint(1, 2))
    return family, changes


@pytest.fixture
def pair(request, tmp_path, load_peer):
    family, changes = draw(f"{SEED}/{request.param}")
    extractor = tiny_extractor(family, seed=request.param, dropout=0.0, **changes)
    extractor.save(tmp_path / "model")
    peer = load_peer(tmp_path / "model")
    still(extractor.model)
    still(peer.model)
    return extractor, peer, request.param


cases = pytest.mark.parametrize("pair", range(CASES), indirect=True)


def groups(extractor, words):
    """The batches in which both can be compared."""
    config = extractor.model.config
    neighbours_matter = config.span_mode in ("markerV1", "markerV2") or config.fuse_layers or config.span_head
    return [[row] for row in words] if neighbours_matter else [words]


def asked(extractor):
    """The labels for which both can be compared."""
    config = extractor.model.config
    return LABELS[:1] if config.fuse_layers and config.is_bi_encoder else LABELS


def assert_near(logits, expected):
    """Within 1e-5 of the largest: a small one is a sum of large terms that nearly cancel, rounded in another order."""
    largest = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(logits, expected, atol=1e-5 * max(largest, 1.0), rtol=0)


@cases
def test_logits(pair):
    extractor, peer, case = pair
    for words in groups(extractor, sentences(f"{SEED}/{case}", 6)):
        batch = extractor.encoder.encode([Row(tuple(row), asked(extractor)) for row in words])
        theirs = peer_batch(peer, words, asked(extractor))
        assert torch.equal(batch.input_ids, theirs["input_ids"])
        with modes.inference(extractor.model), torch.no_grad():
            scores = extractor.model(batch)
            expected = peer.model(**theirs)
        real = scores.cell_mask().expand_as(scores.logits)
        assert_near(scores.logits[real], expected.logits[real])
        if extractor.model.config.span_head:
            assert torch.equal(scores.candidates.mask, expected.span_mask.bool())
            kept = scores.candidates.mask
            assert torch.equal(scores.candidates.bounds[kept], expected.span_idx[kept])
            assert_near(scores.head_logits[kept], expected.span_logits[kept])


@cases
def test_entities(pair):
    extractor, peer, case = pair
    texts = [" ".join(row) for row in sentences(f"{SEED}/{case}/entities", 6)]
    for way in range(4):
        options = DecodeOptions(
            threshold=(0.5, 0.4, 0.6, 0.3)[way], overlap="nested" if way % 2 else "flat", multi_label=way > 1
        )
        for text in texts:
            found = extractor.extract(text, asked(extractor), options)
            expected = peer.inference(
                [text],
                list(asked(extractor)),
                flat_ner=options.overlap == "flat",
                threshold=options.threshold,
                multi_label=options.multi_label,
            )[0]
            assert_same_entities(
                found,
                expected,
                lambda t=text, o=options: hangs_on_a_tie(extractor, t, asked(extractor), o.threshold),
                lambda t=text: largest_logit(extractor, t, asked(extractor)),
            )


@cases
def test_losses_and_gradients(pair):
    """From gliner's own targets: they are made anew here, and must be the same."""
    extractor, peer, case = pair
    rng = random.Random(f"{SEED}/{case}/loss")
    words = sentences(f"{SEED}/{case}/loss", 4)
    words = groups(extractor, words)[0]
    gold = gold_spans(extractor, words, asked(extractor), rng)
    theirs = peer_batch(peer, words, asked(extractor), gold)
    rows = [Row(tuple(row), asked(extractor)) for row in words]
    batch, targets = extractor.encoder.encode_with_targets(rows, gold, seed="")
    assert torch.equal(batch.input_ids, theirs["input_ids"])
    if extractor.model.config.span_head:
        mask = theirs["span_mask"].bool()
        head = theirs["span_labels"].float()
        batch = type(batch)(**{**fields_of(batch), "candidates": Candidates(theirs["span_idx"], mask)})
        targets = Targets(targets.values, targets.num_cells, head)
    expected_values = theirs["labels"].float()
    if isinstance(extractor.model(batch), SpanScores):
        expected_values = expected_values.view_as(targets.values)
    assert torch.equal(expected_values, targets.values)
    for options in (LossOptions(reduction="sum"), LossOptions(reduction="sum", focal_alpha=0.75, focal_gamma=2.0)):
        loss = span_loss(extractor.model(batch), targets, options).total
        output = peer.model(**theirs, alpha=options.focal_alpha, gamma=options.focal_gamma, reduction="sum")
        assert loss.item() == pytest.approx(output.loss.item(), rel=1e-5, abs=1e-5)
        extractor.model.zero_grad()
        peer.model.zero_grad()
        loss.backward()
        output.loss.backward()
        compare_gradients(extractor, peer)


def fields_of(batch):
    return {name: getattr(batch, name) for name in type(batch).__dataclass_fields__}


@cases
def test_folders_go_both_ways(pair, tmp_path):
    extractor, peer, case = pair
    peer.save_pretrained(str(tmp_path / "theirs"), safe_serialization=case % 2 == 0)
    back = Extractor.from_pretrained(tmp_path / "theirs", device="cpu")
    returned = back.model.state_dict()
    for name, value in extractor.model.state_dict().items():
        assert torch.equal(value, returned[name]), name
    words = sentences(f"{SEED}/{case}", 1)[0]
    found, expected = (logits_of(each, words, asked(extractor)) for each in (back, extractor))
    # attention may be another kernel: gliner writes which
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(expected.abs().max().item(), 1.0))
