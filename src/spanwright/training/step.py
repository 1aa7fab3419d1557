"""One optimizer update, from micro-batches to weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spanwright import faults, modes
from spanwright.errors import TrainingError
from spanwright.losses import span_loss
from spanwright.model.replays import Replays
from spanwright.train_config import LossOptions
from spanwright.training.agreement import Part
from spanwright.training.randomness import random_state, set_random_state
from spanwright.training.stream import MicroBatch
from spanwright.training.world import World

_MAX_OVERFLOWS = 25  # steps in a row that a loss scaler may skip before the run is called broken


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did: mean loss over real cells, norm of the gradients before clipping, rows seen by this process.

    signal: a stop signal that a process of the run has received; 0 for none.
    """

    loss: float
    gradient_norm: float
    num_rows: int
    signal: int


class Stepper:
    """Takes steps. It knows the model, the optimizer and the world; it does not know the data or the schedule."""

    def __init__(
        self,
        world: World,
        model: nn.Module,
        optimizer: Any,
        *,
        loss: LossOptions,
        max_grad_norm: float,
        replays: Replays | None = None,
    ) -> None:
        """`replays`: the model's recordings, which are given up where memory runs out."""
        self._world = world
        self._model = model
        self._optimizer = optimizer
        self._loss = loss
        self._max_grad_norm = max_grad_norm
        self._replays = replays
        self._overflows = 0

    def step(
        self,
        number: int,
        read: Callable[[], Sequence[MicroBatch]],
        *,
        received: Callable[[], int],
        meanwhile: Callable[[], object] = lambda: None,
    ) -> StepResult:
        """Update the weights once. The objective is that of one batch of all rows that `read` gives all processes.

        Whatever goes wrong before the update, in whichever process, all give the step up together. `received` tells
        a stop signal that this process has noted (0: none). `meanwhile` is called once while a device has work to do.

        Raises:
            TrainingError: a loss or gradient is not finite, or memory ran out; no parameter has changed then.
            ModeError: a module is not in its declared mode, or not alike everywhere; no parameter has changed then.

        """
        micro_batches: Sequence[MicroBatch] = ()
        losses: list[Tensor] = []
        values: list[float] = []
        norm = math.nan
        trouble: Exception | None = None
        try:
            faults.point("step.data")
            micro_batches = read()
        except Exception as error:
            trouble = error
        num_cells = self._world.agreement.sum(sum(micro.targets.num_cells for micro in micro_batches))
        try:
            with ExitStack() as scopes:
                try:
                    if trouble is None:
                        scope = scopes.enter_context(modes.training_step(self._model))
                        losses = self._losses(number, micro_batches, num_cells)
                        meanwhile()
                        # with nobody to sum gradients with, their norm comes along
                        told = [self._world.gradient_norm(self._max_grad_norm)] if self._world.size == 1 else []
                        values = torch.stack([*losses, *told]).tolist()  # the host waits here, all micro-batches done
                        if told:
                            norm = values.pop()
                        self._require_finite_losses(number, values, micro_batches)
                        self._require_finite_gradients(number, micro_batches)
                        scope.check()
                except Exception as error:
                    trouble = error
                part = Part(sum(values), self._world.present_gradients(), trouble, received())
                verdict = self._world.agreement.judge(number, self._model, part)
                faults.point("step.exchange")
                self._world.exchange_gradients(verdict.gradients)
                if self._world.size > 1:
                    norm = float(self._world.gradient_norm(self._max_grad_norm))
                self._require_finite_norm(number, norm, micro_batches)
                faults.point("step.update")
                self._optimizer.step()
                faults.point("step.updated")
        finally:
            self._optimizer.zero_grad(set_to_none=True)
        num_rows = sum(micro.num_rows for micro in micro_batches)
        return StepResult(verdict.loss / num_cells, norm, num_rows, verdict.signal)

    def _losses(self, number: int, micro_batches: Sequence[MicroBatch], num_cells: int) -> list[Tensor]:
        """The summed loss of each, whose gradients add up. Where memory runs out, that of recordings is given up.

        The second try draws the same random numbers: a run that goes on from the state before may need no second one.
        """
        before = random_state() if self._replays is not None and len(self._replays) > 0 else None
        try:
            return [self._accumulate(number, micro, num_cells) for micro in micro_batches]
        except TrainingError as error:
            if before is None or not isinstance(error.__cause__, torch.OutOfMemoryError):
                raise
        assert self._replays is not None
        self._optimizer.zero_grad(set_to_none=True)
        self._replays.give_up("a step needs the memory of recordings")
        set_random_state(before)
        return [self._accumulate(number, micro, num_cells) for micro in micro_batches]

    def _accumulate(self, number: int, micro: MicroBatch, num_cells: int) -> Tensor:
        """Add one micro-batch's gradients; its summed loss comes back."""
        try:
            faults.point("step.forward")
            placed = micro.to(self._world.device)
            with self._world.autocast():
                loss = span_loss(self._model(placed.batch), placed.targets, self._loss)
                faults.point("step.backward")
                self._world.backward(self._objective(loss.total, num_cells))
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"Step {number}: memory must hold a micro-batch of {micro.describe()}, but does not. "
                "Lower `training.max_batch_tokens` or `training.batch_size` and raise `training.accumulate`, or set "
                "`training.gradient_checkpointing`."
            ) from error
        return loss.total.detach()

    @staticmethod
    def _require_finite_losses(number: int, values: Sequence[float], micro_batches: Sequence[MicroBatch]) -> None:
        for value, micro in zip(values, micro_batches, strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"Step {number}: the loss must be finite, but is {value}, on {micro.describe()}. No parameter has "
                    "changed. Look at these rows, or lower `optimizer.lr`."
                )

    def _objective(self, total: Tensor, num_cells: int) -> Tensor:
        """The part of the objective of all processes that this micro-batch is."""
        whole = total * self._world.gradient_factor
        return whole if self._loss.reduction == "sum" else whole / num_cells

    def _require_finite_gradients(self, number: int, micro_batches: Sequence[MicroBatch]) -> None:
        """Where gradients are about to be summed with others': look at this process's own, to name who spoils them."""
        if self._world.size > 1 and not self._world.is_sharded and not self._world.scales_loss:
            norm = self._world.local_norm()
            if not math.isfinite(norm):
                raise self._not_finite(number, norm, micro_batches)

    def _require_finite_norm(self, number: int, norm: float, micro_batches: Sequence[MicroBatch]) -> None:
        if math.isfinite(norm):
            self._overflows = 0
            return
        self._overflows += 1
        if self._world.scales_loss and self._overflows <= _MAX_OVERFLOWS:
            return  # the scaler skips this update and lowers its scale
        raise self._not_finite(number, norm, micro_batches)

    @staticmethod
    def _not_finite(number: int, norm: float, micro_batches: Sequence[MicroBatch]) -> TrainingError:
        rows = "; ".join(micro.describe() for micro in micro_batches)
        return TrainingError(
            f"Step {number}: the gradients must be finite, but their norm is {norm}, on {rows}. No parameter has "
            "changed. Look at these rows, or lower `optimizer.lr`, or train in bf16 or fp32."
        )
