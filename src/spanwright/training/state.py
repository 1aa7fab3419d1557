"""Training states: everything that a run needs to go on as if it had not stopped, a sealed folder for each."""

from __future__ import annotations

import json
import os
import pickle
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spanwright import faults
from spanwright.checkpoint.files import refusals
from spanwright.checkpoint.sealed import damage, sealed_folder
from spanwright.errors import CheckpointError, ConfigError

_NAME = re.compile(r"state-(\d{6,})(-early)?")
_RECORD = "run.json"
_TENSORS = ("model", "optimizer", "random")
_RECORDED = ("progress", "schedule", "scaler", "data", "labels", "modes", "config", "world")

FREE_TO_CHANGE = {"save_every", "keep_states", "num_workers", "grace_period", "rank_timeout", "tracker", "index_above"}
"""Keys of section [training] that cannot change a weight: a resumed run may have others."""


@dataclass
class Progress:
    """How far a run is.

    position: micro-batches of the stream that all processes have read. evaluated: whether the evaluation that is due
    at `step`, if any, has been made.
    """

    step: int = 0
    position: int = 0
    best_f1: float = -1.0
    best_step: int = 0
    evaluations_without_gain: int = 0
    evaluated: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """One training state. What is a mapping has string keys and holds tensors or plain values.

    random: of each rank. data: which rows, and where in their order; labels: what the draw of labels depends on;
    modes: what each module is declared for, and whether it learns; world: processes.
    """

    progress: Progress
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    random: list[dict[str, Any]]
    schedule: Mapping[str, Any]
    scaler: Mapping[str, Any]
    data: Mapping[str, Any]
    labels: Mapping[str, Any]
    modes: Mapping[str, Any]
    config: Mapping[str, Any]
    world: Mapping[str, Any]


def name_of_state(progress: Progress) -> str:
    """Its folder's name. A state saved by a signal, before the evaluation that was due, comes before the other."""
    return f"state-{progress.step:06}" + ("" if progress.evaluated else "-early")


def save_state(output: Path, state: State, *, keep: int) -> Path:
    """Write a state whole or not at all, then remove older ones but the newest `keep` and the best.

    Raises:
        StorageError: the folder cannot be written; the states in it are untouched.

    """
    folder = output / name_of_state(state.progress)
    before = states_in(output)
    kept = f"The newest state before it, {before[0]}, is as it was." if before else "There is no state before it."
    size = sum(_num_bytes(getattr(state, name)) for name in _TENSORS)
    remedy = f"{kept} Make room, then go on with `--resume`."
    if folder.exists():  # damaged, or the run would not write it again
        with refusals(folder, remedy=remedy):
            _remove(folder)
    with sealed_folder(folder, num_bytes=size, remedy=remedy) as files:
        for name in _TENSORS:
            files.save(f"{name}.pt", getattr(state, name))
        record = {name: getattr(state, name) for name in _RECORDED} | {"progress": asdict(state.progress)}
        files.save_json(
            _RECORD, {**record, "versions": {"torch": torch.__version__, "python": platform.python_version()}}
        )
    _rotate(output, keep, state.progress.best_step)
    return folder


def newest_state(output: Path, say: Callable[[str], object]) -> Path | None:
    """The newest state that is whole; None where there is none. Each that is passed over is told, with the reason."""
    for folder in states_in(output):
        if not (reason := damage(folder)):
            return folder
        say(f"{folder} is passed over: it {reason}.")
    return None


def load_state(folder: Path) -> State:
    """A state that `newest_state` found whole.

    Raises:
        CheckpointError: it lacks a part, or is of another kind.

    """
    faults.point("state.load")
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        tensors = {
            name: torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True)
            for name in _TENSORS
            if (folder / f"{name}.pt").exists()
        }
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{folder} must be a training state, but cannot be read as one: {reason}") from None
    parts = {name: record[name] for name in _RECORDED if name in record} | tensors
    if missing := [name for name in (*_TENSORS, *_RECORDED) if name not in parts]:
        raise CheckpointError(
            f"{folder} must hold every part of a training state, but lacks {', '.join(missing)}. A run that goes on "
            "without would be another run."
        )
    return State(**{**parts, "progress": Progress(**parts["progress"])})


def states_in(output: Path) -> list[Path]:
    """The folders of states in a run's folder, newest first."""
    found = [
        (match, path) for path in output.glob("state-*") if (match := _NAME.fullmatch(path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(found, key=lambda pair: (int(pair[0][1]), not pair[0][2]), reverse=True)]


def state_of_step(output: Path, step: int) -> Path | None:
    """The whole state of a step, after its evaluation."""
    folder = output / f"state-{step:06}"
    return folder if folder.is_dir() and not damage(folder) else None


def clear_leftovers(output: Path) -> None:
    """Remove what a killed process left: folders half written, and states half removed."""
    for path in output.glob(".state-*"):
        shutil.rmtree(path, ignore_errors=True)


def require_same(then: State, now: Mapping[str, Mapping[str, Any]], *, accept: bool) -> list[str]:
    """What differs between a state and the run that goes on from it, with both values.

    `now` has the parts config, world, data, labels and modes as a state has them.

    Raises:
        ConfigError: something differs, and `accept` is not set.

    """
    changed = list(_changes(then, now))
    if changed and not accept:
        shown = "; ".join(changed[:8]) + (f" and {len(changed) - 8} more" if len(changed) > 8 else "")
        raise ConfigError(
            f"A resumed run must be the run that was begun, but these changed: {shown}. Set them back, or go on with "
            "them by `--accept-changes`; the result is then another than that of the run as it was begun."
        )
    return changed


def _changes(then: State, now: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for section, values in now["config"].items():
        for key, value in values.items():
            before = then.config.get(section, {}).get(key)
            if before != value and not (section == "training" and key in FREE_TO_CHANGE):
                yield f"{section}.{key} ({before!r} then, {value!r} now)"
    for part in ("world", "data", "labels", "modes"):
        before = getattr(then, part)
        for key in dict.fromkeys([*now[part], *before]):
            old, new = before.get(key), now[part].get(key)
            if old != new:
                yield f"{part}: {key} ({old!r} then, {new!r} now)"


def _rotate(output: Path, keep: int, best_step: int) -> None:
    """Keep the newest `keep` states and that of the best step; the one just written is the newest."""
    for folder in states_in(output)[max(keep, 1) :]:
        if folder.name != f"state-{best_step:06}":
            faults.point("state.rotate")
            with suppress(OSError):  # the new state is there; an old one too many does no harm
                _remove(folder)


def _remove(folder: Path) -> None:
    """Under a name that nobody takes for a state first: a removal that is cut short leaves no half state."""
    gone = folder.with_name(f".{folder.name}-{os.getpid()}-removed")
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _num_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_num_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_num_bytes, value))
    return 0
