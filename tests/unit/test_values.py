from __future__ import annotations

import math
import pickle
from dataclasses import fields
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from spanwright import ConfigError, DecodeOptions, Entity, SpanwrightError, TrainConfig
from spanwright.config import ModelConfig
from spanwright.data.batches import plan_batches
from spanwright.data.labels import LabelSampler
from spanwright.entities import Example, ScoredSpan, Span
from spanwright.losses import cell_loss, span_loss
from spanwright.tensors import EncodedBatch, SpanScores, Targets, span_mask
from spanwright.train_config import (
    LabelOptions,
    LoopOptions,
    LossOptions,
    OptimizerOptions,
    ValidationOptions,
    from_mapping,
    toml_value,
    with_override,
)
from support.loop import training_batch
from support.tiny import tiny_extractor


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trainin": {}}, "`trainin` is not a key of TrainConfig. Did you mean `training`?"),
        ({"training": {"epoch": 1}}, r"`epoch` is not a key of section \[training\]. Did you mean `epochs`?"),
        ({"training": 3}, "`training` must be a table"),
        ({"training": {"batch_size": "8"}}, "must be of type int"),
        ({"training": {"batch_size": True}}, "must be of type int"),
        ({"training": {"freeze": 3}}, "must be a list"),
        ({"training": {"freeze": [3]}}, "must be of type str"),
        ({"training": {"precision": "fp8"}}, "must be one of 'fp32'"),
        ({"labels": {"num_negatives": "many"}}, "must be of type int"),
    ],
)
def test_a_wrong_key_or_value_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainConfig, values)


def test_a_right_mapping():
    config = from_mapping(
        TrainConfig, {"training": {"epochs": 3, "freeze": ["backbone"]}, "labels": {"num_negatives": None}}
    )
    assert config.training.epochs == 3.0
    assert config.training.freeze == ("backbone",)
    assert with_override(config, "optimizer.lr = 0").optimizer.lr == 0.0
    assert with_override(config, "training.freeze=backbone,labels").training.freeze == ("backbone", "labels")
    assert with_override(config, "labels.num_negatives=3").labels.num_negatives == 3
    assert from_mapping(DecodeOptions, {"threshold": {"a": 0.2}}).threshold_of("a") == 0.2
    assert toml_value("1e-4") == 1e-4
    assert toml_value("cosine") == "cosine"


@pytest.mark.parametrize("assignment", ["optimizer.lr", "lr=1", "optimiser.lr=1"])
def test_a_wrong_assignment(assignment):
    with pytest.raises(ConfigError):
        with_override(TrainConfig(), assignment)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LoopOptions(epochs=0),
        lambda: LoopOptions(accumulate=0),
        lambda: LoopOptions(seed=-1),
        lambda: LoopOptions(tracker="wandb"),
        lambda: OptimizerOptions(lr=-1),
        lambda: OptimizerOptions(warmup=2),
        lambda: LossOptions(focal_alpha=2),
        lambda: LossOptions(focal_gamma=-1),
        lambda: LossOptions(prob_margin=1),
        lambda: LossOptions(label_smoothing=1),
        lambda: LabelOptions(max_labels=0),
        lambda: LabelOptions(num_negatives=-1),
        lambda: ValidationOptions(every=-1),
        lambda: ValidationOptions(threshold=3),
        lambda: ModelConfig("x", hidden_size=3),
        lambda: ModelConfig("x", max_width=0),
        lambda: ModelConfig("x", dropout=1),
    ],
)
def test_every_rule_of_the_options(make):
    with pytest.raises(ConfigError, match="must"):
        make()


def test_errors_are_what_callers_expect():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, SpanwrightError)


def test_values():
    assert Entity(0, 3, "Ada", "person", 0.5).to_dict() == {
        "start": 0, "end": 3, "text": "Ada", "label": "person", "score": 0.5,
    }  # fmt: skip
    assert ScoredSpan(1, 2, "x", 0.5).shifted(3) == ScoredSpan(4, 5, "x", 0.5)
    assert Example.from_words(["a", "bc"]).words[1].start == 2


def test_masks_by_hand():
    assert span_mask(torch.tensor([[True, True, False]]), 2).tolist() == [[[True, True], [True, False], [False, False]]]


def test_shapes_are_checked():
    batch = [torch.zeros(2, 5), torch.ones(2, 5), torch.zeros(2, 1), torch.ones(2, 1), *[torch.zeros(2, 3)] * 3]
    EncodedBatch(*batch, (3, 3)).to("cpu")
    with pytest.raises(ValueError, match=r"`label_mask` must be of shape \(2, 1\)"):
        EncodedBatch(*batch[:3], torch.ones(2, 2), *batch[4:], (3, 3))
    with pytest.raises(ValueError, match="one entry for each of 2 rows"):
        EncodedBatch(*batch, (3,))


def test_the_loss_by_hand():
    logits = torch.zeros(1, 2, 2, 1)
    scores = SpanScores(logits, torch.tensor([[True, True]]), torch.tensor([[True]]))
    values = torch.zeros(1, 2, 2, 1)
    values[0, 0, 0, 0] = 1
    loss = span_loss(scores, Targets(values, 3))
    assert loss.count == 3  # two words, two widths: the second word's wide span is not real
    assert loss.total.item() == pytest.approx(3 * math.log(2))
    focal = cell_loss(torch.tensor([math.log(3)]), torch.tensor([1.0]), LossOptions(focal_alpha=0.75, focal_gamma=2))
    assert focal.item() == pytest.approx(0.75 * 0.25**2 * -math.log(0.75))
    margin = cell_loss(torch.tensor([0.0]), torch.tensor([0.0]), LossOptions(prob_margin=0.2))
    assert margin.item() == pytest.approx(-math.log(0.7))


@pytest.mark.parametrize(("value", "target"), [(1.0, 0.95), (0.0, 0.05)])
def test_smoothing_moves_targets_towards_a_half(value, target):
    found = cell_loss(torch.tensor([math.log(3)]), torch.tensor([value]), LossOptions(label_smoothing=0.1))
    assert found.item() == pytest.approx(-target * math.log(0.75) - (1 - target) * math.log(0.25))


def test_a_plain_loss_is_that_of_a_focal_one_without_focus():
    """Logits too large for a probability among them; the plain one takes another way."""
    logits = torch.tensor([-200.0, -30.0, -1.0, 0.0, 2.0, 200.0]).repeat(2)
    values = torch.tensor([0.0, 1.0]).repeat_interleave(6)
    plain = cell_loss(logits, values, LossOptions())
    weighted = cell_loss(logits, values, LossOptions(focal_alpha=0.5))
    torch.testing.assert_close(plain, 2 * weighted)


def test_a_lost_positive_keeps_its_gradient_in_the_mean():
    for reduction, gradient in (("mean", -1.0), ("sum", 0.0)):
        logit = torch.tensor([-40.0], requires_grad=True)
        cell_loss(logit, torch.tensor([1.0]), LossOptions(reduction=reduction)).sum().backward()
        assert logit.grad.item() == pytest.approx(gradient)


ADA = Example.from_words(["Ada"], [Span(0, 1, "person")], negatives=("river",))


ALL = LabelOptions()


def asked(options=ALL, example=ADA, inventory=("person", "city", "river", "year"), **place):
    return LabelSampler(inventory, options, seed=1).labels_for(example, **{"epoch": 0, "index": 0, **place})


def test_a_row_is_asked_the_whole_of_a_small_inventory():
    assert sorted(asked()) == ["city", "person", "river", "year"]
    assert sorted(asked(example=Example.from_words(["nothing"]))) == ["city", "person", "river", "year"]


def test_stated_negatives_come_first_and_positives_always():
    assert sorted(asked(LabelOptions(max_labels=2))) == ["person", "river"]
    assert asked(LabelOptions(max_labels=1)) == ("person",)
    assert sorted(asked(LabelOptions(num_negatives=0))) == ["person"]
    assert len(asked(LabelOptions(num_negatives=0), Example.from_words(["nothing"]))) == 1
    stated = Example.from_words(["Ada"], [Span(0, 1, "person")], labels=("year",))
    assert sorted(asked(example=stated)) == ["person", "year"]


def test_labels_depend_on_seed_epoch_and_index_alone():
    orders = {asked(epoch=epoch, index=index) for epoch in range(3) for index in range(10)}
    assert len(orders) > 5
    assert asked(epoch=2, index=7) == asked(epoch=2, index=7)


def test_batches_hold_every_row_once_within_the_budget():
    costs = [1 + (7 * i) % 40 for i in range(500)]
    batches = list(plan_batches(costs, batch_size=8, max_tokens=100, seed=0, epoch=0))
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    assert all(len(b) <= 8 and (len(b) == 1 or len(b) * max(costs[i] for i in b) <= 100) for b in batches)
    padded = sum(len(b) * max(costs[i] for i in b) for b in batches)
    assert padded < 1.15 * sum(costs)
    assert batches != list(plan_batches(costs, batch_size=8, max_tokens=100, seed=0, epoch=1))
    assert list(plan_batches([500], batch_size=8, max_tokens=100, seed=0, epoch=0)) == [[0]]


def test_a_batch_travels_to_another_process_as_arrays():
    """Each tensor that is sent costs the receiver a question to the sender."""
    extractor = tiny_extractor()
    batch, targets = training_batch(extractor)
    sent = ForkingPickler.dumps((batch, targets))
    assert b"rebuild_tensor" not in bytes(sent)
    for given, found in zip((batch, targets), pickle.loads(sent), strict=True):
        for field in fields(given):
            value = getattr(given, field.name)
            if isinstance(value, torch.Tensor):
                assert torch.equal(getattr(found, field.name), value)
                assert getattr(found, field.name).dtype == value.dtype
            else:
                assert getattr(found, field.name) == value


def test_half_precision_is_sent_as_it_is():
    scores = SpanScores(torch.ones(1, 2, 2, 1, dtype=torch.bfloat16), torch.ones(1, 2) > 0, torch.ones(1, 1) > 0)
    assert torch.equal(pickle.loads(pickle.dumps(scores)).logits, scores.logits)


def test_cells_that_are_long_decided_have_no_gradient():
    """Numbers below 1e-38 are computed by another path of a processor, a hundred times slower."""
    logits = torch.tensor([-80.0, -60.0, -1.0, 80.0], requires_grad=True)
    scores = SpanScores(logits.view(1, 1, 1, 4), torch.ones(1, 1) > 0, torch.ones(1, 4) > 0)
    targets = Targets(torch.tensor([0.0, 0.0, 1.0, 0.0]).view(1, 1, 1, 4), 4)
    span_loss(scores, targets).total.backward()
    expected = [0.0, math.exp(-60), -1 / (1 + math.exp(-1.0)), 1.0]
    assert logits.grad.tolist() == pytest.approx(expected, rel=1e-5, abs=0.0)


def test_a_loss_leaves_no_hook_on_the_scores():
    logits = torch.zeros(1, 1, 1, 1, requires_grad=True) * 1.0
    scores = SpanScores(logits, torch.ones(1, 1) > 0, torch.ones(1, 1) > 0)
    span_loss(scores, Targets(torch.zeros(1, 1, 1, 1), 1))
    assert not logits._backward_hooks
