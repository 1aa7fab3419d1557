"""What a person sees of the modes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import nn

from spanwright.modes.plan import Mode, plan, root_of


@dataclass(frozen=True, slots=True)
class ModuleMode:
    """One module: its declared mode, the flag that it has now and the one that a training step gives it."""

    name: str
    mode: Mode
    training: bool
    planned: bool
    trainable_parameters: int


@dataclass(frozen=True, slots=True)
class ModeReport:
    """Every module of a model, in the order of `named_modules`. As a string: the model and its parts."""

    modules: tuple[ModuleMode, ...]

    @property
    def deviating(self) -> tuple[ModuleMode, ...]:
        """The modules whose flag is not the one of a training step."""
        return tuple(module for module in self.modules if module.training != module.planned)

    def __str__(self) -> str:
        lines = [f"{'module':28} {'declared':10} {'now':11} {'in a step':11} {'trainable parameters':>20}"]
        for module in self.modules:
            if module.name.count(".") <= 1:
                now, then = ("training" if flag else "evaluation" for flag in (module.training, module.planned))
                name = module.name or "(model)"
                lines.append(f"{name:28} {module.mode.value:10} {now:11} {then:11} {module.trainable_parameters:20,}")
        return "\n".join(lines)


def report(model: nn.Module) -> ModeReport:
    """Which mode each module is declared to have, has now, and has in a training step."""
    root = root_of(model)
    modes = {id(module): mode for module, mode in plan(root)}
    return ModeReport(
        tuple(
            ModuleMode(
                name=name,
                mode=modes[id(module)],
                training=module.training,
                planned=modes[id(module)] is Mode.TRAIN,
                trainable_parameters=sum(p.numel() for p in module.parameters() if p.requires_grad),
            )
            for name, module in root.named_modules()
        )
    )


def fingerprint(model: nn.Module) -> int:
    """56 bits of every module's flag and planned flag, every parameter's `requires_grad`, and the gradient mode.

    Processes that train one model together compare it before each update.
    """
    root = root_of(model)
    bits = bytes(module.training + 2 * (mode is Mode.TRAIN) for module, mode in plan(root))
    learning = bytes(parameter.requires_grad for parameter in root.parameters())
    digest = hashlib.blake2b(bits + b"/" + learning + bytes([torch.is_grad_enabled()]), digest_size=7)
    return int.from_bytes(digest.digest(), "big")


def declarations(model: nn.Module) -> dict[str, str]:
    """Each module's declared mode, and each parameter that does not learn as "still", by name."""
    root = root_of(model)
    modes = {id(module): mode.value for module, mode in plan(root)}
    named = {name or "(model)": modes[id(module)] for name, module in root.named_modules()}
    return named | {name: "still" for name, parameter in root.named_parameters() if not parameter.requires_grad}


def states(model: nn.Module) -> dict[str, str]:
    """What `fingerprint` is a digest of, in words, by name."""
    found = {
        module.name or "(model)": f"{'training' if module.training else 'evaluation'}, declared {module.mode.value}"
        for module in report(model).modules
    }
    found |= {name: "learns" if p.requires_grad else "still" for name, p in root_of(model).named_parameters()}
    return found | {"(gradient mode)": "on" if torch.is_grad_enabled() else "off"}
