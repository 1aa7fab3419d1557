"""An interrupt before any line of the mode machinery: no scope stays open, and no wrong mode goes unnoticed."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path

import pytest
import torch

from spanwright import ModeError, modes
from spanwright.modes import keeper
from support.watch import flags, set_flags

ROOM = str(Path(modes.__file__).parent)


class Interrupter:
    """Raises KeyboardInterrupt before the n-th line that runs within the modes package.

    Not before the line of a ``with lock``, which runs a second time as the lock is let go: Python never answers a
    signal between the end of such a block and the release.
    """

    def __init__(self, at: int) -> None:
        self.at, self.count, self.fired = at, 0, False

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(ROOM) or frame.f_code.co_name == "__del__":
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and not self.fired and not line.startswith("with "):
            self.count += 1
            if self.count == self.at:
                self.fired = True
                raise KeyboardInterrupt
        return self


class Small(modes.Moded):
    """Few modules, for the walks over them are most of the lines."""

    def __init__(self):
        super().__init__()
        self.inside = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
        modes.rest(self)

    def forward(self, batch):
        with modes.forward_scope(self) as watch:
            output = self.inside(batch)
            watch(output)
        return output


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
def test_an_interrupt_before_any_line(name, monkeypatch):
    monkeypatch.setattr(keeper, "LEASE_TIMEOUT", 1.0)
    model = Small().train()
    batch = torch.ones(1, 2)
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
