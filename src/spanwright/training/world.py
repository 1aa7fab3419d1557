"""Processes, devices and precision. The only file that imports accelerate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from spanwright.config import LoopOptions
from spanwright.model import GLiNER

_PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class World:
    """One process of a run, or the only one: the loop reads the same."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._parameters: list[nn.Parameter] = []

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device(self._accelerator.device)

    @property
    def size(self) -> int:
        """How many processes there are."""
        return int(self._accelerator.num_processes)

    @property
    def rank(self) -> int:
        """Which of them this is."""
        return int(self._accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files and speaks to the user."""
        return bool(self._accelerator.is_main_process)

    def prepare(self, model: GLiNER, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """The model and the optimizer as they are to be called: wrapped for processes and precision."""
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        prepared: tuple[nn.Module, Any] = self._accelerator.prepare(model, optimizer)
        return prepared

    def release(self, model: nn.Module) -> None:
        """Take the wrapping off again."""
        self._accelerator.unwrap_model(model, keep_fp32_wrapper=False)

    def synchronising(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """A micro-batch's scope; gradients travel between processes with the last one of a step only."""
        scope: AbstractContextManager[Any] = self._accelerator.autocast() if last else self._without_sync(model)
        return scope

    @contextmanager
    def _without_sync(self, model: nn.Module) -> Iterator[None]:
        with self._accelerator.no_sync(model), self._accelerator.autocast():
            yield

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss`, scaled where the precision wants it."""
        self._accelerator.backward(loss)

    def gradient_norm(self, max_norm: float) -> float:
        """The norm of all gradients, which are clipped to `max_norm` if that is above 0 and the norm finite."""
        self._accelerator.unscale_gradients()
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        value = float(norm)
        if max_norm > 0 and value > max_norm and value < float("inf"):
            torch.nn.utils.clip_grads_with_norm_(self._parameters, max_norm, norm)
        return value

    @property
    def scales_loss(self) -> bool:
        """Whether a loss scaler stands by (fp16 on a GPU): then an overflow lowers the scale and is no error."""
        return self._accelerator.scaler is not None

    def scaler_state(self) -> dict[str, Any]:
        """State of the loss scaler, empty where there is none."""
        return dict(self._accelerator.scaler.state_dict()) if self._accelerator.scaler is not None else {}

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        """The opposite of `scaler_state`."""
        if self._accelerator.scaler is not None and state:
            self._accelerator.scaler.load_state_dict(state)

    def sum(self, value: int) -> int:
        """The sum of `value` over all processes."""
        if self.size == 1:
            return value
        return int(self._accelerator.reduce(torch.tensor(value, device=self.device), reduction="sum"))

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()

    def track(self, values: dict[str, float], step: int) -> None:
        """Hand values to the trackers that were asked for."""
        self._accelerator.log(values, step=step)


@contextmanager
def open_world(options: LoopOptions, output: Path, device: str | torch.device | None) -> Iterator[World]:
    """The world of one run; accelerate's process-wide state is put away at the end, so that another may follow."""
    wanted = None if device is None else torch.device(device)
    if wanted is not None and wanted.type == "cuda" and wanted.index is not None:
        torch.cuda.set_device(wanted)
    tracking = options.tracker != "none"
    accelerator = Accelerator(
        cpu=wanted is not None and wanted.type == "cpu",
        mixed_precision=_PRECISIONS[options.precision],
        log_with=options.tracker if tracking else None,
        project_dir=output if tracking else None,
    )
    try:
        if tracking:
            accelerator.init_trackers("tensorboard")
        yield World(accelerator)
    finally:
        if tracking:
            accelerator.end_training()
        AcceleratorState._reset_state(reset_partial_state=accelerator.num_processes == 1)
