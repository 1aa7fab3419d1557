"""The plan: what each module is declared to be for, and the flags that follow from it."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from spanwright.errors import ConfigError, nearest

_DECLARED = "_declared_mode"  # in a module's __dict__, so that it follows deepcopy, pickling and wrapping
_RESTED = "_rested"  # likewise: on modules that were there when the model was built

Flags = list[tuple[nn.Module, bool]]


class Mode(enum.Enum):
    """What a module is declared to be for. TRAIN is the default; a child takes its parent's unless it has its own."""

    TRAIN = "train"
    FROZEN = "frozen"
    INFERENCE = "inference"


def freeze(model: nn.Module, parts: str | Sequence[str], *, dropout: bool = False) -> None:
    """Declare parts of `model` frozen: no gradients, and evaluation mode whoever calls `model.train()`.

    parts: "all", a module name such as "backbone", or several. dropout=True keeps their dropout on in training steps.

    Raises:
        ConfigError: a part is not a module of the model.

    """
    for module in _named(model, parts):
        module.requires_grad_(False)
        _declare(module, Mode.TRAIN if dropout else Mode.FROZEN)
    _reapply(model)


def thaw(model: nn.Module, parts: str | Sequence[str]) -> None:
    """The opposite of `freeze`: gradients on, and the mode of the rest of the model.

    Raises:
        ConfigError: a part is not a module of the model.

    """
    for module in _named(model, parts):
        module.requires_grad_(True)
        _declare(module, None)
    _reapply(model)


@contextmanager
def frozen(model: nn.Module, parts: str | Sequence[str], *, dropout: bool = False) -> Iterator[None]:
    """A block in which `parts` are frozen, after which declarations, gradients and flags are as before it."""
    root = root_of(model)
    resting = root.resting_flags() if isinstance(root, Rooted) else current_flags(root)
    declarations = [(module, declared(module)) for module in modules_of(root)]
    gradients = [(parameter, parameter.requires_grad) for parameter in root.parameters()]
    try:
        freeze(model, parts, dropout=dropout)
        yield
    finally:
        for parameter, wanted in gradients:
            parameter.requires_grad_(wanted)
        for module, mode in declarations:
            module.__dict__.pop(_DECLARED, None)
            if mode is not None:
                module.__dict__[_DECLARED] = mode
        if isinstance(root, Rooted):
            root.rest_at(resting)
        else:
            write_flags(resting)


def inference_only(model: nn.Module) -> None:
    """Declare a whole model (a teacher, an averaged copy) for inference: a training step on it raises ModeError."""
    _declare(root_of(model), Mode.INFERENCE)
    _reapply(model)


def declared(module: nn.Module) -> Mode | None:
    """What was declared of `module` itself, if anything."""
    return module.__dict__.get(_DECLARED)


def modules_of(root: nn.Module) -> list[nn.Module]:
    """Each module once, parents first: what `root.modules()` gives, in a fifth of the time. Every call walks."""
    found: dict[nn.Module, None] = {}
    waiting: list[nn.Module | None] = [root]
    while waiting:
        module = waiting.pop()
        if module is not None and module not in found:
            found[module] = None
            waiting += reversed(module._modules.values())
    return list(found)


def plan(root: nn.Module) -> list[tuple[nn.Module, Mode]]:
    """Each module once, parents first, with its own declared mode or the nearest ancestor's."""
    found: dict[nn.Module, Mode] = {}
    waiting = [(root, Mode.TRAIN)]
    while waiting:
        module, inherited = waiting.pop()
        if module not in found:
            mode = found[module] = declared(module) or inherited
            waiting.extend([(child, mode) for child in reversed(module._modules.values()) if child is not None])
    return list(found.items())


def planned_flags(root: nn.Module) -> Flags:
    """The flags of a training step."""
    return [(module, mode is Mode.TRAIN) for module, mode in plan(root)]


def evaluation_flags(root: nn.Module) -> Flags:
    """The flags of inference: all False."""
    return [(module, False) for module in modules_of(root)]


def current_flags(root: nn.Module) -> Flags:
    """The flags as they are."""
    return [(module, module.training) for module in modules_of(root)]


def write_flags(flags: Flags) -> None:
    """Write flags, parents first. A class that overrides `train` acts on the change (adapters do), so it is asked."""
    for module, flag in flags:
        if module.training != flag:
            if type(module).train is nn.Module.train or isinstance(module, Rooted):
                module.training = flag
            else:
                module.train(flag)
    for module, flag in flags:  # an override reaches its children, whose own flags may differ
        if module.training != flag:
            module.training = flag


def rest(root: nn.Module) -> None:
    """Put a model that was just built into evaluation mode, untold: it will follow autograd."""
    write_flags(evaluation_flags(root))
    for module in modules_of(root):
        module.__dict__[_RESTED] = True


def at_rest(root: nn.Module) -> bool:
    """Whether a model is in evaluation mode as a whole.

    Modules put into it since it was built (adapters) don't count: they arrive in training mode, and nobody chose it.
    """
    return not any(module.training for module in modules_of(root) if _RESTED in module.__dict__)


class Rooted(nn.Module):
    """Marks the module that stands for a whole model, whatever wraps it. `keeper.Moded` is the one to inherit from."""

    def reapply_plan(self) -> None:
        """Write the plan again after it changed."""
        raise NotImplementedError

    def resting_flags(self) -> Flags:
        """The flags outside all scopes."""
        raise NotImplementedError

    def rest_at(self, flags: Flags) -> None:
        """Write the flags outside all scopes: now, or once the open ones have ended."""
        raise NotImplementedError


def root_of(model: nn.Module) -> nn.Module:
    """The `Rooted` module inside wrappers that hold one module each (DistributedDataParallel, `torch.compile`).

    A module that holds none is its own root.
    """
    inner = model
    while not isinstance(inner, Rooted):
        children = list(inner.children())
        if len(children) != 1:
            return model
        inner = children[0]
    return inner


def _declare(module: nn.Module, mode: Mode | None) -> None:
    """Declare a whole subtree: what was declared within it before no longer holds."""
    for child in modules_of(module):
        child.__dict__.pop(_DECLARED, None)
    if mode is not None:
        module.__dict__[_DECLARED] = mode


def _reapply(model: nn.Module) -> None:
    root = root_of(model)
    if isinstance(root, Rooted):
        root.reapply_plan()


def _named(model: nn.Module, parts: str | Sequence[str]) -> list[nn.Module]:
    root = root_of(model)
    known = dict(root.named_modules())
    found = []
    for name in [parts] if isinstance(parts, str) else parts:
        if name != "all" and name not in known:
            raise ConfigError(f"`{name}` must name a part of the model, but is none. {nearest(name, known)}")
        found.append(root if name == "all" else known[name])
    return found
