"""Snapshots of everything that a call must leave as it found it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn

from spanwright.extractor import Extractor


def flags(model: nn.Module) -> dict[str, bool]:
    """The training flag of every module."""
    return {name: module.training for name, module in model.named_modules()}


def snapshot(extractor: Extractor) -> dict[str, Any]:
    """Flags, gradients, global states, tokenizer settings, places."""
    model = extractor.model
    backend = extractor.package.tokenizer.backend_tokenizer
    return {
        "flags": flags(model),
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "places": [(parameter.device, parameter.dtype) for parameter in model.parameters()],
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "torch random": torch.random.get_rng_state().numpy().tobytes(),
        "cuda random": torch.cuda.get_rng_state().numpy().tobytes() if torch.cuda.is_initialized() else b"",
        "python random": random.getstate(),
        "numpy random": str(np.random.get_state(legacy=False)),
        "tokenizer": (str(backend.truncation), str(backend.padding), backend.encode_special_tokens),
        "defaults": (torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()),
    }


def set_flags(model: nn.Module, names: dict[str, bool]) -> None:
    """Write flags past everything that guards them."""
    for name, module in model.named_modules():
        module.__dict__["training"] = names[name]
