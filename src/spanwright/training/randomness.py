"""The global random states: python, numpy, torch, and the device's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """The states now, as values that torch saves and loads without running code."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "torch": torch.random.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """The opposite of `random_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.random.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_all(seed: int, *, rank: int, step: int = 0) -> None:
    """States that are a function of the arguments: ranks drop out differently, runs alike."""
    number = random.Random(f"{seed}/{rank}/{step}/states").getrandbits(32)
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@contextmanager
def states_put_back() -> Iterator[None]:
    """A block after which the caller's random states are as before it."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)
