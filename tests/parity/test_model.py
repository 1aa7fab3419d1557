"""The same weights, texts and labels: the same subtokens, logits and entities as gliner 0.2.29."""

from __future__ import annotations

import random

import pytest
import torch

from spanwright import DecodeOptions, Extractor, modes
from spanwright.encoding import Row
from support.peer import peer_batch
from support.tiny import FAMILIES, LABELS, SENTENCES, random_text, tiny_extractor

MANY_LABELS = tuple(f"{kind} {number}" for number in range(9) for kind in ("kind of thing", "person", "city"))[:25]
WAYS = [
    DecodeOptions(),
    DecodeOptions(threshold=0.3, overlap="nested"),
    DecodeOptions(threshold=0.6, multi_label=True),
    DecodeOptions(threshold=0.4, overlap="nested", multi_label=True),
]


def both(extractor, folder, load_peer):
    extractor.save(folder)
    return Extractor.from_pretrained(folder, device="cpu"), load_peer(folder)


def peer_logits(peer, words, labels):
    """The peer's network on the peer's own batch."""
    batch = peer_batch(peer, words, labels)
    with torch.no_grad():
        return batch, peer.model(**batch).logits


def our_logits(extractor, words, labels):
    batch = extractor.encoder.encode([Row(tuple(w), tuple(labels)) for w in words])
    with modes.inference(extractor.model):
        return batch, extractor.model(batch)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_rnn_layers": 0, "subtoken_pooling": "mean"},
        {"num_rnn_layers": 2, "subtoken_pooling": "last", "max_width": 6},
        {"subtoken_pooling": "max", "label_at_marker": False, "hidden_size": 32},
    ],
    ids=["plain", "mean", "two layers", "max"],
)
def test_subtokens_and_logits(family, changes, tmp_path, load_peer):
    ours, peer = both(tiny_extractor(family, **changes), tmp_path / "model", load_peer)
    words = [sentence.split() for sentence in SENTENCES]
    for labels in (LABELS, LABELS[:1], MANY_LABELS):
        batch, expected = peer_logits(peer, words, labels)
        encoded, scores = our_logits(ours, words, labels)
        assert torch.equal(encoded.input_ids, batch["input_ids"])
        cells = scores.cell_mask()
        difference = (scores.logits - expected).abs()[cells].max().item()
        assert difference <= 1e-5, difference


def has_ties(extractor, text) -> bool:
    """Whether two scores, or a score and a threshold, are too close for float32 to keep their order."""
    _, scores = our_logits(extractor, [[word.text for word in extractor.split_words(text)]], LABELS)
    values = torch.sigmoid(scores.logits[scores.cell_mask()]).sort().values
    close_to_threshold = min((values - threshold).abs().min() for threshold in (0.3, 0.4, 0.5, 0.6))
    return bool((values.diff().abs().min() if len(values) > 1 else 1) < 5e-7 or close_to_threshold < 5e-7)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert", "xlm-roberta"])
def test_entities(family, tmp_path, load_peer):
    ours, peer = both(tiny_extractor(family, seed=1), tmp_path / "model", load_peer)
    rng = random.Random(family)
    texts = [*SENTENCES, *(random_text(rng, rng.randint(1, 40)) for _ in range(30)), "naïve Ünïcode 東京 ½ ﷽ e-mail"]
    texts = [text for text in texts if not has_ties(ours, text)]
    assert len(texts) > 12
    found_any = 0
    for options in WAYS:
        found = ours.extract_many(texts, LABELS, options)
        expected = peer.inference(
            texts,
            list(LABELS),
            flat_ner=options.overlap == "flat",
            threshold=options.threshold,
            multi_label=options.multi_label,
        )
        for one, other in zip(found, expected, strict=True):
            assert [(e.start, e.end, e.text, e.label) for e in one] == [
                (e["start"], e["end"], e["text"], e["label"]) for e in other
            ]
            assert [e.score for e in one] == pytest.approx([e["score"] for e in other], abs=1e-5)
        found_any += sum(map(len, found))
    assert found_any > 50


def test_where_the_peer_is_wrong_about_zero_width_words(tmp_path, load_peer):
    """gliner-format.md 10.1, item 5: a word without subtokens shifts every later word there."""
    ours, peer = both(tiny_extractor("bert", seed=1), tmp_path / "model", load_peer)
    plain, marked = "Angela Merkel met Barack Obama", "\u200b Angela Merkel met Barack Obama"
    options = DecodeOptions(threshold=0.3)
    right = [(e.text, e.label, round(e.score, 4)) for e in ours.extract(plain, LABELS, options)]
    assert [(e.text, e.label, round(e.score, 4)) for e in ours.extract(marked, LABELS, options)] == right
    theirs = [(e["text"], e["label"]) for e in peer.inference([marked], list(LABELS), threshold=0.3)[0]]
    assert theirs != [(text, label) for text, label, _ in right]


def test_where_the_peer_is_wrong_about_markers_in_labels(tmp_path, load_peer):
    """Item 7: there, a marker inside a label becomes a label of its own and shifts those after it."""
    ours, peer = both(tiny_extractor("bert", seed=1), tmp_path / "model", load_peer)
    labels = ["person <<ENT>> x", "country"]
    _, scores = our_logits(ours, [SENTENCES[0].split()], labels)
    assert scores.logits.shape[-1] == 2
    _, theirs = peer_logits(peer, [SENTENCES[0].split()], labels)
    assert theirs.shape[-1] == 3


def test_a_model_with_the_script_splitter_still_opens_in_the_peer(tmp_path, load_peer):
    ours, peer = both(tiny_extractor("bert", word_splitter="script"), tmp_path / "model", load_peer)
    assert ours.model.config.word_splitter == "script"
    assert peer.config.words_splitter_type == "whitespace"
