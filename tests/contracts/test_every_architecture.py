"""What holds for every architecture: it learns, is saved and loaded, answers alone as in company, keeps its modes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from spanwright import DecodeOptions, Extractor, Span, TrainConfig, evaluate, modes, train
from spanwright.checkpoint.package import draw_head
from spanwright.encoding import Row
from spanwright.errors import ConfigError
from spanwright.losses import span_loss
from spanwright.model.gliner import drawn_from
from spanwright.train_config import LoopOptions
from support.data import BY_HEART, eight_sentences
from support.loop import still
from support.tiny import ARCHITECTURES, FAMILIES, LABELS, SENTENCES, bi_encoder, tiny_extractor
from support.watch import flags, set_flags, snapshot

every_architecture = pytest.mark.parametrize("changes", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
ROWS = [Row(tuple(s.split()), LABELS[: 1 + i % 4]) for i, s in enumerate(SENTENCES)]


@every_architecture
def test_a_row_does_not_depend_on_its_neighbours(changes):
    extractor = tiny_extractor(**changes)
    with modes.inference(extractor.model):
        together = extractor.model(extractor.encoder.encode(ROWS))
        for index, row in enumerate(ROWS):
            alone = extractor.model(extractor.encoder.encode([row]))
            real = alone.cell_mask().expand_as(alone.logits)[0]
            inside = together.logits[index][tuple(slice(0, size) for size in alone.logits.shape[1:])]
            torch.testing.assert_close(inside[real], alone.logits[0][real], rtol=1e-4, atol=2e-5)


@every_architecture
def test_saved_and_loaded_it_is_the_same(changes, tmp_path):
    extractor = tiny_extractor(**changes)
    extractor.save(tmp_path / "model")
    back = Extractor.from_pretrained(tmp_path / "model", device="cpu")
    assert back.model.config == extractor.model.config or back.model.config.published
    for name, value in extractor.model.state_dict().items():
        assert torch.equal(value, back.model.state_dict()[name]), name
    options = DecodeOptions(threshold=0.3)
    assert back.extract_many(SENTENCES, LABELS, options) == extractor.extract_many(SENTENCES, LABELS, options)


@every_architecture
def test_it_learns_eight_sentences_by_heart(changes, tmp_path):
    """Figures of several seeds: docs/log.md. A run ends a hundred steps after the last gain.

    The encoder knows relative positions, as those of published models do: that a marker means the label after it is
    then learnt in tens of steps, with absolute ones in hundreds, and with dropout on 32 features hardly at all.
    """
    extractor = tiny_extractor("deberta-v2", **changes)
    still(extractor.model)
    with drawn_from(0):
        draw_head(extractor.model)
    examples = eight_sentences()
    result = train(extractor, examples, examples, output=tmp_path / "run", config=BY_HEART)
    assert result.report.micro.f1 == 1.0
    assert evaluate(Extractor.from_pretrained(tmp_path / "run", device="cpu"), examples).micro.f1 == 1.0


@every_architecture
def test_every_call_leaves_modes_as_it_found_them(changes, tmp_path):
    extractor = tiny_extractor(**changes)
    names = list(flags(extractor.model))
    rng = random.Random(0)
    calls = [
        lambda: extractor.extract(SENTENCES[1], LABELS),
        lambda: extractor.extract("", LABELS),
        lambda: evaluate(extractor, eight_sentences()[:2]),
        lambda: extractor.save(tmp_path / "saved"),
    ]
    if extractor.model.config.is_bi_encoder:
        calls.append(lambda: extractor.encode_labels(LABELS))
    for call in calls:
        for _ in range(16):
            set_flags(extractor.model, {name: rng.random() < 0.5 for name in names})
            before = snapshot(extractor)
            call()
            assert snapshot(extractor) == before


@every_architecture
def test_a_loop_by_hand_trains_with_dropout_after_any_call(changes):
    extractor = tiny_extractor(**changes)
    gold = [[Span(0, 2, "person")], [Span(5, 7, "country")]]
    rows = [Row(tuple(SENTENCES[1].split()), LABELS), Row(tuple(SENTENCES[2].split()), LABELS)]
    batch, targets = extractor.encoder.encode_with_targets(rows, gold, seed="")
    extractor.model.train()
    extractor.extract(SENTENCES[0], LABELS)
    losses = [span_loss(extractor.model(batch), targets).total for _ in range(2)]
    assert losses[0].item() != losses[1].item()  # dropout draws anew
    losses[0].backward()
    assert all(torch.isfinite(p.grad).all() for p in extractor.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "deberta-v2"])
def test_every_encoder_family_learns_them_too(family, tmp_path):
    """Those with absolute positions need twice the steps."""
    extractor = tiny_extractor(family)
    still(extractor.model)
    with drawn_from(0):
        draw_head(extractor.model)
    patient = replace(BY_HEART, validation=replace(BY_HEART.validation, patience=8))
    result = train(extractor, eight_sentences(), eight_sentences(), output=tmp_path / "run", config=patient)
    assert result.report.micro.f1 == 1.0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["token with head", "bi-encoder, fused"])
def test_every_encoder_family_trains(family, name, tmp_path):
    extractor = tiny_extractor(family, **ARCHITECTURES[name])
    before = {n: p.clone() for n, p in extractor.model.named_parameters()}
    train(extractor, eight_sentences(), output=tmp_path / "run", config=TrainConfig(training=LoopOptions(max_steps=2)))
    changed = [n for n, p in extractor.model.named_parameters() if not torch.equal(p, before[n])]
    assert len(changed) > 10


def test_a_thousand_labels_are_read_once(monkeypatch):
    extractor = tiny_extractor(**bi_encoder())
    labels = [f"kind of thing {number}" for number in range(1000)]
    vectors = extractor.encode_labels(labels)
    assert len(vectors) == 1000
    calls = []
    pooled = extractor.model.label_encoder.pooled
    monkeypatch.setattr(extractor.model.label_encoder, "pooled", lambda *a: calls.append(1) or pooled(*a))
    options = DecodeOptions(threshold=0.6)
    known = extractor.extract_many(SENTENCES, vectors, options)
    assert calls == []
    assert extractor.extract_many(SENTENCES, labels, options) == known  # of the same batches: no rounding between them
    assert len(calls) == 16  # 64 labels at a time, once for all texts
    assert sum(map(len, known)) > 0


def test_label_vectors_of_other_weights_are_refused():
    extractor = tiny_extractor(**bi_encoder())
    vectors = extractor.encode_labels(LABELS)
    with torch.no_grad():
        next(extractor.model.label_encoder.parameters()).add_(1.0)
    with pytest.raises(ConfigError, match="Call `encode_labels` again"):
        extractor.extract(SENTENCES[0], vectors)
    with pytest.raises(ConfigError, match="must be asked of a bi-encoder"):
        tiny_extractor().encode_labels(LABELS)
