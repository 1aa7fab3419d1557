"""The training state: everything that a run needs to go on as if it had not stopped, in one file."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spanwright.checkpoint.files import staged_folder
from spanwright.config import TrainConfig
from spanwright.errors import CheckpointError, ConfigError

STATE_FOLDER = "state"
_FILE = "state.pt"


@dataclass
class Progress:
    """How far a run is. `position` counts the micro-batches of the stream that all processes have read."""

    step: int = 0
    position: int = 0
    best_f1: float = -1.0
    best_step: int = 0
    evaluations_without_gain: int = 0


def save_state(output: Path, *, config: TrainConfig, progress: Progress, parts: dict[str, Any]) -> None:
    """Write the state of a run to its folder, whole or not at all. `parts` are state dicts by name.

    Raises:
        CheckpointError: the folder cannot be written; the state in it is untouched.

    """
    state = {"config": asdict(config), "progress": asdict(progress), "random": _random_state(), **parts}
    with staged_folder(output / STATE_FOLDER) as staging:
        torch.save(state, staging / _FILE)


def load_state(output: Path, *, config: TrainConfig) -> dict[str, Any] | None:
    """The last state in a run's folder; None if there is none. The global random states become what they were then.

    Raises:
        CheckpointError: the file is damaged.
        ConfigError: the run was begun with another configuration.

    """
    path = output / STATE_FOLDER / _FILE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} must be a training state, but cannot be read as one: {reason}") from None
    _require_same_config(state["config"], asdict(config))
    _restore_random_state(state["random"])
    state["progress"] = Progress(**state["progress"])
    return state


@contextmanager
def random_from(seed: int) -> Iterator[None]:
    """A block in which what dropout draws follows from `seed`; the global random states are as before after it."""
    before = _random_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        _restore_random_state(before)


def _require_same_config(then: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [
        f"{section}.{key} ({then.get(section, {}).get(key)!r} then, {value!r} now)"
        for section, values in now.items()
        for key, value in values.items()
        if then.get(section, {}).get(key) != value
    ]
    if changed:
        raise ConfigError(f"A resumed run must keep its configuration, but these changed: {', '.join(changed)}.")


def _random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "torch": torch.random.get_rng_state(),
        "cuda": cuda,
    }


def _restore_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.random.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
