"""The same weights, texts and labels: the same subtokens, logits and entities as gliner 0.2.29."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from spanwright import DecodeOptions, Extractor, modes
from spanwright.encoding import Row
from support.peer import assert_same_entities, hangs_on_a_tie, peer_batch
from support.tiny import FAMILIES, LABELS, SENTENCES, random_text, tiny_extractor

MANY_LABELS = tuple(f"{kind} {number}" for number in range(9) for kind in ("kind of thing", "person", "city"))[:25]
WAYS = [
    DecodeOptions(threshold=0.5),
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


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert", "xlm-roberta"])
def test_entities(family, tmp_path, load_peer):
    ours, peer = both(tiny_extractor(family, seed=1), tmp_path / "model", load_peer)
    rng = random.Random(family)
    texts = [*SENTENCES, *(random_text(rng, rng.randint(1, 40)) for _ in range(30)), "naïve Ünïcode 東京 ½ ﷽ e-mail"]
    found_any = agreed = 0
    for options in WAYS:
        found = ours.extract_many(texts, LABELS, options)
        expected = peer.inference(
            texts,
            list(LABELS),
            flat_ner=options.overlap == "flat",
            threshold=options.threshold,
            multi_label=options.multi_label,
        )
        for text, one, other in zip(texts, found, expected, strict=True):
            agreed += assert_same_entities(
                one, other, lambda t=text, o=options: hangs_on_a_tie(ours, t, LABELS, o.threshold)
            )
        found_any += sum(map(len, found))
    assert found_any > 50
    assert agreed > 0.9 * len(WAYS) * len(texts)


def test_where_the_peer_is_wrong_about_zero_width_words(tmp_path, load_peer):
    """gliner-format.md 10.1, item 5: a word without subtokens shifts every later word there."""
    ours, peer = both(tiny_extractor("bert", seed=1), tmp_path / "model", load_peer)
    plain, marked = "Angela Merkel met Barack Obama", "\u200b Angela Merkel met Barack Obama"
    options = DecodeOptions(threshold=0.3)
    right = ours.extract(plain, LABELS, options)
    found = ours.extract(marked, LABELS, options)
    assert [(e.text, e.label, pytest.approx(e.score, abs=1e-4)) for e in right] == [
        (e.text, e.label, e.score) for e in found
    ]
    theirs = [(e["text"], e["label"]) for e in peer.inference([marked], list(LABELS), threshold=0.3)[0]]
    assert theirs != [(e.text, e.label) for e in right]


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gliner_runs_what_was_saved_in_any_type(dtype, tmp_path, load_peer):
    """Also where the encoder came in half precision: gliner builds it in the type that its configuration tells."""
    extractor = tiny_extractor(seed=1)
    config = extractor.model.config
    extractor.model.config = replace(config, backbone_config={**config.backbone_config, "dtype": "float16"})
    extractor.model.to(dtype)
    _, peer = both(extractor, tmp_path / "model", load_peer)
    ours = Extractor.from_pretrained(tmp_path / "model", device="cpu")
    found = ours.extract(SENTENCES[0], LABELS, DecodeOptions(threshold=0.3))
    expected = peer.predict_entities(SENTENCES[0], list(LABELS), threshold=0.3)
    assert [(e.start, e.end, e.label) for e in found] == [(e["start"], e["end"], e["label"]) for e in expected] != []
