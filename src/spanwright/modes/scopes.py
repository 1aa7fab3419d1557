"""The scopes: `inference`, `saliency`, `training_step`, and the one that each forward of a model opens for itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

import torch
from torch import Tensor, nn

from spanwright.errors import ModeError
from spanwright.modes.keeper import Keeper, keeper_of


def inference(model: nn.Module) -> AbstractContextManager[None]:
    """A scope in which every module is in evaluation mode and no gradients are recorded.

    Shared and counted: scopes of several threads, or nested ones, overlap in any order; the last one out restores
    every module's flag. Entered inside the same thread's `training_step` it raises ModeError at once; while another
    thread's step runs, it waits.
    """
    return _Shared(keeper_of(model), records=False)


def saliency(model: nn.Module) -> AbstractContextManager[None]:
    """A scope with the numerics of evaluation (no dropout) in which gradients are recorded: for attributions."""
    return _Shared(keeper_of(model), records=True)


def training_step(model: nn.Module) -> TrainingStep:
    """The scope of one step, from before the forward to after ``optimizer.step()``. Exclusive among threads.

    Raises:
        ModeError: a module is neither as planned nor as `model.eval()` leaves it, on entry, at a forward or backward
            inside, or at the end.

    """
    return TrainingStep(keeper_of(model))


class _Scope:
    """A ticket of a keeper. Whatever interrupts it, the ticket goes back: by the exit, or with the object."""

    _entered = False

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._ticket = keeper.ticket()

    def _give_back(self) -> None:
        try:
            self._keeper.give_back(self._ticket)
        except BaseException:  # an interrupt between two of its lines
            self._keeper.give_back(self._ticket)
            raise
        self._entered = False

    def __del__(self) -> None:
        if self._entered:
            self._keeper.give_back(self._ticket)


class _Shared(_Scope):
    """`inference`, or with records=True `saliency`."""

    def __init__(self, keeper: Keeper, *, records: bool) -> None:
        super().__init__(keeper)
        self._records = records
        self._recorded_before = torch.is_grad_enabled()

    def __enter__(self) -> None:
        try:
            self._entered = True
            self._recorded_before = torch.is_grad_enabled()
            self._keeper.share(self._ticket, self._records)
            torch.set_grad_enabled(self._records)
        except BaseException:
            torch.set_grad_enabled(self._recorded_before)
            self._give_back()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            torch.set_grad_enabled(self._recorded_before)
            self._give_back()
        except BaseException:
            torch.set_grad_enabled(self._recorded_before)
            self._give_back()
            raise


class TrainingStep(_Scope):
    """What ``with training_step(model) as step`` gives."""

    def check(self) -> None:
        """Raise ModeError unless every module still is as planned. The trainer asks before ``optimizer.step()``."""
        self._keeper.require_plan("In a training step")

    def __enter__(self) -> TrainingStep:
        try:
            self._entered = True
            self._keeper.own(self._ticket)
            self._keeper.begin_step()
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self._keeper.require_plan("At the end of a training step")
            self._give_back()
        except BaseException:
            self._give_back()
            raise


class _TrainingForward(_Scope):
    """A forward that records gradients outside any scope: exclusive, and under the plan."""

    def __enter__(self) -> None:
        try:
            self._entered = True
            self._keeper.own(self._ticket)
            self._keeper.follow_autograd()
            self._keeper.require_plan("At a forward that records gradients")
        except BaseException:
            self._give_back()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._give_back()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def forward_scope(root: nn.Module) -> ForwardScope:
    """The scope in which a model runs one forward; it decides by the scope that the thread is in, and by autograd."""
    keeper = keeper_of(root)
    recording = torch.is_grad_enabled() and any(p.requires_grad for p in root.parameters())
    sharing, salient = keeper.shared_here()
    if sharing:
        keeper.require_evaluation()
        if recording and not salient:
            raise ModeError(
                "A forward inside `inference` must not record gradients, but gradients were switched on inside it. "
                "Use `spanwright.modes.saliency(model)` for gradients with the numerics of evaluation."
            )
        return ForwardScope(keeper, nullcontext(), guards=False)
    if keeper.owned_here():
        if recording:
            keeper.require_plan("At a forward in a training step")
        return ForwardScope(keeper, nullcontext(), guards=recording)
    if recording:
        return ForwardScope(keeper, _TrainingForward(keeper), guards=True)
    return ForwardScope(keeper, inference(root) if keeper.told is None else nullcontext(), guards=False)


class ForwardScope:
    """What `forward_scope` gives: enter it around the forward, and show it the output by `watch`."""

    def __init__(self, keeper: Keeper, inner: AbstractContextManager[None], *, guards: bool) -> None:
        self._keeper, self._inner, self._guards = keeper, inner, guards

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __enter__(self) -> Callable[[Tensor], None]:
        self._inner.__enter__()
        return self.watch

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._inner.__exit__(kind, error, at)

    def watch(self, output: Tensor) -> None:
        """Check the modes again when the backward of `output` begins, before any parameter receives a gradient."""
        if self._guards and output.requires_grad:
            keeper = self._keeper
            output.register_hook(lambda _: keeper.require_plan("At a backward"))  # type: ignore[no-untyped-call]
