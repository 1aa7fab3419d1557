"""The published loss to the last detail, and its gradients through the whole network."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spanwright import Span
from spanwright.encoding import Row, encode_targets
from spanwright.losses import cell_loss, span_loss
from spanwright.train_config import LossOptions
from support.loop import still
from support.tiny import LABELS, SENTENCES, tiny_extractor


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    alpha=st.sampled_from([-1.0, 0.0, 0.25, 0.75]),
    gamma=st.sampled_from([0.0, 0.5, 2.0]),
    margin=st.sampled_from([0.0, 0.1]),
    smoothing=st.sampled_from([0.0, 0.2]),
    spread=st.sampled_from([1.0, 8.0, 30.0]),
)
def test_cells(seed, alpha, gamma, margin, smoothing, spread):
    from gliner.modeling.loss_functions import focal_loss_with_logits

    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 30, generator=generator) * spread
    values = (torch.rand(4, 30, generator=generator) < 0.2).float()
    options = LossOptions(
        focal_alpha=alpha, focal_gamma=gamma, prob_margin=margin, label_smoothing=smoothing, reduction="sum"
    )
    expected = focal_loss_with_logits(
        logits, values, alpha=alpha, gamma=gamma, prob_margin=margin, label_smoothing=smoothing, reduction="none"
    )
    torch.testing.assert_close(cell_loss(logits, values, options), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    "options", [LossOptions(reduction="sum"), LossOptions(reduction="sum", focal_alpha=0.75, focal_gamma=2)]
)
def test_a_training_forward_and_its_gradients(options, tmp_path, load_peer):
    ours = tiny_extractor("deberta-v2", dropout=0.0)
    still(ours.model)
    ours.save(tmp_path / "model")
    peer = load_peer(tmp_path / "model")
    gold = [[Span(0, 2, "person")], [Span(5, 7, "organisation"), Span(5, 6, "country")], []]
    words = [sentence.split() for sentence in SENTENCES[1:4]]
    rows = [Row(tuple(w), LABELS) for w in words]
    batch = ours.encoder.encode(rows)
    targets = encode_targets(gold, rows, max_width=ours.model.config.max_width)
    loss = span_loss(ours.model(batch), targets, options).total
    loss.backward()

    collate = peer.data_collator_class(peer.config, data_processor=peer.data_processor, prepare_labels=True)
    examples = [
        {"tokenized_text": w, "ner": [[s.start, s.end - 1, s.label] for s in spans], "ner_labels": list(LABELS)}
        for w, spans in zip(words, gold, strict=True)
    ]
    prepared = collate(examples)
    assert torch.equal(prepared["input_ids"], batch.input_ids)
    theirs = peer.model(**prepared, alpha=options.focal_alpha, gamma=options.focal_gamma, reduction="sum")
    assert loss.item() == pytest.approx(theirs.loss.item(), rel=1e-5)
    peer.model.zero_grad()
    theirs.loss.backward()
    ours_gradient = ours.model.spans.out_project.first.weight.grad
    peer_gradient = peer.model.span_rep_layer.span_rep_layer.out_project[0].weight.grad
    torch.testing.assert_close(ours_gradient, peer_gradient, rtol=1e-4, atol=1e-4 * peer_gradient.abs().max().item())
    ours_gradient = ours.model.backbone.transformer.embeddings.word_embeddings.weight.grad
    peer_gradient = peer.model.token_rep_layer.bert_layer.model.embeddings.word_embeddings.weight.grad
    torch.testing.assert_close(ours_gradient, peer_gradient, rtol=1e-4, atol=1e-4 * peer_gradient.abs().max().item())
