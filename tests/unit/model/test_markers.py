"""The products of spans and labels against their formula, written with autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from spanwright.model import markers
from spanwright.model.dropout import kept
from spanwright.model.markers import marker_logits


def parts(length: int, *, rows=2, size=6, labels=3, dtype=torch.float64) -> list[Tensor]:
    made = [(rows, length, size), (rows, length, size), (rows, labels, size), (rows, labels)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in made]


def plainly(starts: Tensor, ends: Tensor, labels: Tensor, biases: Tensor, masks: list[Tensor], scale: float) -> Tensor:
    """The formula, a width after another; `masks`: which states are kept, one for each width."""
    logits = []
    length = starts.shape[1]
    for k, mask in enumerate(masks):
        room = max(length - k, 0)
        states = F.relu(starts[:, :room] + ends[:, length - room :]) * mask[:, :room] * scale
        logits.append(F.pad(states @ labels.transpose(1, 2) + biases.unsqueeze(1), (0, 0, 0, length - room)))
    return torch.stack(logits, dim=2)


@pytest.mark.parametrize("at_once", [1, 2, 3, 99])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@given(length=st.integers(1, 7), max_width=st.integers(1, 5), seed=st.integers(0, 99))
def test_logits_and_gradients_are_those_of_the_formula(at_once, dropout, length, max_width, seed):
    torch.manual_seed(seed)
    values = parts(length)
    shapes = [(2, length, min(at_once, max_width - first), 6) for first in range(0, max_width, at_once)]
    state = torch.random.get_rng_state()
    drawn = [kept(shape, dropout, torch.device("cpu")) if dropout else torch.ones(shape) for shape in shapes]
    expected = plainly(*values, list(torch.cat(drawn, dim=2).unbind(2)), 1 / (1 - dropout))
    torch.random.set_rng_state(state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(markers, "_widths_at_once", lambda starts, max_width: min(at_once, max_width))
        found = marker_logits(*values, max_width, dropout)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, dtype=found.dtype)
    gradients = [torch.autograd.grad((each * weights).sum(), values) for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)  # sums are float32


def test_without_gradients_the_same():
    torch.manual_seed(0)
    values = parts(5, dtype=torch.float32)
    recorded = marker_logits(*values, 3)
    with torch.no_grad():
        torch.testing.assert_close(marker_logits(*values, 3), recorded)
    assert recorded.requires_grad


def test_what_is_kept_for_the_backward_is_a_byte_for_each_state():
    rows, length, size, max_width = 2, 20, 64, 12
    values = parts(length, rows=rows, size=size, dtype=torch.float32)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: saved.append(value) or value, lambda value: value):
        marker_logits(*values, max_width, 0.4)
    states = rows * length * size * max_width
    alive = [value for value in saved if value.dtype == torch.bool and value.shape[-1] == size]
    assert sum(value.numel() * value.element_size() for value in alive) == states
    assert all(value.numel() < states / 4 for value in saved if not any(value is each for each in alive))


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_a_frozen_part_asks_for_no_gradient(frozen):
    values = parts(4)
    values[frozen].requires_grad_(False)
    marker_logits(*values, 2).sum().backward()
    assert values[frozen].grad is None
    assert all(value.grad is not None for index, value in enumerate(values) if index != frozen)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_second_gradients(dropout):
    torch.manual_seed(0)
    values = parts(5)
    state = torch.random.get_rng_state()
    masks = [kept((2, 5, 1, 6), dropout, torch.device("cpu")) if dropout else torch.ones(2, 5, 1, 6) for _ in range(3)]
    torch.random.set_rng_state(state)
    found = []
    for logits in (
        marker_logits(*values, 3, dropout),
        plainly(*values, [mask[:, :, 0] for mask in masks], 1 / (1 - dropout)),
    ):
        gradients = torch.autograd.grad(logits.square().sum(), values, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in gradients)
        found.append(torch.autograd.grad(penalty, values))
    torch.testing.assert_close(*found)


def test_a_state_of_infinity_is_dead():
    starts, ends, labels, biases = parts(2, dtype=torch.float32)
    with torch.no_grad():
        starts[0, 0, 0] = float("-inf")
    logits = marker_logits(starts, ends, labels, biases, 2)
    logits.sum().backward()
    for value in (logits, starts.grad, ends.grad, labels.grad):
        assert value.isfinite().all()
