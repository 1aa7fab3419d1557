"""What users pass, checked before anything is done with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from spanwright.errors import ConfigError, DataError, require

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


def checked_labels(labels: Iterable[object]) -> tuple[str, ...]:
    """Labels as a tuple, each once, in their order.

    Raises:
        DataError: one is not a string, or has nothing in it.

    """
    if isinstance(labels, str):
        raise DataError(f"`labels` must be a list of strings, but is one string. Did you mean [{labels!r}]?")
    checked = []
    for label in labels:
        if not isinstance(label, str) or not label.strip():
            raise DataError(f"A label must be a string with something in it, but is {label!r}.")
        checked.append(label)
    return tuple(dict.fromkeys(checked))


def labels_per_text(labels: Sequence[str] | Sequence[Sequence[str]], num_texts: int) -> list[tuple[str, ...]]:
    """The labels of each text: `labels` are one list for all, or one list per text.

    Raises:
        DataError: as `checked_labels`; or there are not as many lists as texts.

    """
    if isinstance(labels, str):
        raise DataError(f"`labels` must be a list of strings, but is one string. Did you mean [{labels!r}]?")
    listed = list(labels)
    if all(isinstance(label, str) for label in listed):
        return [checked_labels(listed)] * num_texts
    if any(isinstance(label, str) or not isinstance(label, Iterable) for label in listed):
        raise DataError("`labels` must be strings, or one list of strings per text, but is a mixture of other things.")
    if len(listed) != num_texts:
        raise DataError(f"`labels` must be one list per text, but are {len(listed)} lists for {num_texts} texts.")
    return [checked_labels(own) for own in listed]


def require_texts(texts: Sequence[str]) -> None:
    """Raise the DataError of a caller who passes one string, or something that is none, for texts."""
    if isinstance(texts, str):
        raise DataError("`texts` must be a list of strings, but is one string. Ask for a single text by itself.")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"texts[{index}] must be a string, but is {text!r} ({type(text).__name__}).")


def chosen_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, by default the GPU if there is one.

    Raises:
        ConfigError: there is no such device.

    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ConfigError(f'`device` must be a name such as "cpu" or "cuda:0", but is {device!r}.') from None
    require(found.type != "cuda" or torch.cuda.is_available(), "device", "be on this machine", str(device))
    return found


def chosen_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """The type of weights asked for, by default float32.

    Raises:
        ConfigError: there is none of that name, or it is no floating point.

    """
    if dtype is None:
        return torch.float32
    found = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f"`dtype` must be one of {', '.join(_DTYPES)}, but is {dtype!r}.")
    return found
