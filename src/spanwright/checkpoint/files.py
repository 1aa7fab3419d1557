"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from spanwright.errors import CheckpointError


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes it, or whose files move into it, once the block has succeeded.

    Every file is on the disk before its name is; after an error `target` is as it was. Files that `target` has and the
    new folder lacks stay.

    Raises:
        CheckpointError: the file system refuses (full, read-only, no such place); it names the path.

    """
    staging: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        yield staging
        _settle(staging)
        if target.exists():
            target.mkdir(exist_ok=True)
            for path in sorted(staging.rglob("*"), key=lambda path: path == staging / "gliner_config.json"):
                if path.is_dir():
                    (target / path.relative_to(staging)).mkdir(exist_ok=True)
                else:
                    os.replace(path, target / path.relative_to(staging))
        else:
            os.replace(staging, target)
        sync(target)
        sync(target.parent)
    except (OSError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{target} must be writable, but is not: {reason}. Nothing in it changed.") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until the disk has `path`, a file or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _settle(folder: Path) -> None:
    """Permissions as the umask says (temporary files are private), and everything on the disk."""
    mask = os.umask(0)
    os.umask(mask)
    for path in [folder, *folder.rglob("*")]:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
        sync(path)
