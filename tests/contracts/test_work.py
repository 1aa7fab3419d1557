"""How much work a call does, counted: a regression of speed that no clock has to see."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import spanwright
from spanwright.tensors import EncodedBatch
from spanwright.train_config import LoopOptions, LossOptions
from spanwright.training.step import Stepper
from spanwright.training.stream import MicroBatch
from spanwright.training.world import open_world
from support.loop import training_batch
from support.tiny import LABELS, random_text, tiny_extractor

HOME = str(Path(spanwright.__file__).parent)
OF_LSTM = 2  # looks of torch's LSTM at a tensor that is on the host anyway
WAITS = ("aten._local_scalar_dense.default", "aten.nonzero.default")


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do; of that, `WAITS` would make a host wait for its device."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.counts[str(operation)] += 1
        return operation(*args, **(kwargs or {}))

    @property
    def waits(self):
        return sum(self.counts[name] for name in WAITS)


def texts(num, longest=40):
    rng = random.Random(0)
    return [random_text(rng, rng.randint(3, longest)) for _ in range(num)]


def python_calls(work):
    """Calls of Python functions of the library, network aside."""
    calls = 0

    def note(frame, event, _):
        nonlocal calls
        name = frame.f_code.co_filename
        calls += event == "call" and name.startswith(HOME) and f"{HOME}/model" not in name

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_python_calls_per_text_do_not_grow_with_its_words():
    extractor = tiny_extractor()
    some = texts(200)
    extractor.extract_many(some, LABELS)  # fills the caches
    calls = python_calls(lambda: extractor.extract_many(some, LABELS))
    assert calls < 40 * len(some)
    longer = texts(200, longest=150)
    extractor.extract_many(longer, LABELS)
    assert python_calls(lambda: extractor.extract_many(longer, LABELS)) < 1.5 * calls


def test_the_tokenizer_is_not_asked_twice_for_a_word(monkeypatch):
    extractor = tiny_extractor()
    some = texts(20)
    extractor.extract_many(some, LABELS)
    monkeypatch.setattr(extractor.encoder.subtokens, "_tokenizer", None)
    extractor.extract_many(some, LABELS)


def test_little_of_what_the_network_reads_is_padding(monkeypatch):
    extractor = tiny_extractor()
    seen = Counter()
    real = type(extractor.model)._scores

    def note(model, batch: EncodedBatch, *thresholds):
        seen.update(padded=batch.attention_mask.numel(), real=int(batch.attention_mask.sum()), batches=1)
        return real(model, batch, *thresholds)

    monkeypatch.setattr(type(extractor.model), "_scores", note)
    extractor.extract_many(texts(300), LABELS)
    assert seen["padded"] < 1.06 * seen["real"]
    assert seen["batches"] < 40


def test_a_batch_waits_once_for_its_answers():
    extractor = tiny_extractor("deberta-v2")  # of BERT, transformers looks whether there is padding
    some = texts(150, longest=20)
    with Operations() as operations:
        extractor.extract_many(some, LABELS)
    batches = operations.counts["aten.sigmoid.default"]
    assert batches >= 2
    assert operations.waits <= (1 + OF_LSTM) * batches  # the list of candidates, which a GPU does not wait for either


def test_the_next_rows_are_read_after_the_backward_and_before_the_host_waits(tmp_path, monkeypatch):
    extractor = tiny_extractor()
    micro = MicroBatch(*training_batch(extractor), ("a", "b"))
    seen = []
    monkeypatch.setattr(Stepper, "_require_finite_losses", staticmethod(lambda *_: seen.append("losses are known")))

    def meanwhile():
        gradients = [p.grad is not None for p in extractor.model.parameters()]
        seen.append("after the backward" if any(gradients) else "before it")

    with open_world(LoopOptions(), tmp_path, "cpu") as world:
        model, stepped = world.prepare(extractor.model, torch.optim.SGD(extractor.model.parameters(), lr=0.0))
        stepper = Stepper(world, model, stepped, loss=LossOptions(), max_grad_norm=1.0)
        stepper.step(1, lambda: [micro] * 2, received=lambda: 0, meanwhile=meanwhile)
        world.release(model)
    assert seen == ["after the backward", "losses are known"]


def test_a_step_waits_as_often_for_one_micro_batch_as_for_four(tmp_path):
    extractor = tiny_extractor("deberta-v2")
    batch, targets = training_batch(extractor)
    micro = MicroBatch(batch, targets, ("a", "b"))
    optimizer = torch.optim.SGD(extractor.model.parameters(), lr=0.0)
    waits = []
    with open_world(LoopOptions(), tmp_path, "cpu") as world:
        model, stepped = world.prepare(extractor.model, optimizer)
        stepper = Stepper(world, model, stepped, loss=LossOptions(), max_grad_norm=1.0)
        for number in (1, 4):
            with Operations() as operations:
                stepper.step(1, lambda n=number: [micro] * n, received=lambda: 0)
            waits.append(operations.waits)
        world.release(model)
    assert waits[0] == waits[1] <= 3  # for the losses, the norm, and whether that is finite
