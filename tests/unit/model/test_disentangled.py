import pickle

import pytest
import torch
from transformers.models.deberta_v2 import modeling_deberta_v2 as plain

from spanwright import modes
from spanwright.model import disentangled
from support.tiny import tiny_extractor


def transformer_of(**changes):
    config = {"share_att_key": True, **changes}
    made = tiny_extractor("deberta-v2").model.backbone.transformer.config
    made.update(config)
    torch.manual_seed(0)
    transformer = plain.DebertaV2Model(made)
    for parameter in transformer.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(6.0)  # else attention is nearly even, and a wrong position hardly shows
    modes.rest(transformer)
    return transformer


def answers(transformer, length):
    """States of real subtokens, and the gradients of a sum of them that weighs each differently."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(0, 100, (3, length), generator=generator)
    mask = torch.ones(3, length, dtype=torch.long)
    mask[1, length // 2 + 1 :] = 0
    transformer.zero_grad()
    states = transformer(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
    (states * torch.rand(states.shape, generator=generator)).sum().backward()
    return states.detach(), {n: p.grad.clone() for n, p in transformer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("length", [1, 2, 7, 16, 17, 40, 90])  # 16 buckets a side: longer ones fall into the same
@pytest.mark.parametrize("shared", [True, False])
def test_equals_the_plain_form_in_values_and_gradients(length, shared):
    transformer = transformer_of(share_att_key=shared)
    expected, gradients = answers(transformer, length)
    disentangled.speed_up(transformer)
    states, found = answers(transformer, length)
    assert (states - expected).abs().max() < 1e-5 * expected.abs().max()
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (found[name] - gradient).abs().max() < 2e-5 * gradient.abs().max() + 1e-6, name


def test_the_fused_form_of_a_gpu_gives_the_same():
    transformer = transformer_of()
    disentangled.speed_up(transformer)
    expected, gradients = answers(transformer, 17)
    for module in transformer.modules():
        if isinstance(module, disentangled.BandedAttention):
            module._attend = module._attend_fused
    states, found = answers(transformer, 17)
    assert (states - expected).abs().max() < 1e-5 * expected.abs().max()
    assert all((found[n] - g).abs().max() < 2e-5 * g.abs().max() + 1e-6 for n, g in gradients.items())


def test_every_deberta_is_sped_up_and_can_be_slowed_down():
    transformer = tiny_extractor("deberta-v2").model.backbone.transformer
    kinds = {type(m) for m in transformer.modules()}
    assert {disentangled.BandedEncoder, disentangled.BandedAttention} <= kinds
    disentangled.slow_down(transformer)
    assert not {disentangled.BandedEncoder, disentangled.BandedAttention} & {type(m) for m in transformer.modules()}


def test_other_kinds_of_positions_stay_with_the_plain_form():
    transformer = transformer_of(pos_att_type=["c2p"])
    disentangled.speed_up(transformer)
    assert type(transformer.encoder) is plain.DebertaV2Encoder
    answers(transformer, 7)


def test_weights_of_attention_can_still_be_asked_for():
    transformer = transformer_of()
    ids, mask = torch.arange(12)[None], torch.ones(1, 12, dtype=torch.long)
    expected = transformer(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    disentangled.speed_up(transformer)
    found = transformer(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(found, expected, strict=True))


def test_spare_columns_change_nothing():
    """On a GPU the bands are wider than the distances, so that its matrix units can store them."""
    generator = torch.Generator().manual_seed(0)
    narrow = [torch.randn(2, 3, 8, 15, generator=generator).requires_grad_() for _ in range(2)]
    wide = [torch.nn.functional.pad(each.detach(), (0, 1), value=9.0).requires_grad_() for each in narrow]
    sums = [disentangled._SumOfBands.apply(*bands) for bands in (narrow, wide)]
    assert torch.equal(*sums)
    for each in sums:
        (each * torch.arange(8.0)).sum().backward()
    for one, other in zip(narrow, wide, strict=True):
        assert torch.equal(one.grad, other.grad[..., :15])
        assert (other.grad[..., 15] == 0).all()


def test_what_can_be_made_again_is_not_pickled():
    extractor = tiny_extractor("deberta-v2")
    extractor.extract("Ada wrote .", ["person"])
    encoder = extractor.model.backbone.transformer.encoder
    assert encoder.made_buckets
    assert "made_buckets" not in pickle.loads(pickle.dumps(encoder)).__dict__
