"""One optimizer update, from micro-batches to weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spanwright import modes
from spanwright.config import LossOptions
from spanwright.errors import TrainingError
from spanwright.losses import span_loss
from spanwright.training.stream import MicroBatch
from spanwright.training.world import World

_MAX_OVERFLOWS = 25  # steps in a row that a loss scaler may skip before the run is called broken


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did: mean loss over real cells, norm of the gradients before clipping, rows seen."""

    loss: float
    gradient_norm: float
    num_rows: int


class Stepper:
    """Takes steps. It knows the model, the optimizer and the world; it does not know the data or the schedule."""

    def __init__(
        self, world: World, model: nn.Module, optimizer: Any, *, loss: LossOptions, max_grad_norm: float
    ) -> None:
        self._world = world
        self._model = model
        self._optimizer = optimizer
        self._loss = loss
        self._max_grad_norm = max_grad_norm
        self._overflows = 0

    def step(self, number: int, micro_batches: Sequence[MicroBatch]) -> StepResult:
        """Update the weights once. The objective is that of one batch of all these rows, on all processes.

        Raises:
            TrainingError: a loss or gradient is not finite, or memory ran out; no parameter has changed then.
            ModeError: a module is not in its declared mode; no parameter has changed then.

        """
        num_cells = self._world.sum(sum(micro.targets.num_cells for micro in micro_batches))
        losses: list[Tensor] = []
        try:
            with modes.training_step(self._model) as scope:
                for index, micro in enumerate(micro_batches):
                    with self._world.synchronising(self._model, last=index == len(micro_batches) - 1):
                        losses.append(self._accumulate(number, micro, num_cells))
                values = torch.stack(losses).tolist()  # the host waits here, with all micro-batches on their way
                self._require_finite_losses(number, values, micro_batches)
                norm = self._world.gradient_norm(self._max_grad_norm)
                self._require_finite_norm(number, norm, micro_batches)
                scope.check()
                self._optimizer.step()
        finally:
            self._optimizer.zero_grad(set_to_none=True)
        return StepResult(sum(values) / num_cells, norm, sum(micro.num_rows for micro in micro_batches))

    def _accumulate(self, number: int, micro: MicroBatch, num_cells: int) -> Tensor:
        """Add one micro-batch's gradients; its summed loss comes back."""
        try:
            placed = micro.to(self._world.device)
            loss = span_loss(self._model(placed.batch), placed.targets, self._loss)
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
        """The part of the objective that this micro-batch is; processes average theirs, so each is scaled up."""
        if self._loss.reduction == "sum":
            return total * self._world.size
        return total * self._world.size / num_cells

    def _require_finite_norm(self, number: int, norm: float, micro_batches: Sequence[MicroBatch]) -> None:
        if math.isfinite(norm):
            self._overflows = 0
            return
        self._overflows += 1
        if self._world.scales_loss and self._overflows <= _MAX_OVERFLOWS:
            return  # the scaler skips this update and lowers its scale
        rows = "; ".join(micro.describe() for micro in micro_batches)
        raise TrainingError(
            f"Step {number}: the gradients must be finite, but their norm is {norm}, on {rows}. No parameter has "
            "changed. Look at these rows, or lower `optimizer.lr`, or train in bf16 or fp32."
        )
