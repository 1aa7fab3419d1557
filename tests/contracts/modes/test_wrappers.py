"""What people wrap models in, and what they make of them."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from torch import nn

from spanwright import ModeError, modes
from spanwright.losses import span_loss
from spanwright.modes.plan import modules_of, plan
from support.loop import by_hand, dropouts_seen, training_batch
from support.tiny import LABELS, SENTENCES, tiny_extractor
from support.watch import flags


@pytest.fixture
def extractor():
    return tiny_extractor(dropout=0.3)


def gradients(extractor, model=None):
    batch, targets = training_batch(extractor)
    torch.manual_seed(5)
    extractor.model.zero_grad()
    span_loss((model or extractor.model)(batch), targets).total.backward()
    return {name: p.grad.clone() for name, p in extractor.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(extractor, reentrant):
    plain = gradients(extractor)
    transformer = extractor.model.backbone.transformer
    transformer.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    if reentrant:
        transformer.enable_input_require_grads()
    checkpointed = gradients(extractor)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-5, atol=1e-7)


def test_evaluation_mode_before_a_checkpointed_backward_is_found(extractor):
    transformer = extractor.model.backbone.transformer
    transformer.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    transformer.enable_input_require_grads()
    batch, targets = training_batch(extractor)
    loss = span_loss(extractor.model(batch), targets).total
    extractor.model.eval()
    with pytest.raises(ModeError, match="At a backward"):
        loss.backward()


def test_a_copy_has_the_same_plan_and_scopes_of_its_own(extractor):
    modes.freeze(extractor.model, "context")
    extractor.model.train()
    twin = copy.deepcopy(extractor.model)
    assert str(modes.report(twin)) == str(modes.report(extractor.model))
    with modes.inference(twin):
        assert not any(flags(twin).values())
        assert extractor.model.training
    modes.thaw(twin, "context")
    assert twin.context.training
    assert not extractor.model.context.training


def test_a_pickled_model_keeps_its_plan(extractor):
    modes.freeze(extractor.model, "context")
    extractor.model.train()
    file = io.BytesIO()
    torch.save(extractor.model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert str(modes.report(loaded)) == str(modes.report(extractor.model))


@pytest.mark.filterwarnings("ignore")  # of torch's tracer
@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_follows_its_modes(extractor, in_place):
    model = extractor.model
    compiled = model if in_place else torch.compile(model, backend="eager")
    if in_place:
        model.compile(backend="eager")
    batch, targets = training_batch(extractor)
    compiled.train()
    assert model.spans.training
    with dropouts_seen(model) as seen:
        span_loss(compiled(batch), targets).total.backward()
    with modes.inference(compiled):
        one, other = compiled(batch).logits, compiled(batch).logits
    assert torch.equal(one, other)
    assert model.training
    compiled.eval()
    with pytest.raises(ModeError, match="declared mode"):
        compiled(batch)
    assert seen is not None


def test_a_lora_backbone_trains_its_adapters_only(extractor):
    from peft import LoraConfig, get_peft_model

    model = extractor.model
    config = LoraConfig(target_modules=["query", "value"], r=2, lora_dropout=0.1)
    model.backbone.transformer = get_peft_model(model.backbone.transformer, config)
    batch, _ = training_batch(extractor)
    by_hand(extractor, between=lambda: extractor.extract(SENTENCES[0], LABELS))
    adapters = {n: p for n, p in model.backbone.named_parameters() if "lora_" in n}
    assert adapters
    assert all(p.grad is not None for p in adapters.values())
    assert all(p.grad is None for n, p in model.backbone.named_parameters() if "base_layer" in n)
    with modes.inference(model):
        assert torch.equal(model(batch).logits, model(batch).logits)


def test_a_module_that_acts_on_train_is_asked(extractor):
    class Merging(torch.nn.Linear):
        """Merges on evaluation and splits on training, as adapters do."""

        merged = False

        def train(self, mode: bool = True):
            self.merged = not mode
            return super().train(mode)

    layer = Merging(4, 4)
    extractor.model.extra = layer
    extractor.model.train()
    with modes.inference(extractor.model):
        assert layer.merged
    assert not layer.merged


def test_data_parallel_wrapping(extractor, tmp_path):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(extractor.model, find_unused_parameters=True)
        modes.freeze(wrapped, "backbone")
        wrapped.train()
        assert not extractor.model.backbone.training
        gradients(extractor, wrapped)
        wrapped.eval()
        with pytest.raises(ModeError, match="declared mode"):
            gradients(extractor, wrapped)
        with modes.training_step(wrapped):
            gradients(extractor, wrapped)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_the_quick_walk_is_torchs(family):
    model = tiny_extractor(family).model
    assert modules_of(model) == list(model.modules())


def test_the_quick_walk_meets_a_shared_module_once_and_where_torch_does():
    shared = nn.Linear(1, 1)
    model = nn.Sequential(nn.Sequential(nn.ReLU(), shared), shared, nn.Sequential(shared, nn.Tanh()))
    model.register_module("none", None)
    model[0].parent = model[2]
    assert modules_of(model) == list(model.modules())
    assert [module for module, _ in plan(model)] == list(model.modules())
