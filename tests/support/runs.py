"""Training runs that stop and go on, and what tells two of them apart."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spanwright import TrainConfig, faults, modes, train
from spanwright.extractor import Extractor
from spanwright.train_config import LabelOptions, LoopOptions, OptimizerOptions, ValidationOptions
from spanwright.training import run as run_module
from spanwright.training.state import load_state, states_in
from support.data import sentences
from support.tiny import tiny_extractor

STEPS = 30
RATES = OptimizerOptions(backbone_lr=2e-3, lr=5e-3, warmup=0.2)


@dataclass(frozen=True)
class Case:
    """A kind of run: the extractor as a user would prepare it, and the options."""

    training: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    shape: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Extractor], object] = lambda extractor: None
    dev: bool = True

    def extractor(self, seed: int = 0) -> Extractor:
        """A new model. A resumed one is drawn from another seed: nothing of it may show in the end."""
        torch.manual_seed(seed)
        extractor = tiny_extractor(seed=seed, dropout=0.3, **self.shape)
        self.prepare(extractor)
        return extractor

    def config(self, **training: Any) -> TrainConfig:
        """30 steps of 3 rows out of 8: an epoch ends at every third micro-batch, never with the step."""
        loop = LoopOptions(**{"max_steps": STEPS, "batch_size": 3, "save_every": 1, **self.training, **training})
        options = ValidationOptions(**{"every": 4, "threshold": 0.3, **self.validation})
        return TrainConfig(training=loop, optimizer=RATES, validation=options, labels=LabelOptions(max_labels=3))

    def run(self, output: Path, *, seed: int = 0, resume: bool = False, **training: Any) -> None:
        """One life of the run in `output`."""
        examples = sentences()
        dev = examples if self.dev else None
        train(self.extractor(seed), examples, dev, output=output, config=self.config(**training), resume=resume)


def _draws(extractor: Extractor) -> None:
    """What users' augmentations do: draw from the global states of python and numpy at each forward in training."""

    def look(module, _, output):
        return output * (1 + 1e-3 * random.random() + 1e-3 * np.random.rand()) if module.training else output

    extractor.model.context.register_forward_hook(look)


def _lora(extractor: Extractor) -> None:
    from peft import LoraConfig, get_peft_model

    options = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.2, target_modules=["query", "value"])
    extractor.model.backbone.transformer = get_peft_model(extractor.model.backbone.transformer, options)


CASES = {
    "plain": Case(dev=False),
    "accumulation 3, frozen parts, two LSTM layers": Case(
        {"accumulate": 3, "freeze": ("backbone.layers:1",)},
        shape={"num_rnn_layers": 2, "rnn_dropout": 0.2},
        prepare=_draws,
    ),
    "LoRA": Case({"accumulate": 3}, prepare=_lora),
    "early stopping, 2 workers": Case({"num_workers": 2}, {"every": 3, "patience": 100}),
    "frozen by hand, with dropout": Case(prepare=lambda e: modes.freeze(e.model, "backbone", dropout=True)),
}


def without_curves(monkeypatch) -> None:
    """Drawing takes longer than these runs."""
    monkeypatch.setattr(run_module, "draw_curve", lambda _: None)


def everything(folder: Path) -> dict[str, Any]:
    """All that a state holds but for settings that a resumed run may change."""
    state = load_state(folder)
    found = {name: getattr(state, name) for name in type(state).__slots__} | {"progress": asdict(state.progress)}
    del found["config"]
    return found


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two states differ by a bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [place]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{place}: keys"]
        return [found for key in one for found in differences(one[key], other[key], f"{place}/{key}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f"{place}: length"]
        return [
            found for i, pair in enumerate(zip(one, other, strict=True)) for found in differences(*pair, f"{place}/{i}")
        ]
    return [] if one == other else [f"{place}: {one!r}, {other!r}"]


def as_killed_after(whole: Path, step: int, folder: Path, *, every_state: bool = False) -> Path:
    """The folder that the run in `whole` would have left if it had been killed after `step`."""
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("state-*", "*.png"))
    best = load_state(whole / f"state-{step:06}").progress.best_step
    for state in states_in(whole):
        number = int(state.name.removeprefix("state-"))
        if number in (step, best) or (every_state and number <= step):
            shutil.copytree(state, folder / state.name)
    return folder


def stopped_each_step(case: Case, output: Path, num_lives: int) -> None:
    """Lives of one run, each ended by SIGTERM in its first step; the last one goes on to the end."""
    for life in range(num_lives):
        with faults.planted("step.update:term@1"), pytest.raises(SystemExit) as stop:
            case.run(output, seed=life, resume=True)
        assert stop.value.code == 143
    case.run(output, seed=99, resume=True)


__all__ = ["CASES", "STEPS", "Case", "as_killed_after", "differences", "everything", "replace", "stopped_each_step"]
