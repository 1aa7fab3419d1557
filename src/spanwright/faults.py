"""Fault points: the named places at which a test can make a process fail. All of them are listed here.

``SPANWRIGHT_FAULTS="state.rename:kill@3"`` kills the process the third time that it reaches that point; several are
joined by commas, and ``:kill@3/1`` means rank 1 alone. Without the variable a point costs one look at a global.

Actions: kill, term, int, stop (signals to itself), raise, full, quota, readonly, io (OSErrors of a file system),
memory (torch.OutOfMemoryError), wait (0.2 s).
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from spanwright.errors import ConfigError, nearest

POINTS = {
    "state.begin": "before the temporary folder of a training state is made",
    "state.file": "in the middle of each of its files",
    "state.manifest": "when its files are on the disk, before its manifest",
    "state.rename": "when its manifest is on the disk, before it has its name",
    "state.renamed": "when it has its name, before the parent folder is on the disk",
    "state.rotate": "before each older state is removed",
    "state.load": "before a state is read",
    "package.begin": "before the temporary folder of a package is made",
    "package.rename": "when its files are on the disk, before the first has its name",
    "package.moved": "after each of its files got its name in a folder that was there",
    "step.data": "before the micro-batches of a step are read",
    "step.forward": "before each forward of a step",
    "step.backward": "before each backward of a step",
    "step.agree": "when gradients are there, before the processes agree on the step",
    "step.exchange": "when they have agreed, before gradients travel",
    "step.update": "before the optimizer's update",
    "step.updated": "after it",
    "evaluation.begin": "before an evaluation",
    "evaluation.slice": "before each slice of an evaluation",
}


@dataclass
class _Fault:
    action: Callable[[], None]
    at: int
    rank: str
    reached: int = 0


def point(name: str) -> None:
    """A place where a test may make this process fail. Nothing happens unless one has said so."""
    if _planted:
        _strike(name)


@contextmanager
def planted(text: str) -> Iterator[None]:
    """A block in which the faults of `text` are planted, in this process."""
    before = dict(_planted)
    _planted.clear()
    _planted.update(_read(text))
    try:
        yield
    finally:
        _planted.clear()
        _planted.update(before)


def _strike(name: str) -> None:
    fault = _planted.get(name)
    if fault is not None and fault.rank in ("", os.environ.get("RANK", "0")):
        fault.reached += 1
        if fault.reached == fault.at:
            fault.action()


def _read(text: str) -> dict[str, _Fault]:
    found: dict[str, _Fault] = {}
    for part in filter(None, text.split(",")):
        name, _, rest = part.partition(":")
        rest, _, rank = rest.partition("/")
        action, _, at = rest.partition("@")
        if name not in POINTS or action not in _ACTIONS or not (at or "1").isdigit():
            known = nearest(name, POINTS) if name not in POINTS else nearest(action, _ACTIONS)
            raise ConfigError(f"`SPANWRIGHT_FAULTS` must be point:action@count, but is {part!r}. {known}")
        found[name] = _Fault(_ACTIONS[action], int(at or "1"), rank)
    return found


def _signal(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _refused(number: int) -> Callable[[], None]:
    def act() -> None:
        raise OSError(number, os.strerror(number))

    return act


def _raise() -> None:
    raise RuntimeError("a planted fault")


def _out_of_memory() -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory (a planted fault)")


_ACTIONS: dict[str, Callable[[], None]] = {
    "kill": _signal(signal.SIGKILL),
    "term": _signal(signal.SIGTERM),
    "int": _signal(signal.SIGINT),
    "stop": _signal(signal.SIGSTOP),
    "raise": _raise,
    "full": _refused(errno.ENOSPC),
    "quota": _refused(errno.EDQUOT),
    "readonly": _refused(errno.EROFS),
    "io": _refused(errno.EIO),
    "memory": _out_of_memory,
    "wait": lambda: time.sleep(0.2),
}
_planted: dict[str, _Fault] = _read(os.environ.get("SPANWRIGHT_FAULTS", ""))
