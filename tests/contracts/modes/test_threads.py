"""Several threads, one model: extraction while training, in any interleaving."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager

import pytest
import torch

from spanwright import ModeError, modes
from spanwright.losses import span_loss
from spanwright.modes import keeper as keeper_module
from support.loop import training_batch
from support.tiny import LABELS, SENTENCES, tiny_extractor
from support.watch import flags


@pytest.fixture(autouse=True)
def busy_switching():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def share(model, infer, step, *, readers: int, reads: int, steps: int) -> list[BaseException]:
    """Run `infer` in some threads and `step` in one; the errors of all."""
    errors: list[BaseException] = []

    def guarded(work, times):
        try:
            for _ in range(times):
                work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(infer, reads)) for _ in range(readers)]
    threads.append(threading.Thread(target=guarded, args=(step, steps)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads), "a thread starves"
    return errors


def scopes(model, inference, training_step):
    """Work that only looks at flags, for many rounds."""

    def infer():
        with inference(model):
            assert not any(flags(model).values()), "a module trains during inference"

    def step():
        with training_step(model):
            assert all(flags(model).values()), "a module sleeps during training"

    return infer, step


def test_scopes_of_many_threads(monkeypatch):
    model = tiny_extractor().model.train()
    infer, step = scopes(model, modes.inference, modes.training_step)
    assert share(model, infer, step, readers=3, reads=400, steps=200) == []
    assert all(flags(model).values())


def test_the_same_test_fails_for_scopes_that_only_save_and_restore():
    model = tiny_extractor().model.train()

    @contextmanager
    def naive(model, training):
        before = flags(model)
        for module in model.modules():
            module.training = training
        try:
            yield
        finally:
            for name, module in model.named_modules():
                module.training = before[name]

    infer, step = scopes(model, lambda m: naive(m, False), lambda m: naive(m, True))
    errors = share(model, infer, step, readers=3, reads=400, steps=200)
    assert errors or not all(flags(model).values())


def test_answers_while_training_by_hand_are_right_and_training_goes_on():
    extractor = tiny_extractor(dropout=0.3)
    batch, targets = training_batch(extractor)
    extractor.model.train()
    expected = extractor.extract(SENTENCES[0], LABELS)

    def infer():
        assert extractor.extract(SENTENCES[0], LABELS) == expected

    def step():  # no optimizer: the weights must stay for the answers to be comparable
        span_loss(extractor.model(batch), targets).total.backward()

    assert share(extractor.model, infer, step, readers=2, reads=40, steps=40) == []
    assert all(flags(extractor.model).values())


def test_a_scope_that_never_ends_is_an_error_in_other_threads(monkeypatch):
    monkeypatch.setattr(keeper_module, "LEASE_TIMEOUT", 0.05)
    model = tiny_extractor().model
    caught: list[BaseException] = []

    def step():
        try:
            with modes.training_step(model):
                pass
        except ModeError as error:
            caught.append(error)

    with modes.inference(model):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert "must end within" in str(caught[0])
    with modes.training_step(model):
        pass


def test_gradient_mode_is_each_threads_own():
    model = tiny_extractor().model
    seen = []
    with modes.inference(model):
        thread = threading.Thread(target=lambda: seen.append(torch.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]
