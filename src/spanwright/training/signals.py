"""SIGTERM and SIGINT: the first asks the run to finish its step and save, the second ends the process at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_ECHO = 1.0  # seconds in which a launcher's copy of a signal that the terminal sent to everybody counts as the same


class StopSignals:
    """A block in which the two signals are noted in `received` (0: none) and nothing else happens at first.

    After `grace` seconds, or at a second signal, the process ends with 128 + the signal's number, whatever it is doing:
    states and packages are written whole or not at all, so nothing is damaged. Outside the main thread of a program
    no handler can be set; signals then do what they did.
    """

    def __init__(self, grace: float) -> None:
        self.received = 0
        self._grace = grace
        self._at = 0.0
        self._timer: threading.Timer | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def note(self, number: int) -> None:
        """Count a signal that another process of the run has received."""
        if number and not self.received:
            self._begin(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self._begin(number)
        elif not (os.environ.get("TORCHELASTIC_RUN_ID") and time.monotonic() - self._at < _ECHO):
            self._end("a second signal")

    def _begin(self, number: int) -> None:
        self.received, self._at = number, time.monotonic()
        self._timer = threading.Timer(self._grace, self._end, [f"{self._grace:g} s after {name_of(number)}"])
        self._timer.daemon = True
        self._timer.start()

    def _end(self, why: str) -> None:
        told = f"spanwright: ended at once, by {why}. The newest state is whole; `--resume` goes on from it.\n"
        os.write(2, told.encode())
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(128 + self.received)


def name_of(number: int) -> str:
    """The signal's name."""
    return signal.Signals(number).name


def ignore_stop_signals(_: int) -> None:
    """For loader processes: a terminal or a supervisor signals the whole group, and the main process decides."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
