"""The kernel of rotary positions against transformers' own form, and in a whole encoder."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from spanwright import modes
from spanwright.encoding import Row
from spanwright.model import rotary
from spanwright.model.kernels.rotary import rotated
from support.tiny import LABELS, SENTENCES, tiny_extractor


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 3),
    length=st.integers(1, 9),
    heads=st.integers(1, 5),
    half=st.sampled_from([1, 4, 12, 32]),
    own_positions=st.booleans(),
)
def test_turned_and_turned_back_as_transformers_does(rows, length, heads, half, own_positions):
    torch.manual_seed(length)
    states = torch.randn(rows, length, 3, heads, 2 * half, requires_grad=True)
    angles = torch.randn(rows if own_positions else 1, length, half).repeat(1, 1, 2)
    query, key, value = states.permute(2, 0, 3, 1, 4)
    turned = apply_rotary_pos_emb(query, key, angles.cos(), angles.sin())
    expected = torch.stack([*turned, value]).permute(1, 3, 0, 2, 4)
    found = rotated(states, angles.cos(), angles.sin())
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(found)
    both = [torch.autograd.grad(each, states, gradient, create_graph=True)[0] for each in (found, expected)]
    torch.testing.assert_close(*both)
    once = torch.autograd.grad(rotated(states, angles.cos(), angles.sin()), states, gradient)[0]
    torch.testing.assert_close(once, both[1])


@pytest.mark.parametrize("training", [False, True])
def test_an_encoder_with_the_kernel_gives_the_plain_ones_scores(training, monkeypatch):
    extractor = tiny_extractor("modernbert")
    extractor.model.backbone.transformer.config._attn_implementation = "sdpa"
    batch = extractor.encoder.encode([Row(tuple(sentence.split()), tuple(LABELS)) for sentence in SENTENCES])
    found = []
    calls = []
    monkeypatch.setattr("spanwright.model.kernels.rotary.rotated", lambda *a: calls.append(1) or rotated(*a))
    for kernels in (True, False):
        monkeypatch.setattr(rotary, "are_to_be_had", lambda device, kernels=kernels: kernels)
        torch.manual_seed(0)
        scope = modes.training_step if training else modes.inference
        with scope(extractor.model):
            logits = extractor.model(batch).logits
            if training:
                extractor.model.zero_grad()
                logits.square().sum().backward()
        found.append([logits.detach(), *(p.grad for p in extractor.model.parameters() if p.grad is not None)])
    assert calls
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
