"""The kernels of span products against the formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spanwright.model import markers
from spanwright.model.kernels import spans


def values(length, size, labels, *, rows=2):
    shapes = (rows, length, size), (rows, length, size), (rows, labels, size)
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@settings(max_examples=12, deadline=None)
@given(
    length=st.integers(1, 20),
    max_width=st.integers(1, 12),
    size=st.sampled_from([16, 48, 130]),
    labels=st.sampled_from([1, 3, 17]),
)
def test_products_and_gradients_are_those_of_the_formula(dropout, length, max_width, size, labels):
    torch.manual_seed(length)
    starts, ends, named = values(length, size, labels)
    with torch.no_grad():
        found, (alive,) = spans.products(starts, ends, named, max_width, dropout, recording=True)
    real = ~markers.beyond(found)
    ahead = torch.nn.functional.pad(ends, (0, 0, 0, max_width - 1)).unfold(1, max_width, 1).transpose(2, 3)[:, :length]
    sums = starts.unsqueeze(2) + ahead
    if dropout == 0:
        assert torch.equal(alive, (sums > 0) & real)
    assert not (alive & ~((sums > 0) & real)).any()
    expected = (sums * alive / (1 - dropout)) @ named.transpose(1, 2).unsqueeze(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    gradient = torch.randn_like(found) * real
    with torch.no_grad():
        given_back = spans.gradients(starts, ends, named, [alive], gradient, 1 / (1 - dropout))
    wanted = torch.autograd.grad(expected, (starts, ends, named), gradient)
    torch.testing.assert_close(given_back, wanted, rtol=1e-4, atol=1e-4)


def test_dropout_keeps_as_many_as_it_says_and_others_in_each_row():
    torch.manual_seed(0)
    ones = [torch.ones(3, 12, 64), torch.ones(3, 12, 64), torch.ones(3, 2, 64)]
    draws = [spans.products(*ones, 1, 0.4, recording=True)[1][0] for _ in range(2)]
    assert draws[0].float().mean().item() == pytest.approx(0.6, abs=0.03)
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0][0], draws[0][1])
    torch.manual_seed(0)
    assert torch.equal(spans.products(*ones, 1, 0.4, recording=True)[1][0], draws[0])


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of the interpreter
def test_what_is_no_number_stays_none():
    starts, ends, named = (torch.ones(1, 4, 16), torch.ones(1, 4, 16), torch.ones(1, 2, 16))
    starts[0, 0, 3], starts[0, 2, 5], ends[0, 2, 5] = float("nan"), float("inf"), -float("inf")
    found, _ = spans.products(starts, ends, named, 2, 0.0, recording=False)
    expected, _ = markers.products(starts, ends, named, 2, 0.0, recording=False)
    real = (~markers.beyond(found)).expand_as(found)
    assert torch.equal(found.isnan()[real], expected.isnan()[real])
    assert found[0, 0].isnan().all()


def test_a_row_of_too_many_states_is_left_to_the_plain_form():
    some = torch.empty(1, 4096, 4096, device="meta")
    labels = torch.empty(1, 9, 4096, device="meta")
    assert spans.fits(some, some, labels, 12)
    assert not spans.fits(some, some, labels, 128)


def test_without_a_backward_nothing_is_kept():
    ones = [torch.ones(1, 4, 16), torch.ones(1, 4, 16), torch.ones(1, 2, 16)]
    found, (alive,) = spans.products(*ones, 2, 0.0, recording=False)
    assert alive.numel() == 0
    assert found[0, 0, 1].tolist() == [32.0, 32.0]
