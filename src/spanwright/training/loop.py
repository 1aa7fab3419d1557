"""The training loop. Periodic work at the end of each turn, the step at its beginning; time runs downwards."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spanwright.checkpoint import load_package, save_package
from spanwright.config import TrainConfig
from spanwright.evaluation import Report
from spanwright.extractor import Extractor
from spanwright.training.optim import build_optimizer, rate_factor
from spanwright.training.record import Recorder
from spanwright.training.state import Progress, load_state, save_state
from spanwright.training.step import Stepper
from spanwright.training.stream import MicroBatches, stream
from spanwright.training.validation import Validator
from spanwright.training.world import World


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the loop came to: steps taken, rows seen, and the report of the weights that the model ended with."""

    num_steps: int
    best_step: int
    report: Report | None


class Loop:
    """One run: it owns the order of things, and asks others to do them."""

    def __init__(
        self,
        extractor: Extractor,
        batches: MicroBatches,
        validator: Validator | None,
        config: TrainConfig,
        output: Path,
    ) -> None:
        self._extractor = extractor
        self._batches = batches
        self._validator = validator
        self._config = config
        self._output = output

    def run(self, world: World, *, resume: bool, show: bool) -> Outcome:
        """Train; the model ends with the best weights, which are also those in the output folder."""
        options = self._config.training
        model = self._extractor.model
        optimizer = build_optimizer(model, self._config.optimizer)
        prepared, stepped = world.prepare(model, optimizer)
        try:
            stride = options.accumulate * world.size
            num_steps = options.max_steps or max(round(options.epochs * self._batches.epoch_length / stride), 1)
            progress = self._restore(world, optimizer) if resume else Progress()
            return self._train(world, prepared, optimizer, stepped, progress, num_steps, stride, show)
        finally:
            world.release(prepared)

    def _train(
        self,
        world: World,
        prepared: nn.Module,
        optimizer: torch.optim.Optimizer,
        stepped: Any,
        progress: Progress,
        num_steps: int,
        stride: int,
        show: bool,
    ) -> Outcome:
        config = self._config
        per_epoch = max(round(self._batches.epoch_length / stride), 1)
        evaluate_every = config.validation.every or per_epoch
        save_every = config.training.save_every or per_epoch
        base_rates = [group["lr"] for group in optimizer.param_groups]
        stepper = Stepper(world, prepared, stepped, loss=config.loss, max_grad_norm=config.optimizer.max_grad_norm)
        recorder = Recorder(self._output, num_steps=num_steps, show=show and world.is_main, resumed_at=progress.step)
        source = stream(
            self._batches,
            start=progress.position + world.rank,
            stop=num_steps * stride,
            stride=world.size,
            num_workers=config.training.num_workers,
        )
        report: Report | None = None
        with recorder.running(progress.step):
            while progress.step < num_steps and not self._has_stalled(progress):
                factor = rate_factor(progress.step, num_steps, config.optimizer)
                for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                    group["lr"] = rate * factor
                micro_batches = list(islice(source, config.training.accumulate))
                result = stepper.step(progress.step + 1, micro_batches)
                progress.step += 1
                progress.position += stride

                last = progress.step == num_steps
                values = {
                    "loss": result.loss,
                    "gradient_norm": result.gradient_norm,
                    "epoch": progress.position / self._batches.epoch_length,
                    "lr": base_rates[-1] * factor,
                }
                if world.is_main:
                    recorder.step(progress.step, values, result.num_rows * world.size)
                world.track(values, progress.step)
                if self._validator is not None and (last or progress.step % evaluate_every == 0):
                    report = self._validate(world, recorder, progress) or report
                if last or progress.step % save_every == 0:
                    self._save(world, optimizer, progress, base_rates)
        return self._finish(world, progress, report)

    def _validate(self, world: World, recorder: Recorder, progress: Progress) -> Report | None:
        """Measure; where F1 is the best so far, write the package. The report comes back if it is."""
        assert self._validator is not None
        measured = self._validator.measure(self._extractor)
        micro, f1 = measured.report.micro, measured.report.headline_f1
        best = f1 > progress.best_f1
        if best:
            progress.best_f1, progress.best_step, progress.evaluations_without_gain = f1, progress.step, 0
        else:
            progress.evaluations_without_gain += 1
        values = {
            "f1": micro.f1,
            "precision": micro.precision,
            "recall": micro.recall,
            "macro_f1": measured.report.macro_f1,
            "dev_loss": measured.loss,
        }
        if measured.report.relations is not None:
            values["relation_f1"] = measured.report.relations.micro.f1
        if world.is_main:
            recorder.evaluation(progress.step, values, best=best)
            if best:
                save_package(self._extractor.package, self._output)
        world.track({f"dev/{name}": value for name, value in values.items()}, progress.step)
        world.wait()
        return measured.report if best else None

    def _has_stalled(self, progress: Progress) -> bool:
        patience = self._config.validation.patience
        return patience > 0 and progress.evaluations_without_gain >= patience

    def _save(
        self, world: World, optimizer: torch.optim.Optimizer, progress: Progress, base_rates: list[float]
    ) -> None:
        if world.is_main:
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate
            parts = {
                "model": self._extractor.model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": world.scaler_state(),
            }
            save_state(self._output, config=self._config, progress=progress, parts=parts)
        world.wait()

    def _restore(self, world: World, optimizer: torch.optim.Optimizer) -> Progress:
        state = load_state(self._output, config=self._config)
        if state is None:
            return Progress()
        self._extractor.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        world.load_scaler_state(state["scaler"])
        restored: Progress = state["progress"]
        return restored

    def _finish(self, world: World, progress: Progress, report: Report | None) -> Outcome:
        """The best weights back into the model; without validation, the last ones into the folder."""
        if self._validator is None:
            progress.best_step = progress.step
            if world.is_main:
                save_package(self._extractor.package, self._output)
        elif progress.best_step < progress.step:
            best = load_package(self._output)
            self._extractor.model.load_state_dict(best.model.state_dict())
        world.wait()
        return Outcome(progress.step, progress.best_step, report)
