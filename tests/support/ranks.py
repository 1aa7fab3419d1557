"""What each of several processes does in the tests of many: called in each, with RANK and WORLD_SIZE set."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from spanwright import ModeError, TrainConfig, TrainingError, faults, train
from spanwright.data.labels import LabelSampler
from spanwright.train_config import LossOptions, OptimizerOptions, ValidationOptions
from spanwright.training import loop as loop_module
from spanwright.training import run as run_module
from spanwright.training import step as step_module
from spanwright.training.optim import build_optimizer
from spanwright.training.step import Stepper
from spanwright.training.stream import MicroBatches
from spanwright.training.world import open_world
from support.data import sentences
from support.nursery import Child, Nursery
from support.runs import CASES, LoopOptions
from support.tiny import tiny_extractor

RATES = OptimizerOptions(backbone_lr=2e-3, lr=5e-3, warmup=0.2)


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def start_ranks(nursery: Nursery, call: str, *arguments: Any, folder: Path, size: int = 2, **env: str) -> list[Child]:
    """Call a function in `size` processes of one world."""
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **env}
    shared |= {"LOCAL_WORLD_SIZE": str(size), "ACCELERATE_USE_CPU": "true"}
    folder.mkdir(parents=True, exist_ok=True)
    return [
        nursery.start(call, *arguments, log=folder / f"log-{r}", RANK=str(r), LOCAL_RANK=str(r), **shared)
        for r in range(size)
    ]


def rank() -> int:
    """This process's."""
    return int(os.environ.get("RANK", "0"))


def config(**training: Any) -> TrainConfig:
    """Steps of two micro-batches of three rows, however many processes share them."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    options = {"max_steps": 30, "batch_size": 3, "accumulate": 2 // size or 1, "save_every": 10, **training}
    validation = ValidationOptions(every=5, threshold=0.3)
    return TrainConfig(training=LoopOptions(**options), optimizer=RATES, validation=validation)


def whole_run(output: str, num_dev: int, training: dict[str, Any]) -> None:
    """A run without dropout; rank 0 writes what it ended with."""
    run_module.draw_curve = lambda _: None
    chosen = config(**training)
    result = train(still_extractor(), sentences(), sentences(num_dev), output=output, config=chosen, resume=True)
    torch.save(result.extractor.model.state_dict(), Path(output) / f"weights-{rank()}.pt")
    (Path(output) / f"report-{rank()}.json").write_text(json.dumps(result.report.to_dict()))


def one_life(name: str, output: str, training: dict[str, Any]) -> None:
    """One life of a case of `support.runs`, in all processes."""
    run_module.draw_curve = lambda _: None
    CASES[name].run(Path(output), seed=rank(), resume=True, **training)


def still_extractor(**changes: Any):
    """A small model in which nothing is drawn."""
    extractor = tiny_extractor(dropout=0.0, **changes)
    for module in extractor.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return extractor


class Bench:
    """A stepper and its micro-batches, outside any loop."""

    def __init__(self, world, extractor=None) -> None:
        self.world = world
        extractor = extractor or still_extractor()
        self.model = extractor.model
        optimizer = build_optimizer(self.model, RATES)
        prepared, stepped = world.prepare(self.model, optimizer)
        self.stepper = Stepper(world, prepared, stepped, loss=LossOptions(), max_grad_norm=1.0)
        sampler = LabelSampler(["city", "person"], CASES["plain"].config().labels, seed=0)
        self.batches = MicroBatches(sentences(), extractor.encoder, sampler, config().training)
        self.number = 0

    def step(self) -> None:
        """The next step; a step that was given up is taken again with the same rows."""
        place = self.number * self.world.size + self.world.rank
        self.stepper.step(self.number + 1, lambda: [self.batches[place]], received=lambda: 0)
        self.number += 1

    def weights(self) -> list[float]:
        """All of them."""
        return torch.cat([p.detach().flatten() for p in self.model.parameters()]).tolist()


def _told(work: Callable[[], object]) -> tuple[str, str]:
    try:
        work()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def flips(output: str) -> None:
    """Each module's flag flipped on one rank, for each rank: what both ranks then say, and whether a weight moved."""
    found = []
    with open_world(config().training, Path(output), "cpu") as world:
        bench = Bench(world)
        bench.model.train()
        bench.step()
        before = bench.weights()
        names = [name for name, _ in bench.model.named_modules()]
        for culprit in range(world.size):
            for name in names:
                module = bench.model.get_submodule(name)
                if world.rank == culprit:
                    module.__dict__["training"] = not module.training
                kind, text = _told(bench.step)
                if world.rank == culprit:
                    module.__dict__["training"] = not module.training
                found.append([name, culprit, kind, text])
        moved = bench.weights() != before
        bench.step()
    _write(output, {"found": found, "moved": moved, "goes on": bench.weights() != before})


def plans(output: str) -> None:
    """A plan that differs (one rank freezes a part): no module deviates from its own, and only the ranks can tell."""
    from spanwright import modes

    with open_world(config().training, Path(output), "cpu") as world:
        bench = Bench(world)
        if world.rank == 1:
            modes.freeze(bench.model, "context")
        found = _told(bench.step)
    _write(output, {"found": found})


def troubles(output: str) -> None:
    """Memory that runs out, values that are not finite, faults in reading: on each rank, at each place."""
    planted = [
        f"{point}:{action}/{culprit}"
        for point, action in [
            ("step.data", "raise"),
            ("step.forward", "memory"),
            ("step.backward", "memory"),
            ("step.forward", "raise"),
        ]
        for culprit in (0, 1)
    ]
    found = []
    with open_world(config().training, Path(output), "cpu") as world:
        bench = Bench(world)
        bench.step()
        for fault in planted * 5:
            with faults.planted(fault):
                found.append([fault, *_told(bench.step)])
        for culprit in (0, 1):
            for value in (float("nan"), float("inf")):
                bias = bench.model.spans.out_project.last.bias
                hook = bias.register_hook(lambda g, c=culprit, v=value: g * v if world.rank == c else g)
                found.append([f"gradient:{value}/{culprit}", *_told(bench.step)])
                hook.remove()
                real = step_module.span_loss

                def spoilt(*a, c=culprit, v=value, real=real):
                    loss = real(*a)
                    return step_module.replace(loss, total=loss.total * v) if world.rank == c else loss

                step_module.replace = __import__("dataclasses").replace
                step_module.span_loss = spoilt
                found.append([f"loss:{value}/{culprit}", *_told(bench.step)])
                step_module.span_loss = real
        for _ in range(4):
            bench.step()
    _write(output, {"found": found, "weights": bench.weights()})


def undisturbed(output: str) -> None:
    """The five steps of `troubles`, without any."""
    with open_world(config().training, Path(output), "cpu") as world:
        bench = Bench(world)
        for _ in range(5):
            bench.step()
    _write(output, {"weights": bench.weights()})


def skipping(output: str) -> None:
    """A broken build: a rank that runs out of memory skips its batch alone, as some trainers do."""
    from spanwright.training.agreement import Verdict
    from spanwright.training.together import Together

    Together.judge = lambda self, step, model, part: Verdict(0, part.gradients, part.loss)
    with open_world(config().training, Path(output), "cpu") as world:
        bench = Bench(world)
        for number in range(5):
            with faults.planted("step.forward:memory/1" if number == 1 else ""):
                try:
                    bench.step()
                except TrainingError:
                    bench.number += 1
                    continue
        found = bench.weights()
    _write(output, {"weights": found})


def measured(output: str, num_steps: int, encoder: str) -> None:
    """How long the parts of a step take and what travels, with a new model around an encoder."""
    from spanwright.checkpoint import new_package
    from spanwright.extractor import Extractor
    from spanwright.train_config import NewModelOptions

    with open_world(config(rank_timeout=120.0).training, Path(output), "cpu") as world:
        bench = Bench(world, Extractor(new_package(Path(encoder), NewModelOptions(), seed=0)))
        bench.step()
        spent = {"agreement": 0.0, "exchange": 0.0}

        def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                started = time.perf_counter()
                try:
                    return function(*arguments)
                finally:
                    spent[name] += time.perf_counter() - started

            return call

        world.agreement.judge = timed("agreement", world.agreement.judge)
        world.exchange_gradients = timed("exchange", world.exchange_gradients)
        bytes_before, messages_before = world.bytes_exchanged, world.agreement.messages
        started = time.perf_counter()
        for _ in range(num_steps):
            bench.step()
        seconds = (time.perf_counter() - started) / num_steps
        messages = (world.agreement.messages - messages_before) / num_steps
        lone = [0.0] * 50
        for place in range(50):  # the agreement by itself, all processes at the same moment
            begun = time.perf_counter()
            world.agreement.meet("a measurement")
            lone[place] = time.perf_counter() - begun
    found = {
        "seconds": seconds,
        "seconds_agreement": spent["agreement"] / num_steps,
        "seconds_exchange": spent["exchange"] / num_steps,
        "seconds_lone_agreement": sorted(lone)[25],
        "parameters": sum(p.numel() for p in bench.model.parameters()),
        "bytes": (world.bytes_exchanged - bytes_before) / num_steps,
        "messages": messages,
    }
    _write(output, found)


def _write(output: str, found: dict[str, Any]) -> None:
    Path(output).mkdir(parents=True, exist_ok=True)
    (Path(output) / f"found-{rank()}.json").write_text(json.dumps(found))


__all__ = ["Bench", "ModeError", "loop_module", "start_ranks"]
