"""Builds that are broken on purpose. Each campaign must fail on its own."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spanwright.checkpoint import sealed
from spanwright.training import state as state_module
from support.saving import command_line, train_always_saving


def in_place(*arguments: Any) -> None:
    """States are written under their final names, as most trainers do."""

    @contextmanager
    def unstaged(target: Path):
        target.mkdir(parents=True)
        yield target

    sealed.temporary_folder = unstaged
    _on_a_slow_disk()
    sealed.os.rename = lambda source, target: None if source == target else _rename(source, target)
    train_always_saving(*arguments)


def no_manifest(*arguments: Any) -> None:
    """In place too, and a folder counts as whole if its files are there."""
    state_module.damage = lambda folder: "" if (folder / "run.json").exists() else "has no run.json"
    sealed.Sealing.seal = lambda self, target: None
    in_place(*arguments)


_rename = sealed.os.rename


def _on_a_slow_disk() -> None:
    """So that kills meet saves on every machine."""
    write = sealed._HashedFile.write

    def slowly(self: Any, content: Any) -> int:
        time.sleep(0.0002)
        return write(self, content)

    sealed._HashedFile.write = slowly


def no_finally(*arguments: Any) -> None:
    """A temporary folder that is removed only where all went well."""

    @contextmanager
    def careless(target: Path):
        staging = target.parent / f".{target.name}-0"
        staging.mkdir()
        yield staging

    sealed.temporary_folder = careless
    command_line(*arguments)
