"""The mode tests can fail: each broken way of handling modes that is known from elsewhere is caught.

| mutant | what it does | caught by |
|---|---|---|
| gliner's way | `eval()` on entry, nothing on exit | restores |
| root flag only | restores the model's own flag, not its modules' | restores |
| no finally | restores only if nothing was raised | restores after an error |
| snapshot only | each scope saves and restores for itself, uncounted | interleaved exits |
| frozen forgotten | `train()` wakes every module | frozen stays still |
| no check | nobody looks at the flags before a step | flipped module is found |
| check at the end only | the flags are looked at once the step is over | flipped module is found |
| plain LSTM | the kernel is told `self.training` | kernel keeps what its backward needs |
| gradients left off | the scope does not restore the gradient mode | restores |
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

import spanwright.extractor
from spanwright import ModeError, modes
from spanwright.model import lstm
from spanwright.model.lstm import GradSafeLSTM
from spanwright.modes import plan, scopes
from spanwright.modes.keeper import Keeper
from support.loop import by_hand, training_batch
from support.tiny import LABELS, SENTENCES, tiny_extractor
from support.watch import flags


def check_restores():
    extractor = tiny_extractor()
    extractor.model.train()
    extractor.extract(SENTENCES[0], LABELS)
    assert all(flags(extractor.model).values())
    assert torch.is_grad_enabled()


def check_restores_after_an_error():
    extractor = tiny_extractor()
    extractor.model.train()
    extractor.model._scores = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        extractor.extract(SENTENCES[0], LABELS)
    assert all(flags(extractor.model).values())
    assert torch.is_grad_enabled()


def check_interleaved_exits():
    model = tiny_extractor().model.train()
    first, second = spanwright.extractor.modes.inference(model), spanwright.extractor.modes.inference(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(flags(model).values())
    second.__exit__(None, None, None)
    torch.set_grad_enabled(True)
    assert all(flags(model).values())


def check_frozen_stays_still():
    model = tiny_extractor().model
    modes.freeze(model, "backbone")
    model.train()
    assert not any(flags(model.backbone).values())


def check_flipped_module_is_found():
    extractor = tiny_extractor()
    before = {name: value.clone() for name, value in extractor.model.state_dict().items()}

    def flip():
        extractor.model.train()
        extractor.model.context.eval()

    with pytest.raises(ModeError, match="context"):
        by_hand(extractor, before=flip)
    assert all(torch.equal(value, before[name]) for name, value in extractor.model.state_dict().items())


def check_kernel_keeps_what_its_backward_needs():
    """A CPU never complains, so the check is what the kernel is told: cuDNN raises in the backward if it is False."""
    extractor = tiny_extractor()
    batch, _ = training_batch(extractor)
    told, kernel = [], torch._VF.lstm

    def spy(*arguments):
        told.append(arguments[-2])  # (..., train, bidirectional) of packed input
        return kernel(*arguments)

    with pytest.MonkeyPatch.context() as patch, modes.saliency(extractor.model):
        patch.setattr(lstm, "_reads_rows", lambda words: False)  # as on a GPU
        patch.setattr(torch._VF, "lstm", spy)
        patch.setattr(torch, "lstm", spy)
        extractor.model(batch).logits.sum().backward()
    assert told == [True]


CHECKS = {
    "restores": check_restores,
    "restores after an error": check_restores_after_an_error,
    "interleaved exits": check_interleaved_exits,
    "frozen stays still": check_frozen_stays_still,
    "flipped module is found": check_flipped_module_is_found,
    "kernel keeps what its backward needs": check_kernel_keeps_what_its_backward_needs,
}


class Stand_in:  # noqa: N801
    """`modes` as the extractor sees it, with another `inference`."""

    def __init__(self, inference):
        self.inference = contextmanager(inference)


def gliners_way(patch):
    def inference(model):
        model.eval()
        with torch.no_grad():
            yield

    patch.setattr(spanwright.extractor, "modes", Stand_in(inference))


def root_flag_only(patch):
    def inference(model):
        before = model.training
        plan.write_flags(plan.evaluation_flags(model))
        try:
            with torch.no_grad():
                yield
        finally:
            model.training = before

    patch.setattr(spanwright.extractor, "modes", Stand_in(inference))


def no_finally(patch):
    def inference(model):
        before = plan.current_flags(model)
        plan.write_flags(plan.evaluation_flags(model))
        with torch.no_grad():
            yield
        plan.write_flags(before)

    patch.setattr(spanwright.extractor, "modes", Stand_in(inference))


def snapshot_only(patch):
    def inference(model):
        before = plan.current_flags(model)
        plan.write_flags(plan.evaluation_flags(model))
        try:
            yield
        finally:
            plan.write_flags(before)

    patch.setattr(spanwright.extractor, "modes", Stand_in(inference))


def gradients_left_off(patch):
    patch.setattr(scopes._Shared, "__exit__", lambda self, *_: self._give_back())


def frozen_forgotten(patch):
    patch.setattr("spanwright.modes.keeper.planned_flags", lambda root: [(m, True) for m in root.modules()])


def no_check(patch):
    patch.setattr(Keeper, "require_plan", lambda self, when: None)


def check_at_the_end_only(patch):
    check = Keeper.require_plan
    patch.setattr(Keeper, "require_plan", lambda self, when: check(self, when) if "end" in when else None)


def plain_lstm(patch):
    patch.setattr(GradSafeLSTM, "forward", torch.nn.LSTM.forward)


MUTANTS = {
    gliners_way: "restores",
    root_flag_only: "restores",
    no_finally: "restores after an error",
    snapshot_only: "interleaved exits",
    gradients_left_off: "restores",
    frozen_forgotten: "frozen stays still",
    no_check: "flipped module is found",
    check_at_the_end_only: "flipped module is found",
    plain_lstm: "kernel keeps what its backward needs",
}


@pytest.mark.parametrize("name", CHECKS)
def test_the_real_code_passes(name):
    CHECKS[name]()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_each_mutant_is_caught(mutant, monkeypatch):
    with monkeypatch.context() as patch:
        mutant(patch)
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            CHECKS[MUTANTS[mutant]]()
    torch.set_grad_enabled(True)
