"""From the name of a model to a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from spanwright.errors import CheckpointError

DEFAULT_MODEL = "default"
_DEFAULT_FOLDER = Path(__file__).parent.parent / "models" / "default"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+\Z")
_SMALL = [
    "gliner_config.json",
    "config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "labels_tokenizer/*",
    "README.md",
]
_WEIGHTS = (["model.safetensors"], ["model.safetensors.index.json", "model-*.safetensors"], ["pytorch_model*"])


def local_folder(name: str | Path, *, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder of a model: `name` itself if it is one (then nothing is ever asked of a network), else its download.

    "default" is the model that comes with Spanwright; a folder of that name is ``./default``.

    A name such as ``urchade/gliner_small-v2.1`` is looked up on the Hugging Face hub: only the files that are needed,
    at `revision` if given, from the local cache where they are there. Weights are those of `variant` ("fp16", "bf16")
    if given, else safetensors, else a pickle.

    Raises:
        CheckpointError: there is no such folder, and no such model on the hub or no way to it.

    """
    if name == DEFAULT_MODEL:
        return _DEFAULT_FOLDER
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"{path} must be a model's folder, but is a file. Name the folder that holds it.")
    if not _HUB_NAME.match(str(name)):
        raise CheckpointError(
            f"{path} must be a model's folder, but does not exist. Name a folder, OWNER/NAME on the hub, or "
            f'"{DEFAULT_MODEL}", the model in the package.'
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    kinds = ([f"model.{variant}.safetensors"],) if variant else _WEIGHTS
    try:
        folder = Path(snapshot_download(str(name), revision=revision, allow_patterns=_SMALL))
        for patterns in kinds:
            folder = Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns))
            if any(found for pattern in patterns for found in folder.glob(pattern)):
                break
        return folder
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"`{name}` must be a folder here or a model on the hub that can be reached, but is neither: {reason}"
        ) from None
