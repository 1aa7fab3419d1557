from __future__ import annotations

import pytest
import torch
from torch import nn

from spanwright.model.dropout import QuickDropout, quicken
from support.tiny import tiny_extractor


def dropped(p: float, shape=(300, 7, 100), **how) -> torch.Tensor:
    module = QuickDropout(p)
    module.train(**how)
    return module(torch.ones(shape))


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_the_share_and_the_scale_are_those_of_dropout(p):
    torch.manual_seed(0)
    found = dropped(p)
    kept = found != 0
    count = found.numel()
    # four standard deviations of a binomial share
    assert abs((~kept).sum().item() / count - p) < 4 * (p * (1 - p) / count) ** 0.5
    assert torch.allclose(found[kept], torch.tensor(1 / (1 - p)))
    # neither rows nor columns share a mask: each axis' shares spread as independent draws do
    for axes in ((1, 2), (0, 2), (0, 1)):
        shares = (~kept).float().mean(dim=axes)
        expected = (p * (1 - p) * len(shares) / count) ** 0.5
        if len(shares) > 50:
            assert 0.7 * expected < shares.std() < 1.4 * expected
    for rows in (kept.flatten(1), kept.flatten(0, 1).T):
        assert len(torch.unique(rows, dim=0)) == len(rows)


def test_the_global_random_state_decides():
    torch.manual_seed(3)
    first, second = dropped(0.5), dropped(0.5)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(first, dropped(0.5))
    state = torch.random.get_rng_state()
    third = dropped(0.5)
    torch.random.set_rng_state(state)
    assert torch.equal(third, dropped(0.5))


def test_another_default_device_does_not_matter():
    module = QuickDropout(0.5).train()
    values = torch.ones(9)
    with torch.device("meta"):
        assert module(values).device.type == "cpu"


def test_the_gradient_passes_where_the_value_did():
    values = torch.ones(1000, requires_grad=True)
    module = QuickDropout(0.4)
    found = module(values)
    found.sum().backward()
    assert torch.equal(values.grad, found.detach())


@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (2, 0, 5)])
def test_few_numbers(shape):
    assert dropped(0.5, shape).shape == shape


def test_it_is_still_at_rest_and_without_a_probability():
    state = torch.random.get_rng_state()
    assert torch.equal(dropped(0.5, (9,), mode=False), torch.ones(9))
    assert torch.equal(dropped(0.0, (9,)), torch.ones(9))
    assert torch.equal(dropped(1.0, (9,)), torch.zeros(9))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_every_plain_dropout_of_a_model_is_one():
    class Own(nn.Dropout):
        pass

    model = nn.Sequential(nn.Dropout(0.1), Own(0.1), nn.Linear(1, 1))
    quicken(model)
    assert [type(module) for module in model] == [QuickDropout, Own, nn.Linear]
    kinds = {type(module) for module in tiny_extractor().model.modules() if isinstance(module, nn.Dropout)}
    assert kinds == {QuickDropout}
