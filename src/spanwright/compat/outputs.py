"""Folders that are trained into again, as notebooks do."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spanwright.checkpoint.files import refusals, temporary_folder
from spanwright.errors import ConfigError
from spanwright.training.run import CONFIG_FILE

# what runs, and the package that they leave, are made of
_OURS = re.compile(
    r"\.?state-\d{6,}.*|metrics\.jsonl|learning-curve\.png|tensorboard|events\.out\..*|train-config\.json"
    r"|gliner_config\.json|model.*\.safetensors(\.index\.json)?|labels_tokenizer"
    r"|tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\..*|merges\.txt|.*\.model"
)


@contextmanager
def emptied(folder: Path) -> Iterator[None]:
    """A block in which `folder` is free for a run. What a former run left there comes back if none begins in it.

    Raises:
        ConfigError: `folder` holds other files than a run leaves.

    """
    held = sorted(folder.iterdir()) if folder.is_dir() else []
    foreign = [path for path in held if not _OURS.fullmatch(path.name)]
    if held and (foreign or not (folder / CONFIG_FILE).is_file()):
        shown = (foreign or held)[0].name
        raise ConfigError(
            f"`output_dir` must be a new or empty folder, or one that `train_model` filled, but {folder} holds "
            f"{shown}. Name another, or move that away."
        )
    if held and os.environ.get("WORLD_SIZE", "1") != "1":  # each of them would move the same files
        raise ConfigError(f"`output_dir` must be new or empty where several processes train, but {folder} holds files.")
    if not held:
        yield
        return
    with temporary_folder(folder.with_name(f"{folder.name}-former")) as aside:
        try:
            _move(sorted(held, key=lambda path: path.name != CONFIG_FILE), aside)
            yield
        finally:
            if not (folder / CONFIG_FILE).is_file():
                _move(list(aside.iterdir()), folder)


def _move(paths: list[Path], folder: Path) -> None:
    with refusals(folder):
        for path in paths:
            shutil.move(path, folder / path.name)
