"""Processes, devices and precision. The only file that imports accelerate."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import Tensor, distributed, nn

from spanwright.model import GLiNER
from spanwright.train_config import LoopOptions
from spanwright.training.agreement import Agreement, Alone
from spanwright.training.exchange import exchange, present
from spanwright.training.shards import gather_weights, load_sharded, shard_optimizer, unsharded
from spanwright.training.together import Together

_PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class World:
    """One process of a run, or the only one: the loop reads the same.

    Weights are replicated (every process has all of them) or, where accelerate was launched with FSDP, sharded. In both
    cases the processes agree before they update anything: `agreement`.
    """

    def __init__(self, accelerator: Accelerator, agreement: Agreement) -> None:
        self._accelerator = accelerator
        self._parameters: list[nn.Parameter] = []
        self.agreement = agreement
        self.bytes_exchanged = 0

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

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the weights only."""
        return bool(self._accelerator.distributed_type == DistributedType.FSDP)

    @property
    def gradient_factor(self) -> int:
        """What a loss is to be multiplied by: sharded gradients are averaged over processes, others are summed."""
        return self.size if self.is_sharded else 1

    def twin(self, model: GLiNER) -> GLiNER:
        """The model to train in this world: `model` itself, or a copy of it that will be sharded."""
        return copy.deepcopy(model) if self.is_sharded else model

    def prepare(self, model: GLiNER, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """The model and the optimizer as they are to be called: placed, wrapped for precision, alike everywhere."""
        if self.is_sharded:
            prepared: tuple[nn.Module, Any] = self._accelerator.prepare(model, optimizer)
        else:
            self.agreement.copy_from_main([*model.parameters(), *model.buffers()])
            prepared = (
                self._accelerator.prepare_model(model, evaluation_mode=True),  # gradients travel in `exchange`
                self._accelerator.prepare(optimizer),
            )
        self._parameters = [p for p in prepared[0].parameters() if p.requires_grad]
        return prepared

    def release(self, model: nn.Module) -> None:
        """Take the wrapping off again."""
        if not self.is_sharded:
            self._accelerator.unwrap_model(model, keep_fp32_wrapper=False)

    def collect(self, twin: nn.Module, model: GLiNER) -> None:
        """Put the weights of `twin` into `model`; every process must call it."""
        if self.is_sharded:
            model.load_state_dict(gather_weights(twin))

    def collect_optimizer(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The whole state of an optimizer; every process must call it."""
        state = optimizer.state_dict()
        return unsharded(state) if self.is_sharded else state

    def restore(
        self,
        twin: GLiNER,
        optimizer: torch.optim.Optimizer,
        weights: Mapping[str, Tensor],
        optimizer_state: Mapping[str, Any],
    ) -> None:
        """Put whole weights and optimizer states in place; the opposite of `collect` and `collect_optimizer`."""
        if self.is_sharded:
            load_sharded(twin, weights)
        else:
            twin.load_state_dict(weights)
        optimizer.load_state_dict(dict(optimizer_state))
        if self.is_sharded:
            shard_optimizer(optimizer)

    def autocast(self) -> AbstractContextManager[Any]:
        """A scope of the run's precision."""
        scope: AbstractContextManager[Any] = self._accelerator.autocast()
        return scope

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss`, scaled where the precision wants it."""
        self._accelerator.backward(loss)

    def local_norm(self) -> float:
        """The norm of this process's gradients, before they travel."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def present_gradients(self) -> list[bool]:
        """Which parameters have gradients in this process."""
        return present(self._parameters)

    def exchange_gradients(self, wanted: list[bool]) -> None:
        """Sum the gradients of the `wanted` parameters over processes; those that lack one count as 0."""
        if self.size > 1 and not self.is_sharded:
            parameters = [p for p, want in zip(self._parameters, wanted, strict=True) if want]
            self.bytes_exchanged += self.agreement.watch("the exchange of gradients", lambda: exchange(parameters))

    def gradient_norm(self, max_norm: float) -> Tensor:
        """The norm of all gradients, which are then clipped to `max_norm` if that is above 0 and the norm finite.

        The host does not wait for it.
        """
        self._accelerator.unscale_gradients()
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm: Tensor = unsharded(torch.nn.utils.get_total_norm(gradients)).to(self.device)
        # who looks at a GPU's number waits for it: there all gradients are multiplied, be it by 1
        if max_norm > 0 and (norm.is_cuda or max_norm < norm < float("inf")):
            torch.nn.utils.clip_grads_with_norm_(self._parameters, max_norm, norm)
        return norm

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
        agreement: Agreement = Alone()
        if accelerator.num_processes > 1:
            # reading the data takes some longer than others; from here on all keep step
            distributed.all_reduce(torch.zeros(1, device=accelerator.device))
            agreement = Together(options.rank_timeout)
        yield World(accelerator, agreement)
    finally:
        if tracking:
            accelerator.end_training()
        AcceleratorState._reset_state(reset_partial_state=accelerator.num_processes == 1)
