"""Weight files to state dicts under our names, strictly, and back."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spanwright.checkpoint import published
from spanwright.errors import CheckpointError

State = dict[str, Tensor]


def read_weights(folder: Path) -> State:
    """The tensors of a package's weight file under their published names; tied ones under each name.

    Raises:
        CheckpointError: there is no weight file, or it is damaged or of another kind.

    """
    safe, pickled = folder / published.WEIGHTS_FILE, folder / published.PICKLED_WEIGHTS_FILE
    if safe.is_file():
        try:
            with safe_open(str(safe), framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                aliases = {k: v for k, v in (file.metadata() or {}).items() if v in state and k not in state}
        except SafetensorError as error:
            raise CheckpointError(f"{safe} must be a safetensors file, but cannot be read as one: {error}.") from None
        return state | {omitted: state[kept] for omitted, kept in aliases.items()}
    if pickled.is_file():
        try:
            state = torch.load(pickled, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{pickled} must hold weights and nothing else, but cannot be read: {reason}"
            ) from None
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise CheckpointError(f"{pickled} must hold a state dict of tensors, but holds something else.")
        return state
    raise CheckpointError(
        f"{folder} must hold {published.WEIGHTS_FILE} or {published.PICKLED_WEIGHTS_FILE}, but holds neither."
    )


def load_into(model: nn.Module, state: Mapping[str, Tensor], folder: Path) -> None:
    """Copy published tensors into `model`, every one and no other.

    Raises:
        CheckpointError: a parameter is missing, unexpected or of another shape; all are named.

    """
    own = model.state_dict()
    renamed: State = {}
    unexpected: list[str] = []
    for name, value in state.items():
        ours = published.from_published(name)
        if ours in own:
            renamed[ours] = value
        elif not published.is_harmless(name):
            unexpected.append(name)
    tied = _tied_groups(own)
    missing = [n for n in own if n not in renamed and not any(m in renamed for m in tied[n]) and _is_stored(n, own)]
    misshapen = [
        f"{published.to_published(n)} ({_shape(v)} in the file, {_shape(own[n])} by the configuration)"
        for n, v in renamed.items()
        if v.shape != own[n].shape
    ]
    problems = [
        f"{verb} {len(names)} parameter{'s' if len(names) > 1 else ''}: {_listed(names)}"
        for verb, names in [
            ("lacks", [published.to_published(n) for n in missing]),
            ("has an unknown place for", unexpected),
            ("has the wrong shape for", misshapen),
        ]
        if names
    ]
    if problems:
        raise CheckpointError(
            f"Checkpoint {folder} {'; it '.join(problems)}. Its configuration describes another model."
        )
    model.load_state_dict(renamed, strict=False)


def write_weights(model: nn.Module, folder: Path) -> None:
    """Write `model.safetensors` under published names. A tied tensor is stored once; metadata names its aliases."""
    own = model.state_dict()
    tied = _tied_groups(own)
    stored: State = {}
    metadata = {"format": "pt"}
    for name, value in own.items():
        kept = min(tied[name])
        if name == kept:
            stored[published.to_published(name)] = value.detach().cpu().contiguous()
        else:
            metadata[published.to_published(name)] = published.to_published(kept)
    save_file(stored, str(folder / published.WEIGHTS_FILE), metadata=metadata)


def _tied_groups(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Each name with all the names that share its memory, itself included."""
    groups: dict[object, list[str]] = {}
    for name, value in state.items():
        key = (value.data_ptr(), tuple(value.shape), value.stride()) if value.numel() else name
        groups.setdefault(key, []).append(name)
    return {name: names for names in groups.values() for name in names}


def _is_stored(name: str, own: Mapping[str, Tensor]) -> bool:
    return not published.is_harmless(name) or own[name].is_floating_point()


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape))


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
