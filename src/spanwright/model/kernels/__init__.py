"""GPU kernels of our own, in Triton: each does what a plain form beside it does, which stays its oracle.

They are used where `are_to_be_had` says so; the modules in here import Triton, so they are imported only then.
"""

from __future__ import annotations

import importlib.util
import logging

import torch

enabled = True  # False has the plain forms compute, in this process

_log = logging.getLogger(__name__)
_tried: dict[torch.device, bool] = {}


def are_to_be_had(device: torch.device) -> bool:
    """Whether kernels can be built for a device: found out with one, so not while a recording is made.

    It needs an NVIDIA GPU of compute capability 8 or more, Triton (torch brings it on Linux) and a C compiler. What is
    compiled by torch as a whole keeps to the plain forms.
    """
    if not enabled or device.type != "cuda" or torch.compiler.is_compiling():
        return False
    if device not in _tried:
        if torch.cuda.is_current_stream_capturing():  # the host looks at what the kernel gives: that spoils a recording
            return False
        _tried[device] = _can_be_built(device)
    return _tried[device]


def _can_be_built(device: torch.device) -> bool:
    if importlib.util.find_spec("triton") is None or torch.version.hip is not None:
        return False
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        from spanwright.model.kernels import spans

        one = torch.ones(1, 1, 16, device=device)
        found, _ = spans.products(one, one, one, 1, 0.0, recording=False)
        return bool(found.item() == 32.0)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no compiler, no driver ...: Triton's own kinds of errors among them
        _log.warning("Kernels of our own cannot be built, and a GPU takes longer: %s", error)
        return False
