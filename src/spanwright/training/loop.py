"""The training loop. A turn begins with what is due at its place in the run, and ends with a step.

So a run that goes on from a state enters where it left: before a step, after everything that its place asks for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from spanwright import modes
from spanwright.checkpoint import save_package
from spanwright.evaluation import Report
from spanwright.extractor import Extractor
from spanwright.model import GLiNER
from spanwright.train_config import TrainConfig
from spanwright.training.optim import Schedule, build_optimizer
from spanwright.training.randomness import random_state, seed_all, set_random_state, states_put_back
from spanwright.training.record import Recorder
from spanwright.training.resume import Resume
from spanwright.training.signals import StopSignals, name_of
from spanwright.training.state import (
    Progress,
    State,
    clear_leftovers,
    load_state,
    name_of_state,
    save_state,
    state_of_step,
)
from spanwright.training.step import Stepper
from spanwright.training.stream import Ahead, MicroBatch, MicroBatches, dead_workers_named, stream
from spanwright.training.validation import Interrupted, Validator
from spanwright.training.world import World


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the loop came to: steps taken, the best one, and the report of the weights that the model ended with.

    signal: what stopped it before its end; 0 for nothing.
    """

    num_steps: int
    best_step: int
    report: Report | None
    signal: int = 0


@dataclass
class _Run:
    """What one call of `Loop.run` holds."""

    world: World
    model: GLiNER  # the one that is trained: the extractor's, or its sharded twin
    optimizer: torch.optim.Optimizer
    stepper: Stepper
    schedule: Schedule
    recorder: Recorder
    progress: Progress
    signals: StopSignals
    signal: int = 0  # one that the processes have agreed to stop for
    saved: str = ""  # name of the newest state
    report: Report | None = None

    @property
    def is_over(self) -> bool:
        return self.progress.step >= self.schedule.num_steps


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

    def run(self, world: World, *, resume: Resume, show: bool, say: Callable[[str], object]) -> Outcome:
        """Train; the model ends with the best weights, which are also those in the output folder."""
        model = world.twin(self._extractor.model)
        optimizer = build_optimizer(model, self._config.optimizer)
        base_rates = tuple(group["lr"] for group in optimizer.param_groups)
        prepared, stepped = world.prepare(model, optimizer)
        try:
            with states_put_back(), StopSignals(self._config.training.grace_period) as signals:
                run = _Run(
                    world,
                    model,
                    optimizer,
                    Stepper(
                        world,
                        prepared,
                        stepped,
                        loss=self._config.loss,
                        max_grad_norm=self._config.optimizer.max_grad_norm,
                        replays=model.replays,
                    ),
                    Schedule(self._config.optimizer, base_rates, self._num_steps(world)),
                    Recorder(self._output, show=show and world.is_main, writes=world.is_main),
                    Progress(),
                    signals,
                )
                world.agreement.on_main(lambda: clear_leftovers(self._output))
                seed_all(self._config.training.seed, rank=world.rank)
                self._restore(run, resume, say)
                # fitted to the weights as they were
                package_model = self._extractor.model
                package_model.config = replace(package_model.config, thresholds={}, calibration=None)
                with dead_workers_named(), run.recorder.running(run.progress.step, run.schedule.num_steps):
                    self._train(run)
                return self._finish(run)
        finally:
            world.release(prepared)
            model.replays.clear()  # of training steps, with their memory

    def _train(self, run: _Run) -> None:
        stride = self._config.training.accumulate * run.world.size
        with closing(self._source(run, stride)) as source:  # type: ignore[type-var]
            ahead = Ahead(source, self._config.training.accumulate, run.world.device)
            while True:
                self._do_what_is_due(run)
                if run.is_over or run.signal or self._has_stalled(run.progress):
                    return
                self._step(run, ahead, stride)

    def _do_what_is_due(self, run: _Run) -> None:
        """The evaluation and the state of this place; where a signal came, the state alone."""
        progress, save_every = run.progress, self._config.training.save_every or self._epoch_steps(run.world)
        if not progress.evaluated and not run.signal:
            self._validate(run)
        ends = run.is_over or run.signal or self._has_stalled(progress)
        if ends or (progress.step and progress.step % save_every == 0):
            self._save(run)

    def _step(self, run: _Run, ahead: Ahead, stride: int) -> None:
        progress = run.progress
        rate = run.schedule.apply(run.optimizer, progress.step)
        result = run.stepper.step(
            progress.step + 1,
            ahead.read,
            received=lambda: run.signals.received,
            meanwhile=ahead.prepare,
        )
        progress.step += 1
        progress.position += stride
        due = self._config.validation.every or self._epoch_steps(run.world)
        progress.evaluated = self._validator is None or not (run.is_over or progress.step % due == 0)
        alone = run.world.size == 1  # several heed what they have agreed on before the update, and nothing later
        self._heed(run, run.signals.received if alone else result.signal)
        values = {
            "loss": result.loss,
            "gradient_norm": result.gradient_norm,
            "epoch": progress.position / self._batches.epoch_length,
            "lr": rate,
        }
        run.recorder.step(progress.step, values, result.num_rows * run.world.size)
        run.world.track(values, progress.step)

    def _validate(self, run: _Run) -> None:
        """Measure; where F1 is the best so far, save the state and write the package."""
        assert self._validator is not None
        run.world.collect(run.model, self._extractor.model)
        try:
            measured = self._validator.measure(self._extractor, run.world, lambda: run.signals.received)
        except Interrupted as stop:
            self._heed(run, stop.signal)
            return
        progress, micro, f1 = run.progress, measured.report.micro, measured.report.headline_f1
        progress.evaluated = True
        best = f1 > progress.best_f1
        if best:
            progress.best_f1, progress.best_step, progress.evaluations_without_gain = f1, progress.step, 0
            run.report = measured.report
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
        run.recorder.evaluation(progress.step, values, best=best)
        run.world.track({f"dev/{name}": value for name, value in values.items()}, progress.step)
        if best:  # the state first: a run that dies in between writes the package when it goes on
            self._save(run)
            run.world.agreement.on_main(lambda: save_package(self._extractor.package, self._output))

    @staticmethod
    def _heed(run: _Run, agreed: int) -> None:
        run.signal = agreed
        run.signals.note(agreed)  # where another process received it, the time to save runs here too

    def _has_stalled(self, progress: Progress) -> bool:
        patience = self._config.validation.patience
        return patience > 0 and progress.evaluations_without_gain >= patience

    # -- states

    def _save(self, run: _Run) -> None:
        """The state of this place, once."""
        name = name_of_state(run.progress)
        if name == run.saved:
            return
        world, model = run.world, self._extractor.model
        world.collect(run.model, model)
        state = State(
            progress=replace(run.progress),
            model=model.state_dict(),
            optimizer=world.collect_optimizer(run.optimizer),
            random=world.agreement.gather(random_state()),
            schedule={"num_steps": run.schedule.num_steps, "base_rates": list(run.schedule.base_rates)},
            scaler=world.scaler_state(),
            **self._circumstances(world),
        )
        keep = self._config.training.keep_states
        world.agreement.on_main(lambda: save_state(self._output, state, keep=keep))
        run.saved = name

    def _circumstances(self, world: World) -> dict[str, Any]:
        """What must be the same when the run goes on, in the form in which JSON gives it back."""
        seed = self._config.training.seed
        parts = {
            "config": asdict(self._config),
            "world": {"processes": world.size},
            "data": {"rows": self._batches.num_rows, "digest": self._batches.digest, "seed": seed},
            "labels": self._batches.sampler.description(),
            "modes": modes.declarations(self._extractor.model),
        }
        found: dict[str, Any] = json.loads(json.dumps(parts))
        return found

    def _restore(self, run: _Run, resume: Resume, say: Callable[[str], object]) -> None:
        """Go on from the newest whole state, if there is one and it is wanted."""
        world = run.world
        folder = world.agreement.from_main(resume.find(self._output, say) if world.is_main else None)
        if folder is None:
            return
        state = load_state(folder)
        now = self._circumstances(world)
        for change in resume.accept(state, now):
            say(f"Going on with another {change}.")
        world.restore(run.model, run.optimizer, state.model, state.optimizer)
        world.load_scaler_state(dict(state.scaler))
        stride = self._config.training.accumulate * world.size
        run.progress, run.saved = state.progress, name_of_state(state.progress)
        num_steps = run.schedule.num_steps
        if not self._config.training.max_steps:
            num_steps = resume.num_steps(state, num_steps, stride, self._total())
        run.schedule = Schedule(self._config.optimizer, run.schedule.base_rates, num_steps)
        if world.size == len(state.random):
            set_random_state(state.random[world.rank])
        else:
            seed_all(self._config.training.seed, rank=world.rank, step=state.progress.step)
        say(f"Going on from {folder}, after step {state.progress.step}.")
        if self._validator is not None and state.progress.best_step:
            self._take_best(run, write=True)
            world.collect(run.model, self._extractor.model)

    def _finish(self, run: _Run) -> Outcome:
        """The best weights back into the model; without validation, the last ones into the folder."""
        progress, world = run.progress, run.world
        world.collect(run.model, self._extractor.model)
        if run.signal:
            run.recorder.say(self._told_of(run))
            return Outcome(progress.step, progress.best_step, None, run.signal)
        if self._validator is None:
            progress.best_step = progress.step
            world.agreement.on_main(lambda: save_package(self._extractor.package, self._output))
        else:
            if progress.best_step < progress.step:
                self._take_best(run, write=False)
            if run.report is None:
                run.report = self._validator.measure(self._extractor, world).report
        world.agreement.meet("The end of the run")
        return Outcome(progress.step, progress.best_step, run.report)

    def _take_best(self, run: _Run, *, write: bool) -> None:
        """The best state's weights into the extractor's model; `write`: only to write the package from them."""
        folder = state_of_step(self._output, run.progress.best_step)
        if folder is None:
            return
        model = self._extractor.model
        now = {name: value.clone() for name, value in model.state_dict().items()} if write else {}
        model.load_state_dict(load_state(folder).model)
        if write:
            run.world.agreement.on_main(lambda: save_package(self._extractor.package, self._output))
            model.load_state_dict(now)

    def _told_of(self, run: _Run) -> str:
        name = name_of(run.signal)
        return f"{name}: step {run.progress.step} is done and its state is in {self._output / run.saved}."

    # -- arithmetic

    def _total(self) -> float:
        """Micro-batches of the whole run."""
        return self._config.training.epochs * self._batches.epoch_length

    def _num_steps(self, world: World) -> int:
        options = self._config.training
        return options.max_steps or max(round(self._total() / (options.accumulate * world.size)), 1)

    def _epoch_steps(self, world: World) -> int:
        return max(round(self._batches.epoch_length / (self._config.training.accumulate * world.size)), 1)

    def _source(self, run: _Run, stride: int) -> Iterator[MicroBatch]:
        start = run.progress.position
        return stream(
            self._batches,
            start=start + run.world.rank,
            stop=start + (run.schedule.num_steps - run.progress.step) * stride,
            stride=run.world.size,
            num_workers=self._config.training.num_workers,
        )
