"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from spanwright import faults
from spanwright.errors import CheckpointError, StorageError


@contextmanager
def staged_folder(target: Path, *, num_bytes: int = 0) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes it, or whose files move into it, once the block has succeeded.

    Every file is on the disk before its name is; after an error `target` is as it was. Files that `target` has and the
    new folder lacks stay. num_bytes: about how much will be written, for the message.

    Raises:
        StorageError: the file system refuses (full, read-only, no such place); it names the path.

    """
    with refusals(target, num_bytes=num_bytes), temporary_folder(target) as staging:
        faults.point("package.begin")
        yield staging
        settle(staging)
        faults.point("package.rename")
        if target.exists():
            target.mkdir(exist_ok=True)
            for path in sorted(staging.rglob("*"), key=lambda path: path == staging / "gliner_config.json"):
                if path.is_dir():
                    (target / path.relative_to(staging)).mkdir(exist_ok=True)
                else:
                    os.replace(path, target / path.relative_to(staging))
                    faults.point("package.moved")
        else:
            os.replace(staging, target)
        sync(target)
        sync(target.parent)


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, gone after the block unless it was renamed. A killed process leaves it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.parent / f".{target.name}-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def refusals(target: Path, *, num_bytes: int = 0, remedy: str = "Nothing in it changed.") -> Iterator[None]:
    """A block in which what a file system refuses becomes a StorageError about `target` and the bytes it needs."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = getattr(error, "strerror", None) or error
        room = f" with room for {num_bytes:,} bytes" if num_bytes else ""
        free = f", {_free(target)} free" if num_bytes else ""
        raise StorageError(f"{target} must be writable{room}, but is not: {reason}{free}. {remedy}") from error


def _free(target: Path) -> str:
    try:
        return f"{shutil.disk_usage(target if target.exists() else target.parent).free:,} bytes"
    except OSError:
        return "an unknown number of bytes"


def sync(path: Path) -> None:
    """Wait until the disk has `path`, a file or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle(folder: Path) -> None:
    """Permissions as the umask says (some writers make private files), and everything on the disk."""
    mask = os.umask(0)
    os.umask(mask)
    for path in [*folder.rglob("*"), folder]:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
        sync(path)
