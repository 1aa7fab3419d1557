"""An interrupt before any line of the mode machinery: no scope stays open, and no wrong mode goes unnoticed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from support.loop import training_batch
from support.tiny import tiny_extractor
from support.watch import flags, set_flags

from spanwright import ModeError, modes

ROOM = str(Path(modes.__file__).parent)


class Interrupter:
    """Raises KeyboardInterrupt before the n-th line that runs within the modes package."""

    def __init__(self, at: int) -> None:
        self.at, self.count, self.fired = at, 0, False

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(ROOM):
            return None
        if event == "line" and not self.fired:
            self.count += 1
            if self.count == self.at:
                self.fired = True
                raise KeyboardInterrupt
        return self


def uses(model, batch):
    def inference():
        with modes.inference(model):
            pass

    def saliency():
        with modes.saliency(model):
            pass

    def step():
        with modes.training_step(model):
            pass

    def forward():
        model(batch)

    return {"inference": inference, "saliency": saliency, "training step": step, "forward": forward}


@pytest.mark.parametrize("name", ["inference", "saliency", "training step", "forward"])
def test_an_interrupt_before_any_line(name):
    extractor = tiny_extractor(hidden_size=8, max_width=2)
    model = extractor.model.train()
    batch, _ = training_batch(extractor)
    use = uses(model, batch)[name]
    wanted = flags(model)
    at, undetected = 0, []
    while True:
        at += 1
        interrupter = Interrupter(at)
        sys.settrace(interrupter)
        try:
            use()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        if not interrupter.fired:
            break
        torch.set_grad_enabled(True)  # restored by the scope, unless the interrupt came before its first line
        if flags(model) != wanted:
            try:
                with modes.training_step(model):
                    undetected.append(at)
            except ModeError:
                set_flags(model, wanted)
        with modes.training_step(model), pytest.raises(ModeError):
            modes.inference(model).__enter__()
        with modes.inference(model), pytest.raises(ModeError):
            modes.training_step(model).__enter__()
        assert flags(model) == wanted
    assert at > 20
    assert undetected == []
