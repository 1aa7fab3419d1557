"""The kernels of attention against the formula, and in whole encoders against the plain forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spanwright import modes
from spanwright.encoding import Row
from spanwright.losses import span_loss
from spanwright.model import disentangled, modernbert
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


def attend(given_values, mask, dropout):
    query, key, value, *tables = given_values
    return attention.attend(query, key, value, mask[:, None, None], 0.2, dropout, attention.Tables(*tables))


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
    found = attend(given_values, mask, 0.0)
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
        weights = attend([query, key, units, *tables], mask, 0.4).permute(2, 0, 1, 3)
    kept = (weights > 0) / 0.6
    assert (weights > 0).float().mean().item() == pytest.approx(0.6, abs=0.05)
    assert len({tuple(kept[head, row].flatten().tolist()) for head in range(2) for row in range(2)}) == 4
    torch.manual_seed(1)
    found = attend([query, key, value, *tables], mask, 0.4)
    expected = formula(query, key, value, *tables, mask, 0.2, kept)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradient = torch.randn_like(found)
    both = [torch.autograd.grad(each, (query, key, value, *tables), gradient) for each in (found, expected)]
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
@pytest.mark.parametrize("packed", [False, True])
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 3), length=st.sampled_from([1, 5, 31, 33, 65, 130]), window=st.integers(0, 9))
def test_without_tables_it_is_plain_attention_under_any_mask(packed, kind, rows, length, window):
    torch.manual_seed(length)
    states = torch.randn(rows, length, 3, 2, 16, requires_grad=True)
    query, key, value = states.to(kind).unbind(2)
    real = torch.rand(rows, length) > 0.4  # a query may find no key in its window
    places = torch.arange(length)
    mask = real[:, None, None, :] & ((places[:, None] - places).abs() <= window)[None, None]
    found = (
        attention.attend_packed(states.to(kind), mask, 0.3, 0.0)
        if packed
        else attention.attend(query, key, value, mask, 0.3, 0.0)
    )
    query, key, value = states.unbind(2)
    scores = torch.einsum("bihd,bjhd->bhij", query, key) * 0.3
    weights = scores.masked_fill(~mask, -1e9).softmax(dim=-1) * mask.any(dim=-1, keepdim=True)
    expected = torch.einsum("bhij,bjhd->bihd", weights, value)
    bound = 1e-4 if kind == torch.float32 else 5e-3
    torch.testing.assert_close(found.float(), expected, rtol=bound, atol=bound)
    gradient = torch.randn_like(expected)
    both = [torch.autograd.grad(each.float(), states, gradient, retain_graph=True)[0] for each in (found, expected)]
    torch.testing.assert_close(*both, rtol=4 * bound, atol=4 * bound)


def test_without_a_mask_every_key_is_seen():
    states = torch.randn(2, 7, 3, 2, 16)
    everything = torch.ones(2, 1, 7, 7, dtype=torch.bool)
    found = attention.attend_packed(states, None, 0.3, 0.0)
    torch.testing.assert_close(found, attention.attend_packed(states, everything, 0.3, 0.0))


FAMILIES = ("deberta-v2", "modernbert")


@pytest.fixture
def with_kernels(monkeypatch):
    """Encoders attend in kernels, as if a processor were a GPU, where this is set to True; the calls are counted."""
    state = {"calls": 0}
    plain = attention._Attention.apply

    def counted(*arguments):
        state["calls"] += 1
        return plain(*arguments)

    def switch(on):
        for room in (disentangled, modernbert):
            monkeypatch.setattr(room, "are_to_be_had", lambda device: on)
        return state

    monkeypatch.setattr(attention._Attention, "apply", counted)
    monkeypatch.setattr(attention, "fits", lambda query: True)
    return switch


def extractor_of(family):
    extractor = tiny_extractor(family)
    extractor.model.backbone.transformer.config._attn_implementation = "sdpa"
    for module in extractor.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return extractor


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_of_kernels_gives_the_plain_ones_scores(family, with_kernels):
    extractor = extractor_of(family)
    batch = extractor.encoder.encode([Row(tuple(sentence.split()), tuple(LABELS)) for sentence in SENTENCES])
    found = []
    for on in (True, False):
        state = with_kernels(on)
        with modes.inference(extractor.model):
            found.append(extractor.model(batch).logits)
    assert state["calls"] == extractor.model.backbone.transformer.config.num_hidden_layers
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_of_kernels_learns_as_the_plain_one_does(family, with_kernels):
    extractor = extractor_of(family)
    batch, targets = training_batch(extractor)
    found = []
    for on in (True, False):
        state = with_kernels(on)
        extractor.model.zero_grad()
        with modes.training_step(extractor.model):
            span_loss(extractor.model(batch), targets).total.backward()
        found.append({name: p.grad.clone() for name, p in extractor.model.named_parameters() if p.grad is not None})
    assert state["calls"] == extractor.model.backbone.transformer.config.num_hidden_layers
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def test_second_gradients_are_refused_with_a_remedy():
    some = values(1, 3, 1, 16, 0)
    found = attend(some, torch.ones(1, 3, dtype=torch.bool), 0.0)
    with pytest.raises(RuntimeError, match=r"kernels\.enabled"):
        torch.autograd.grad(found.sum(), some, create_graph=True)
