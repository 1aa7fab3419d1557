"""The kernels of disentangled attention against the formula, and in a whole encoder against the plain form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spanwright import modes
from spanwright.encoding import Row
from spanwright.losses import span_loss
from spanwright.model import disentangled
from spanwright.model.kernels import attention
from support.loop import training_batch
from support.tiny import LABELS, SENTENCES, tiny_extractor


def formula(query, key, value, of_keys, of_queries, mask, scale, kept=1.0):
    """Cell by cell: what the query says to the key, to their distance, and the key to the distance the other way."""
    length = query.shape[1]
    i, j = torch.arange(length)[:, None], torch.arange(length)[None, :]
    scores = torch.einsum("bihd,bjhd->hbij", query, key) * scale
    scores = scores + torch.einsum("bihd,hdij->hbij", query, of_keys[:, :, j - i + length - 1])
    scores = scores + torch.einsum("bjhd,hdij->hbij", key, of_queries[:, :, i - j + length - 1])
    weights = scores.masked_fill(~mask[None, :, None, :], float("-inf")).softmax(dim=-1) * kept
    return torch.einsum("hbij,bjhd->bihd", weights, value)


def values(rows, length, heads, size, spare):
    states = [torch.randn(rows, length, heads, size, requires_grad=True) for _ in range(3)]
    return states + [torch.randn(heads, size, 2 * length - 1 + spare, requires_grad=True) for _ in range(2)]


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 3),
    length=st.one_of(st.integers(1, 9), st.sampled_from([63, 64, 65, 130])),
    heads=st.integers(1, 3),
    size=st.sampled_from([16, 32]),
    spare=st.integers(0, 7),
    seed=st.integers(0, 99),
)
def test_attended_and_gradients_are_those_of_the_formula(rows, length, heads, size, spare, seed):
    torch.manual_seed(seed)
    given_values = values(rows, length, heads, size, spare)
    mask = torch.rand(rows, length) > 0.4
    mask[torch.arange(rows), torch.randint(length, (rows,))] = True  # every row has a word, be it the last
    found = attention.attend(*given_values, mask, 0.2, 0.0)
    expected = formula(*given_values, mask, 0.2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradient = torch.randn_like(found)
    both = [torch.autograd.grad(each, given_values, gradient) for each in (found, expected)]
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-4)


def test_the_backward_drops_what_the_forward_dropped():
    torch.manual_seed(0)
    query, key, value, *tables = values(2, 16, 2, 16, 1)
    mask = torch.ones(2, 16, dtype=torch.bool)
    with torch.no_grad():  # with values that are the unit vectors, what comes out is the weights
        units = torch.eye(16)[None, :, None, :].expand(2, 16, 2, 16)
        torch.manual_seed(1)
        weights = attention.attend(query, key, units, *tables, mask, 0.2, 0.4).permute(2, 0, 1, 3)
    kept = (weights > 0) / 0.6
    assert (weights > 0).float().mean().item() == pytest.approx(0.6, abs=0.05)
    assert len({tuple(kept[head, row].flatten().tolist()) for head in range(2) for row in range(2)}) == 4
    torch.manual_seed(1)
    found = attention.attend(query, key, value, *tables, mask, 0.2, 0.4)
    expected = formula(query, key, value, *tables, mask, 0.2, kept)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradient = torch.randn_like(found)
    both = [torch.autograd.grad(each, (query, key, value, *tables), gradient) for each in (found, expected)]
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-4)


@pytest.fixture
def with_kernels(monkeypatch):
    """DeBERTa attends in kernels, as if a processor were a GPU; the calls are counted."""
    calls = []

    def attend(*arguments):
        calls.append(1)
        return plain(*arguments)

    plain = attention.attend
    monkeypatch.setattr(attention, "attend", attend)
    monkeypatch.setattr(attention, "fit", lambda query: True)
    monkeypatch.setattr(disentangled, "are_to_be_had", lambda device: True)
    return calls


def test_an_encoder_of_kernels_gives_the_plain_ones_scores(with_kernels, monkeypatch):
    extractor = tiny_extractor("deberta-v2")
    batch = extractor.encoder.encode([Row(tuple(sentence.split()), tuple(LABELS)) for sentence in SENTENCES])
    with modes.inference(extractor.model):
        found = extractor.model(batch)
        assert with_kernels
        monkeypatch.setattr(disentangled, "are_to_be_had", lambda device: False)
        expected = extractor.model(batch)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_an_encoder_of_kernels_learns_as_the_plain_one_does(with_kernels, monkeypatch):
    extractor = tiny_extractor("deberta-v2")
    batch, targets = training_batch(extractor)
    for module in extractor.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    found = []
    for kernels in (True, False):
        monkeypatch.setattr(disentangled, "are_to_be_had", lambda device, kernels=kernels: kernels)
        extractor.model.zero_grad()
        with modes.training_step(extractor.model):
            span_loss(extractor.model(batch), targets).total.backward()
        found.append({name: p.grad.clone() for name, p in extractor.model.named_parameters() if p.grad is not None})
    assert with_kernels
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def test_second_gradients_are_refused_with_a_remedy():
    some = values(1, 3, 1, 16, 0)
    found = attention.attend(*some, torch.ones(1, 3, dtype=torch.bool), 0.2, 0.0)
    with pytest.raises(RuntimeError, match="slow_down"):
        torch.autograd.grad(found.sum(), some, create_graph=True)
