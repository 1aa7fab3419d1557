"""Loops written by hand, with nothing done right: dropout is on, or an error says what is wrong."""

from __future__ import annotations

import copy

import pytest
import torch

from spanwright import Example, Extractor, ModeError, Span, evaluate, modes
from spanwright.losses import span_loss
from support.loop import by_hand, dropouts_seen, training_batch
from support.tiny import LABELS, SENTENCES, tiny_extractor

EXAMPLES = [Example.from_words(SENTENCES[1].split(), [Span(0, 2, "person")])]


@pytest.fixture
def extractor():
    return tiny_extractor(dropout=0.3)


@pytest.fixture
def observe(extractor, tmp_path):
    """Everything that a user may do between two steps."""

    def act():
        extractor.extract(SENTENCES[0], LABELS)
        evaluate(extractor, EXAMPLES)
        extractor.save(tmp_path / "saved")
        Extractor.from_pretrained(tmp_path / "saved")
        with pytest.raises(ValueError, match="must be a string"):
            extractor.extract(None, LABELS)

    return act


@pytest.mark.parametrize("told", ["never told", "told once"])
def test_a_loop_that_observes_between_steps_trains_with_dropout(extractor, observe, told):
    before = extractor.model.train if told == "told once" else lambda: None
    with dropouts_seen(extractor.model) as seen:
        by_hand(extractor, before=before, between=observe)
    in_training = [dropped for dropped, recording in seen if recording]
    observing = [dropped for dropped, recording in seen if not recording]
    assert in_training
    assert all(in_training)
    assert observing
    assert not any(observing)


def test_two_forwards_of_a_model_from_disk_differ_in_training(extractor, tmp_path):
    extractor.save(tmp_path / "model")
    loaded = Extractor.from_pretrained(tmp_path / "model", device="cpu")
    batch, _ = training_batch(loaded)
    assert not torch.equal(loaded.model(batch).logits, loaded.model(batch).logits)
    with torch.no_grad():
        assert torch.equal(loaded.model(batch).logits, loaded.model(batch).logits)


def test_observing_changes_no_bit_of_the_result(observe, extractor):
    watched, alone = copy.deepcopy(extractor.model.state_dict()), None
    by_hand(extractor, between=observe)
    after_watching = copy.deepcopy(extractor.model.state_dict())
    extractor.model.load_state_dict(watched)
    by_hand(extractor)
    alone = extractor.model.state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in after_watching.items())


def test_observing_leaves_partial_gradients_alone(extractor, observe):
    batch, targets = training_batch(extractor)
    span_loss(extractor.model(batch), targets).total.backward()
    before = [p.grad.clone() for p in extractor.model.parameters() if p.grad is not None]
    observe()
    after = [p.grad for p in extractor.model.parameters() if p.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_observing_between_forward_and_backward_is_harmless(extractor, observe):
    batch, targets = training_batch(extractor)
    torch.manual_seed(3)
    span_loss(extractor.model(batch), targets).total.backward()
    expected = [p.grad.clone() for p in extractor.model.parameters() if p.grad is not None]
    extractor.model.zero_grad()
    torch.manual_seed(3)
    loss = span_loss(extractor.model(batch), targets).total
    observe()
    loss.backward()
    found = [p.grad for p in extractor.model.parameters() if p.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_training_after_eval_names_the_call_and_changes_nothing(extractor):
    before = copy.deepcopy(extractor.model.state_dict())
    with pytest.raises(ModeError, match=r"model\.eval\(\) at loop\.py:\d+") as caught:
        by_hand(extractor, before=extractor.model.eval)
    assert "modes.training_step" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in extractor.model.state_dict().items())


def test_one_module_in_evaluation_mode_is_named(extractor):
    def flip():
        extractor.model.train()
        extractor.model.context.layers[0].eval()

    with pytest.raises(ModeError, match=r"1 is not: context\.layers\.0\. .* set on the module itself"):
        by_hand(extractor, before=flip)


def test_evaluation_mode_between_forward_and_backward_is_found(extractor):
    batch, targets = training_batch(extractor)
    loss = span_loss(extractor.model(batch), targets).total
    extractor.model.eval()
    with pytest.raises(ModeError, match="At a backward"):
        loss.backward()
    assert all(p.grad is None for p in extractor.model.parameters())


def test_every_module_flipped_alone_is_found_before_a_step(extractor):
    model = extractor.model.train()
    for name, module in model.named_modules():
        module.training = False
        with pytest.raises(ModeError, match=r"1 is not: ") as caught, modes.training_step(model):
            pass
        assert (name or "(the model itself)") + ". " in str(caught.value)
        module.training = True


def test_frozen_parts_stay_still_whoever_calls_train(extractor):
    model = extractor.model
    modes.freeze(model, ["backbone"])
    states = []
    handle = model.backbone.register_forward_hook(lambda m, _, output: states.append(output.detach().clone()))
    by_hand(extractor, before=model.train, between=model.train)
    handle.remove()
    assert all(torch.equal(states[0], state) for state in states)
    assert not model.backbone.training
    assert model.context.training
    assert all(p.grad is None for p in model.backbone.parameters())


def test_a_frozen_part_may_keep_its_dropout(extractor):
    modes.freeze(extractor.model, "backbone", dropout=True)
    extractor.model.train()
    assert extractor.model.backbone.training
    assert not any(p.requires_grad for p in extractor.model.backbone.parameters())


def test_a_model_for_inference_only_is_never_trained(extractor):
    modes.inference_only(extractor.model)
    extractor.model.train()
    assert not extractor.model.training
    with pytest.raises(ModeError, match="inference_only"), modes.training_step(extractor.model):
        pass
    with pytest.raises(ModeError, match="inference_only"):
        by_hand(extractor)


def test_saliency_has_gradients_and_no_dropout(extractor):
    batch, _ = training_batch(extractor)
    with modes.inference(extractor.model):
        expected = extractor.model(batch).logits
    gradients = []
    for _ in range(2):
        extractor.model.zero_grad()
        with modes.saliency(extractor.model):
            logits = extractor.model(batch).logits
            logits.sum().backward()
        torch.testing.assert_close(logits, expected)  # recording gradients may take another kernel
        gradients.append(extractor.model.backbone.transformer.embeddings.word_embeddings.weight.grad.clone())
    assert torch.equal(*gradients)
    assert gradients[0].abs().sum() > 0
