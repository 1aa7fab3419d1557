"""Weight files to state dicts under our names, strictly, and back."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spanwright.checkpoint import published
from spanwright.errors import CheckpointError
from spanwright.model import GLiNER

State = dict[str, Tensor]
_SCALE = ".int8_scale"  # name of the scales (rows,) of a matrix that is stored as whole numbers in [-127, 127]


def weight_files(folder: Path, *, variant: str | None = None) -> list[Path]:
    """The files that hold a package's weights: of the variant asked ("fp16", "bf16"), else whole, else in shards.

    Without a variant, the first kind that is there: safetensors, safetensors in shards, a pickle, pickles in shards,
    and last a half-precision variant.

    Raises:
        CheckpointError: there are none, or the index names a shard that is absent.

    """
    if variant is not None:
        if not variant.isalnum():
            raise CheckpointError(f'`variant` must be a name such as "fp16" or "bf16", but is {variant!r}.')
        path = folder / f"model.{variant}.safetensors"
        if not path.is_file():
            raise CheckpointError(f"{folder} must hold {path.name}, but does not. Load it without `variant`.")
        return [path]
    for name in (published.WEIGHTS_FILE, published.PICKLED_WEIGHTS_FILE):
        if (folder / name).is_file():
            return [folder / name]
        if (folder / f"{name}.index.json").is_file():
            return _shards(folder / f"{name}.index.json")
    found = sorted(folder.glob("model.*.safetensors"))
    if found:
        return found[:1]
    raise CheckpointError(
        f"{folder} must hold {published.WEIGHTS_FILE} or {published.PICKLED_WEIGHTS_FILE}, but holds neither."
    )


def read_weights(folder: Path, *, variant: str | None = None) -> State:
    """The tensors of a package's weight files under their published names; tied ones under each name.

    Raises:
        CheckpointError: there is no weight file, or it is damaged or of another kind.

    """
    state: State = {}
    aliases: dict[str, str] = {}
    for path in weight_files(folder, variant=variant):
        _require_weights(path)
        if path.suffix == ".safetensors":
            try:
                with safe_open(str(path), framework="pt") as file:
                    state |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                    aliases |= file.metadata() or {}
            except SafetensorError as error:
                raise CheckpointError(
                    f"{path} must be a safetensors file, but cannot be read as one: {error}. It may be cut short or "
                    "damaged; fetch it again."
                ) from None
        else:
            state |= _unpickled(path)
    known = {omitted: kept for omitted, kept in aliases.items() if kept in state and omitted not in state}
    state |= {omitted: state[kept] for omitted, kept in known.items()}
    return _widened(state, folder)


def _widened(state: State, folder: Path) -> State:
    """Matrices that are stored as whole numbers, as float32: the same on every machine, since each is one product."""
    scaled = [name.removesuffix(_SCALE) for name in state if name.endswith(_SCALE)]
    for name in scaled:
        scale = state.pop(name + _SCALE)
        whole = state.get(name)
        if whole is None or whole.dtype != torch.int8 or whole.dim() < 2 or scale.shape != whole.shape[:1]:
            raise CheckpointError(
                f"Checkpoint {folder} must hold one scale for each row of {name}, but does not. It is damaged."
            )
        state[name] = whole.float() * scale.float().view(-1, *[1] * (whole.dim() - 1))
    return state


def _narrowed(state: State) -> State:
    """Every matrix of floats as whole numbers in [-127, 127] with a scale for each row; vectors as they are."""
    narrow: State = {}
    for name, value in state.items():
        if not value.is_floating_point() or value.dim() < 2:
            narrow[name] = value
            continue
        rows = value.float().flatten(1)
        scale = (rows.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        narrow[name] = (rows / scale.unsqueeze(1)).round().to(torch.int8).view(value.shape)
        narrow[name + _SCALE] = scale
    return narrow


def require_content(path: Path) -> None:
    """Refuse what a failed download leaves in a file's place.

    Raises:
        CheckpointError: the file is empty, a web page or a Git LFS pointer.

    """
    try:
        with path.open("rb") as file:
            head = file.read(200).lstrip().lower()
    except OSError as error:
        raise CheckpointError(f"{path} must be readable, but is not: {error.strerror}.") from None
    if not head:
        raise CheckpointError(f"{path} must have something in it, but is empty. Fetch it again.")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} must be the file itself, but is a Git LFS pointer to it. Run `git lfs pull` where it came from."
        )
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{path} must be a model's file, but is a web page (a failed download). Fetch it again.")


def _require_weights(path: Path) -> None:
    require_content(path)
    if path.suffix != ".safetensors":
        return
    with path.open("rb") as file:
        if file.read(4) in (b"PK\x03\x04", b"GGUF"):
            raise CheckpointError(f"{path} must be a safetensors file, but is of another kind under that name.")


def _shards(index: Path) -> list[Path]:
    require_content(index)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise CheckpointError(f"{index} must map weights to files, but cannot be read as such an index.") from None
    absent = [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]
    if absent:
        raise CheckpointError(f"{index} names {_listed(absent)}, which must be beside it, but is not.")
    return [index.parent / name for name in names]


def _unpickled(path: Path) -> State:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in str(error) or isinstance(error, pickle.UnpicklingError):
            reason = "it is damaged, or holds objects or code beside tensors, which are never loaded"
        raise CheckpointError(f"{path} must hold weights and nothing else, but cannot be read: {reason}.") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} must hold a state dict of tensors, but holds something else.")
    return state


def load_into(model: GLiNER, state: Mapping[str, Tensor], folder: Path) -> State:
    """Copy published tensors into `model`, every one and no other.

    What comes back are tensors that published models of this configuration carry and never run.

    Raises:
        CheckpointError: a parameter is missing, unexpected or of another shape; all are named.

    """
    own = model.state_dict()
    renamed: State = {}
    unexpected: list[str] = []
    unused: State = {}
    if any(".lora_" in name for name in state):
        raise CheckpointError(
            f"Checkpoint {folder} must hold whole weights, but holds adapters (LoRA) beside its encoder. Load it with "
            "gliner, merge them (`merge_and_unload`) and save it again."
        )
    for name, value in state.items():
        ours = published.from_published(name)
        if published.is_never_used(name, model.config):
            unused[name] = value
        elif ours in own:
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
    mistyped = [
        f"{published.to_published(n)} ({v.dtype} in the file)"
        for n, v in renamed.items()
        if v.is_floating_point() != own[n].is_floating_point()
    ]
    problems = [
        f"{verb} {len(names)} parameter{'s' if len(names) > 1 else ''}: {_listed(names)}"
        for verb, names in [
            ("lacks", [published.to_published(n) for n in missing]),
            ("has an unknown place for", unexpected),
            ("has the wrong shape for", misshapen),
            ("has the wrong type for", mistyped),
        ]
        if names
    ]
    if problems:
        raise CheckpointError(
            f"Checkpoint {folder} {'; it '.join(problems)}. Its configuration describes another model."
        )
    model.load_state_dict(renamed, strict=False)
    return unused


def write_weights(model: nn.Module, folder: Path, unused: Mapping[str, Tensor], *, as_int8: bool = False) -> None:
    """Write `model.safetensors` under published names, with the `unused` tensors that it came with.

    A tied tensor is stored once; metadata names its aliases. as_int8: matrices take a byte for each weight.
    """
    own = model.state_dict()
    tied = _tied_groups(own)
    stored: State = dict(unused)
    metadata = {"format": "pt"}
    for name, value in own.items():
        kept = min(tied[name])
        if name == kept:
            stored[published.to_published(name)] = value.detach().cpu().contiguous()
        else:
            metadata[published.to_published(name)] = published.to_published(kept)
    save_file(_narrowed(stored) if as_int8 else stored, str(folder / published.WEIGHTS_FILE), metadata=metadata)


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
