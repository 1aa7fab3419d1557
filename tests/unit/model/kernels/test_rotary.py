"""The kernel of rotary positions against transformers' own form."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from spanwright.model.kernels.rotary import rotated


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
