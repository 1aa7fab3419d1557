"""The kernel of a gated GELU against the formula."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spanwright.model.kernels import gated as kernels


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(0, 3), size=st.sampled_from([1, 7, 64, 300]), at_once=st.sampled_from([64, 1024]))
def test_states_and_gradients_are_those_of_the_formula(rows, size, at_once):
    torch.manual_seed(size)
    states = (torch.randn(rows, 2, 2 * size) * 3).requires_grad_()
    before, kernels._AT_ONCE = kernels._AT_ONCE, at_once
    try:
        found = kernels.gated(states)
        first, second = states.chunk(2, dim=-1)
        expected = torch.nn.functional.gelu(first) * second
        torch.testing.assert_close(found, expected)
        gradient = torch.randn_like(found, requires_grad=True)
        both = [torch.autograd.grad(each, states, gradient, retain_graph=True)[0] for each in (found, expected)]
        torch.testing.assert_close(*both)
        firsts = [torch.autograd.grad(each, states, gradient, create_graph=True)[0] for each in (found, expected)]
        seconds = [torch.autograd.grad(each.square().sum(), (states, gradient)) for each in firsts]
        torch.testing.assert_close(*seconds)
    finally:
        kernels._AT_ONCE = before
