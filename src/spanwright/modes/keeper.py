"""The keeper: one for each model, owner of its flags. It knows which scopes are open and what to restore after them.

Shared scopes (any number, any thread) stand against one exclusive scope. Fair by phases: when an exclusive scope ends,
all that wait to share go first; while one waits to be exclusive, nobody new shares. A scope is a ticket, and giving a
ticket back twice is harmless, so that an interrupt between any two lines can be answered by doing it again.
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from spanwright.errors import ModeError
from spanwright.modes.plan import (
    Flags,
    Mode,
    Rooted,
    at_rest,
    current_flags,
    declared,
    evaluation_flags,
    modules_of,
    planned_flags,
    root_of,
    write_flags,
)

LEASE_TIMEOUT = 300.0  # seconds that a thread waits for another's scope before it raises instead of hanging

_TOLD = "_told_training"  # in the root's __dict__: what the last train() or eval() on it said
_OWN_CODE = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


class Moded(Rooted):
    """The root of a network whose modes are kept."""

    def train(self, mode: bool = True) -> Moded:
        """Every module in its planned mode (True), or in evaluation mode (False). In a scope: once it has ended."""
        if not isinstance(mode, bool):
            raise ValueError(f"`mode` must be True or False, but is {mode!r}.")
        keeper_of(self).tell(mode, _call_site())
        return self

    def reapply_plan(self) -> None:
        """Write the plan again after it changed."""
        keeper_of(self).reapply()

    def resting_flags(self) -> Flags:
        """The flags outside all scopes."""
        return keeper_of(self).resting()

    def rest_at(self, flags: Flags) -> None:
        """Write the flags outside all scopes: now, or once the open ones have ended."""
        keeper_of(self).rest_at(flags)


class Keeper:
    """Owner of one model's flags."""

    def __init__(self, root: nn.Module) -> None:
        self._root = weakref.ref(root)
        self._turn = threading.Condition(threading.RLock())
        self._tickets = itertools.count()
        self._shares: dict[int, tuple[int, bool]] = {}  # ticket -> thread, whether it records gradients
        self._owner: int | None = None  # the thread that has the model to itself
        self._owned: set[int] = set()  # its tickets
        self._waiting_owners: set[int] = set()  # tickets
        self._waiting_sharers: set[int] = set()
        self._granted: set[int] = set()  # of the waiting sharers, those let in before the next owner
        self._saved: Flags | None = None  # what the open scopes will restore
        self._told_at = ""

    @property
    def root(self) -> nn.Module:
        """The model."""
        root = self._root()
        if root is None:
            raise ModeError("The model of this scope must be alive, but is gone. Keep a reference to it.")
        return root

    # -- what the model was told

    @property
    def told(self) -> bool | None:
        """What the last `train()` (True) or `eval()` (False) said; None if there was none."""
        return self.root.__dict__.get(_TOLD)

    def tell(self, training: bool, site: str) -> None:
        """Remember what `train()` or `eval()` said, and write it: now, or into what the open scopes will restore."""
        with self._turn:
            self.root.__dict__[_TOLD] = training
            self._told_at = f"model.{'train' if training else 'eval'}() at {site}"
            self._write_at_rest(training)

    def reapply(self) -> None:
        """Write the plan again after it changed. A model that rests in evaluation mode stays there."""
        with self._turn:
            self._write_at_rest(any(flag for _, flag in self.resting()))

    def resting(self) -> Flags:
        """The flags outside all scopes."""
        with self._turn:
            return current_flags(self.root) if self._saved is None else list(self._saved)

    def rest_at(self, flags: Flags) -> None:
        """Write the flags outside all scopes: now, or into what the open ones will restore."""
        with self._turn:
            if self._saved is None:
                write_flags(flags)
            else:
                self._saved = flags

    def _write_at_rest(self, training: bool) -> None:
        self.rest_at(planned_flags(self.root) if training else evaluation_flags(self.root))

    # -- checks

    def deviating(self) -> list[str]:
        """Names of the modules that are not as planned, or will not be when the shared scopes of others have ended."""
        with self._turn:  # another thread's scope must not open or end between the two looks
            resting = {id(m): flag for m, flag in self._saved or []} if self._shares else {}
            wrong = {id(m) for m, flag in planned_flags(self.root) if resting.get(id(m), m.training) != flag}
        return _names(self.root, wrong) if wrong else []

    def require_plan(self, when: str) -> None:
        """Raise ModeError unless every module is as planned for a training step."""
        if declared(self.root) is Mode.INFERENCE:
            raise ModeError(f"{when}: the model must be one to train, but was declared `inference_only`.")
        names = self.deviating()
        if not names:
            return
        verb = "is" if len(names) == 1 else "are"
        raise ModeError(
            f"{when}: every module must be in its declared mode, but {len(names)} {verb} not: {_listed(names)}. "
            f"{self._history(names)}Train within `spanwright.modes.training_step(model)` or after `model.train()`; "
            "declare parts that stay still with `modes.freeze`; for gradients without training use `modes.saliency`, "
            "for none `modes.inference`."
        )

    def require_evaluation(self) -> None:
        """Raise ModeError unless every module is in evaluation mode."""
        awake = {id(module) for module in modules_of(self.root) if module.training}
        if awake:
            raise ModeError(
                f"In an inference scope every module must be in evaluation mode, but {len(awake)} are not: "
                f"{_listed(_names(self.root, awake))}. Something inside the scope set them to training mode."
            )

    def _history(self, names: list[str]) -> str:
        told = f"Last told: {self._told_at}. " if self._told_at else ""
        num_planned = sum(flag for _, flag in planned_flags(self.root))
        if self.told is False and len(names) == num_planned:
            return told
        return told + "A flag that differs was set on the module itself (`.eval()`, `.train()`, `.training = ...`). "

    # -- shared scopes

    def ticket(self) -> int:
        """A new ticket for a scope."""
        return next(self._tickets)

    def share(self, ticket: int, records: bool) -> None:
        """Let the calling thread share evaluation mode; the first one in saves the flags and writes them."""
        me = threading.get_ident()
        with self._turn:
            if self._owner == me:
                raise ModeError(
                    "An inference scope (extract, evaluate, save, ...) must lie outside `training_step`, but was "
                    "entered inside one of the same thread. Close the step first: it ends after `optimizer.step()`."
                )
            if not self._shared_by(me):
                self._wait_to_share(ticket)
            self._shares[ticket] = (me, records)
            if self._saved is None:
                self._saved = current_flags(self.root)
            write_flags(evaluation_flags(self.root))

    def own(self, ticket: int) -> None:
        """Give the calling thread the model to itself."""
        me = threading.get_ident()
        with self._turn:
            if self._shared_by(me):
                raise ModeError(
                    "A training step must lie outside `inference` and `saliency`, but was entered inside one of the "
                    "same thread. Close that scope first; a suspended generator may hold it open."
                )
            if self._owner != me:
                self._wait_to_own(ticket)
            self._owner = me
            self._owned.add(ticket)

    def give_back(self, ticket: int) -> None:
        """End the scope of `ticket`; the last one out restores every flag. A second time it does nothing."""
        with self._turn:
            self._shares.pop(ticket, None)
            self._stop_waiting(ticket)
            self._owned.discard(ticket)
            if not self._owned and self._owner is not None:
                self._owner = None
                self._granted = set(self._waiting_sharers)
            if not self._shares and not self._owned and self._saved is not None:
                write_flags(self._saved)
                self._saved = None
            self._turn.notify_all()

    def begin_step(self) -> None:
        """Write the plan for a step if the model is as planned or at rest in evaluation mode; else raise ModeError."""
        if self._saved is not None:
            return  # a step within a step
        if not at_rest(self.root) or declared(self.root) is Mode.INFERENCE:
            self.require_plan("At the start of a training step")
        self._saved = current_flags(self.root)
        write_flags(planned_flags(self.root))

    def follow_autograd(self) -> None:
        """Write the plan into a model that was never told and is at rest: a forward is about to record gradients."""
        if self.told is None and at_rest(self.root):
            write_flags(planned_flags(self.root))

    def owned_here(self) -> bool:
        """Whether the calling thread is inside a training step."""
        return self._owner == threading.get_ident()

    def shared_here(self) -> tuple[bool, bool]:
        """Whether the calling thread is inside a shared scope, and inside one that records gradients."""
        scopes = self._shared_by(threading.get_ident())
        return bool(scopes), any(scopes)

    def _shared_by(self, thread: int) -> list[bool]:
        return [records for owner, records in list(self._shares.values()) if owner == thread]

    def _wait_to_share(self, ticket: int) -> None:
        self._waiting_sharers.add(ticket)
        self._wait(lambda: self._owner is None and (not self._waiting_owners or ticket in self._granted))
        self._stop_waiting(ticket)

    def _wait_to_own(self, ticket: int) -> None:
        self._waiting_owners.add(ticket)
        self._wait(lambda: self._owner is None and not self._shares and not self._granted)
        self._stop_waiting(ticket)

    def _stop_waiting(self, ticket: int) -> None:
        for queue in (self._waiting_owners, self._waiting_sharers, self._granted):
            queue.discard(ticket)
        self._turn.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        if not self._turn.wait_for(ready, timeout=LEASE_TIMEOUT):
            raise ModeError(
                f"Another thread's scope on this model must end within {LEASE_TIMEOUT:.0f} s, but did not. "
                "Keep `inference` and `training_step` scopes short, and never across a `yield`."
            )


_keepers: weakref.WeakKeyDictionary[nn.Module, Keeper] = weakref.WeakKeyDictionary()
_registry = threading.Lock()


def keeper_of(model: nn.Module) -> Keeper:
    """The keeper of `model`, whatever wraps it."""
    root = root_of(model)
    with _registry:
        keeper = _keepers.get(root)
        if keeper is None:
            keeper = _keepers[root] = Keeper(root)
        return keeper


def _names(root: nn.Module, wanted: set[int]) -> list[str]:
    return [name or "(the model itself)" for name, module in root.named_modules() if id(module) in wanted]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _call_site() -> str:
    """``file:line`` of the nearest caller that is neither this package nor torch."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN_CODE):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
