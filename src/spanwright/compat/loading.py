"""gliner's loader: its arguments, and what they become here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from spanwright.arguments import chosen_dtype
from spanwright.checkpoint import local_folder, pack
from spanwright.data.notes import is_index
from spanwright.errors import ConfigError, nearest, require
from spanwright.extractor import Extractor
from spanwright.model import build

_HALVES = {
    "fp16": "fp16",
    "float16": "fp16",
    "half": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
}
_DTYPES = {**_HALVES, "fp32": "fp32", "float32": "fp32", "float": "fp32"}

# arguments that change nothing here: the hub's cache decides, or it is always so
_NEEDLESS = {
    "cache_dir",
    "force_download",
    "proxies",
    "resume_download",
    "token",
    "local_files_only",
    "strict",
    "load_tokenizer",
    "resize_token_embeddings",
    "low_cpu_mem_usage",
    "compile_torch_model",
    "onnx_model_file",
}
# argument -> the values that ask for nothing, and what to do instead of any other
_PLAIN: dict[str, tuple[tuple[Any, ...], str]] = {
    "load_onnx_model": ((None, False), "Leave it out: torch runs the model."),
    "runtime": ((None, "torch"), "Leave it out: torch runs the model."),
    "runtime_model_file": ((None,), "Leave it out: torch runs the model."),
    "runtime_options": ((None, {}), "Leave it out: torch runs the model."),
    "session_options": ((None,), "Leave it out: torch runs the model."),
    "model_dir": ((None,), "Pass the folder as `model_id`."),
    "_attn_implementation": ((None, "eager", "sdpa"), "Leave it out: the encoder chooses."),
}


def load(
    model_id: str | Path,
    *,
    revision: str | None,
    map_location: str | torch.device | None,
    dtype: str | torch.dtype | None,
    variant: str | None,
    quantize: str | bool | None,
    others: Mapping[str, Any],
) -> Extractor:
    """The extractor that gliner's arguments ask for.

    Raises:
        CheckpointError: there is no such model, or it is damaged or of another kind.
        ConfigError: an argument is unknown or cannot be honoured.

    """
    sizes = _sizes(others)
    half = _half("variant", variant)
    if isinstance(dtype, str):
        dtype = _DTYPES.get(dtype.lower(), dtype)
    quantized = _half("quantize", "fp16" if quantize is True else quantize or None)
    if half and dtype is not None and chosen_dtype(dtype) != chosen_dtype(half):
        raise ConfigError(f"`dtype` must agree with `variant`, but is {dtype!r} beside {variant!r}. Leave one out.")
    folder, found = _folder(model_id, revision, half)
    device = "cpu" if map_location is None else map_location
    extractor = Extractor.from_pretrained(folder, device=device, dtype=dtype or half or quantized, variant=found)
    return _resized(extractor, sizes)


def _sizes(others: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ModelConfig that a caller wants otherwise; what else is in `others` must ask for nothing."""
    fields = {"max_length": "max_words", "max_width": "max_width", "post_fusion_schema": "fusion"}
    for name in ("max_length", "max_width"):
        value = others.get(name)
        require(value is None or (is_index(value) and value >= 1), name, "be a whole number, at least 1", value)
    for name in others.keys() - _NEEDLESS - fields.keys():
        if name not in _PLAIN:
            known = _NEEDLESS | fields.keys() | _PLAIN.keys()
            raise ConfigError(f"`{name}` is not an argument of `from_pretrained` here. {nearest(name, known)}")
        allowed, remedy = _PLAIN[name]
        if others[name] not in allowed:
            raise ConfigError(f"`{name}` must be {_either(allowed)}, but is {others[name]!r}. {remedy}")
    return {field: others[name] for name, field in fields.items() if others.get(name) is not None}


def _either(allowed: tuple[Any, ...]) -> str:
    return " or ".join(repr(value) for value in allowed)


def _half(name: str, given: object) -> str | None:
    """What gliner calls a variant or, in older versions, quantisation, under one name; None for none."""
    if given is None:
        return None
    found = _HALVES.get(given.lower()) if isinstance(given, str) else None
    if found is None:
        raise ConfigError(f'`{name}` must be "fp16" or "bf16", but is {given!r}. Leave it out.')
    return found


def _folder(model_id: str | Path, revision: str | None, variant: str | None) -> tuple[Path, str | None]:
    """The model's folder, and the variant if it has such weights; where it has none, a warning, as in gliner."""
    folder = local_folder(model_id, revision=revision, variant=variant)
    if variant is None or (folder / f"model.{variant}.safetensors").is_file():
        return folder, variant
    message = f"`variant={variant!r}` names weights that {model_id} does not have: the whole ones are read and cast."
    warnings.warn(message, UserWarning, stacklevel=4)
    return local_folder(model_id, revision=revision), None


def _resized(extractor: Extractor, sizes: Mapping[str, Any]) -> Extractor:
    """The same weights with other limits.

    Raises:
        ConfigError: the weights are made for the limits that they have.

    """
    package, old = extractor.package, extractor.model
    config = replace(old.config, **sizes)
    if config == old.config:
        return extractor
    require(
        config.fusion == old.config.fusion,
        "post_fusion_schema",
        f"be {old.config.fusion!r} as in the model",
        config.fusion,
    )
    new = build(config).to(old.device, old.dtype)
    try:
        new.load_state_dict(old.state_dict())
    except RuntimeError:
        raise ConfigError(
            f"`max_width` must be {old.config.max_width}, for which the weights are made, but is {config.max_width}."
        ) from None
    return Extractor(replace(pack(new, package.tokenizer, package.label_tokenizer), unused=package.unused))
