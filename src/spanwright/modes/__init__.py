"""Training and evaluation modes that are right by construction.

The only package that writes a `training` flag or the gradient mode; everything else asks here. Four layers, each of
which alone would not do:

1. *Kernel.* `model.lstm.GradSafeLSTM` cannot raise the cuDNN error, whatever its flag.
2. *Plan* (`plan.py`). Each module has a declared `Mode`, its own or its parent's. `model.train()`, by whomever,
   applies the plan.
3. *Scopes* (`scopes.py`, kept by `keeper.py`). `inference` and `saliency` are shared and counted, `training_step` is
   exclusive; they put every flag back for any number of threads, in any order of exits, after any exception.
4. *Checks.* A forward that records gradients runs under the plan or raises `ModeError`, on every device.

A model that nobody has told its mode (never `train()`, never `eval()`) follows autograd: a forward that records
gradients is a training forward, any other is an inference forward.
"""

from spanwright.modes.keeper import Moded
from spanwright.modes.plan import Mode, freeze, frozen, inference_only, rest, thaw
from spanwright.modes.report import ModeReport, ModuleMode, declarations, fingerprint, report, states
from spanwright.modes.scopes import TrainingStep, forward_scope, inference, saliency, training_step

__all__ = [
    "Mode",
    "ModeReport",
    "Moded",
    "ModuleMode",
    "TrainingStep",
    "declarations",
    "fingerprint",
    "forward_scope",
    "freeze",
    "frozen",
    "inference",
    "inference_only",
    "report",
    "rest",
    "saliency",
    "states",
    "thaw",
    "training_step",
]
