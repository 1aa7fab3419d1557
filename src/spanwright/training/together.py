"""The agreement of several processes, and how one that fails, stops or dies is noticed and named."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from datetime import timedelta
from typing import Any, final

import torch
from torch import Tensor, distributed, nn

from spanwright import faults, modes
from spanwright.errors import ModeError, SpanwrightError, TrainingError
from spanwright.training.agreement import Agreement, Part, Value, Verdict

_BITS = 56  # of an int64 that carry presence of gradients


@final
class Together(Agreement):
    """The agreement of several processes, over a group of its own.

    The group is of gloo, on CPU: what it carries is small, waits for no GPU, and has a timeout of its own (`timeout`
    seconds) which finds a process that is alive and does not answer. Each writes the step that it has reached into
    the store that they share before it waits, so that the others can say which one is missing.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        self._size = distributed.get_world_size()
        self._rank = distributed.get_rank()
        self._store = distributed.distributed_c10d._get_default_store()
        self._reached = 0
        self._store.set(self._key(self._rank), f"0 {os.getpid()} {socket.gethostname()}")
        self.messages = 0

    def judge(self, step: int, model: nn.Module, part: Part) -> Verdict:
        """As `Agreement.judge`."""
        faults.point("step.agree")
        mine = [modes.fingerprint(model), step, part.received, part.trouble is not None, _bits_of(part.loss)]
        found = self._numbers([*mine, *_packed(part.gradients)], f"the boundary of step {step}")
        if any(row[3] for row in found):
            self._raise(f"Step {step}", part.trouble)
        if len({row[1] for row in found}) > 1:
            at = ", ".join(f"rank {rank} at {row[1]}" for rank, row in enumerate(found))
            raise TrainingError(f"All processes must be at the same step, but are not: {at}. No parameter has changed.")
        if len({row[0] for row in found}) > 1:
            self._raise_modes(step, model)
        words = [_either(row[place] for row in found) for place in range(len(mine), len(found[0]))]
        loss = sum(_float_of(row[4]) for row in found)
        return Verdict(max(row[2] for row in found), _unpacked(words, len(part.gradients)), loss)

    def meet(self, what: str, *, trouble: Exception | None = None, received: int = 0) -> int:
        """As `Agreement.meet`."""
        found = self._numbers([received, trouble is not None], what)
        if any(row[1] for row in found):
            self._raise(what, trouble)
        return max(row[0] for row in found)

    def sum(self, value: int) -> int:
        """As `Agreement.sum`."""
        return sum(row[0] for row in self._numbers([value], "a sum"))

    def gather(self, value: Value) -> list[Value]:
        """As `Agreement.gather`."""
        found: list[Any] = [None] * self._size
        self.watch("a gathering", lambda: distributed.all_gather_object(found, value, group=self._group))
        return found

    def from_main(self, value: Value) -> Value:
        """As `Agreement.from_main`."""
        return self.gather(value)[0]

    def on_main(self, function: Callable[[], object]) -> None:
        """As `Agreement.on_main`. It runs in a thread, and all exchange signs of life as long as it takes."""
        with ThreadPoolExecutor(1) as pool:
            task = pool.submit(function) if self._rank == 0 else None
            while True:
                if task is not None:
                    wait_for([task], timeout=min(1.0, self._timeout / 4))
                if not self.sum(task is not None and not task.done()):
                    break
        error = None if task is None else task.exception()
        told = self.from_main(None if error is None else (type(error).__name__, str(error)))
        if error is not None:
            raise error
        if told is not None:
            raise TrainingError(f"Rank 0 could not do its part: {told[0]}: {told[1]}")

    def copy_from_main(self, tensors: Sequence[Tensor]) -> None:
        """As `Agreement.copy_from_main`."""
        for tensor in tensors:
            distributed.broadcast(tensor.data, 0)

    def _numbers(self, numbers: list[int], what: str) -> list[list[int]]:
        mine = torch.tensor(numbers, dtype=torch.int64)
        found = [torch.empty_like(mine) for _ in range(self._size)]
        self.watch(what, lambda: distributed.all_gather(found, mine, group=self._group))
        return [row.tolist() for row in found]

    def watch(self, what: str, collective: Callable[[], Value]) -> Value:
        """As `Agreement.watch`."""
        self._reached += 1
        self.messages += 1
        try:
            self._store.set(self._key(self._rank), f"{self._reached} {os.getpid()} {socket.gethostname()}")
            return collective()
        except RuntimeError as error:
            told = self._absent(what, timed_out="imed out" in str(error))
            raise TrainingError(f"{told} No parameter has changed since the last step.") from error

    def _absent(self, what: str, *, timed_out: bool) -> str:
        """Who has not reached this meeting. One on this machine that did not answer in time is killed."""
        time.sleep(0.5)  # others may just be about to say that they are here
        late = []
        try:
            for rank in range(self._size):
                reached, process, host = self._store.get(self._key(rank)).decode().split()
                if int(reached) < self._reached:
                    late.append(f"{rank} (process {process} on {host})")
                    if timed_out and host == socket.gethostname():
                        with suppress(OSError):  # it is gone
                            os.kill(int(process), signal.SIGKILL)
        except RuntimeError:  # the store lives in its process
            return f"Every rank must reach {what}, but rank 0 died. Its own error, if any, is above or in its log."
        if not late:
            return f"Every rank must reach {what}, but the connection to one broke off: it died there."
        one = len(late) == 1
        return (
            f"Every rank must reach {what} within {self._timeout:g} s, but rank{'' if one else 's'} {', '.join(late)} "
            f"did not: {'it' if one else 'they'} died or stopped. Its own error, if any, is above or in its log."
        )

    def _raise(self, what: str, trouble: Exception | None) -> None:
        told = self.gather(None if trouble is None else f"{type(trouble).__name__}: {trouble}")
        failed = [f"rank {rank}: {text}" for rank, text in enumerate(told) if text is not None]
        if trouble is not None:
            kind = type(trouble) if isinstance(trouble, SpanwrightError) else TrainingError
            raise kind(f"On rank {self._rank}: {trouble}") from trouble
        raise TrainingError(f"{what} was given up on all {self._size} ranks, for {'; '.join(failed)}")

    def _raise_modes(self, step: int, model: nn.Module) -> None:
        """Name the modules whose flags or plans are not alike."""
        everyone = self.gather(modes.states(model))
        different = []
        for name in dict.fromkeys(name for one in everyone for name in one):
            values = [one.get(name, "absent") for one in everyone]
            if len(set(values)) > 1:
                shown = ", ".join(f"{value} on rank {rank}" for rank, value in enumerate(values[:8]))
                different.append(f"{name} ({shown})")
        more = f" and {len(different) - 5} more" if len(different) > 5 else ""
        raise ModeError(
            f"Step {step}: all ranks must have the same modes, but differ in {', '.join(different[:5])}{more}. No "
            "parameter has changed. Usual cause: code under `if rank == 0` that changes the model."
        )

    @staticmethod
    def _key(rank: int) -> str:
        return f"spanwright/{rank}"


def _packed(bits: Sequence[bool]) -> list[int]:
    return [
        sum(bit << place for place, bit in enumerate(bits[start : start + _BITS]))
        for start in range(0, len(bits), _BITS)
    ]


def _unpacked(words: Sequence[int], num: int) -> list[bool]:
    return [bool(words[place // _BITS] >> place % _BITS & 1) for place in range(num)]


def _bits_of(value: float) -> int:
    """A float's 64 bits as an integer."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def _float_of(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])


def _either(words: Iterable[int]) -> int:
    found = 0
    for word in words:
        found |= word
    return found
