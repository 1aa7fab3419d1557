"""ModernBERT in half precision. Its kernels are tested in `kernels`."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import AutoModel

from spanwright import modes
from spanwright.encoding import Row
from spanwright.model import modernbert
from spanwright.model.backbone import build_transformer, transformer_config
from support.tiny import LABELS, SENTENCES, tiny_extractor

CONFIG = {
    "model_type": "modernbert",
    "vocab_size": 99,
    "hidden_size": 64,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "cls_token_id": 1,
    "bos_token_id": 1,
    "sep_token_id": 2,
    "eos_token_id": 2,
}


@pytest.fixture
def pair():
    """The same encoder as transformers builds it and with sums in float32, and what they read."""
    torch.manual_seed(0)
    plain = build_transformer(transformer_config(CONFIG)).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.copy_(parameter.half().float())  # the rounding of weights is not what is measured
    made = copy.deepcopy(plain)
    modernbert.adopt(made)
    ids = torch.randint(3, 99, (8, 40))
    return plain, made, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def states(transformer, batch):
    with torch.no_grad():
        return transformer(**batch).last_hidden_state


def test_in_float32_nothing_changes(pair):
    plain, made, batch = pair
    assert torch.equal(states(made, batch), states(plain, batch))
    assert type(made.layers[3]) is modernbert.ModernBertEncoderLayer


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_in_half_precision_states_lie_nearer_to_those_in_float32(kind, pair):
    plain, made, batch = pair
    expected = states(plain.to(kind).float(), batch)
    errors = [(states(model.to(kind), batch).float() - expected).square().mean().sqrt() for model in (plain, made)]
    assert states(made, batch).dtype == kind
    assert errors[1] < 0.75 * errors[0]


def test_the_sum_is_float32_all_the_way(pair):
    _, made, batch = pair
    made.half()
    seen = []
    hooks = [layer.register_forward_hook(lambda _, __, output: seen.append(output.dtype)) for layer in made.layers]
    states(made, batch)
    for hook in hooks:
        hook.remove()
    assert seen == [torch.float32] * 12


def test_norms_of_another_kind_are_left_alone():
    transformer = AutoModel.from_config(transformer_config(CONFIG))

    class OwnNorm(nn.LayerNorm):
        pass

    transformer.layers[2].mlp_norm.__class__ = OwnNorm
    modernbert.adopt(transformer)
    assert not any(isinstance(module, modernbert.ModernBertEncoderLayer) for module in transformer.modules())


def test_layers_that_hand_on_other_things_are_left_alone(monkeypatch):
    transformer = AutoModel.from_config(transformer_config(CONFIG))
    kind = modernbert.plain.ModernBertEncoderLayer
    monkeypatch.setattr(kind, "forward", lambda self, hidden_states, sliding_window_mask=None: None)
    modernbert.adopt(transformer)
    assert {type(layer) for layer in transformer.layers} == {kind}


def test_layers_to_shard_are_found_by_transformers_name(pair):
    from accelerate.utils.dataclasses import get_module_class_from_name

    assert get_module_class_from_name(pair[1], "ModernBertEncoderLayer") is modernbert.ModernBertEncoderLayer


def test_a_copy_and_a_pickle_are_the_same(pair):
    _, made, batch = pair
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(states(twin, batch), states(made, batch))


@pytest.mark.parametrize("changes", [{}, {"fuse_layers": True}, {"span_mode": "token_level"}])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_models_of_every_kind_answer_in_half_precision(changes, kind):
    extractor = tiny_extractor("modernbert", **changes)
    batch = extractor.encoder.encode([Row(tuple(sentence.split()), tuple(LABELS)) for sentence in SENTENCES])
    with modes.inference(extractor.model):
        expected = extractor.model(batch)
        extractor.model.to(kind)
        found = extractor.model(batch)
    assert found.logits.dtype == kind
    real = expected.cell_mask().expand_as(expected.logits)
    torch.testing.assert_close(
        found.logits[real].float(), expected.logits[real], rtol=0.1, atol=0.05 if kind == torch.float16 else 0.4
    )
