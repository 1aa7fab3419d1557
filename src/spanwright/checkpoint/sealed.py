"""Folders that prove themselves whole: a manifest, written last, lists every file with its size and SHA-256.

The order on the disk is: each file, the manifest, the temporary folder, its name, the parent's list of names. So a
folder under its final name is whole unless a disk or a person changed it later, and then `damage` says how.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch

from spanwright import faults
from spanwright.checkpoint.files import refusals, settle, sync, temporary_folder

MANIFEST = "manifest.json"
_CHUNK = 1 << 20


class Sealing:
    """The files of a folder that is being written; each is hashed on its way to the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, dict[str, Any]] = {}

    def save(self, name: str, value: Any) -> None:
        """Tensors and plain values, in torch's format."""
        with self._writing(name) as file:
            try:
                torch.save(value, cast("IO[bytes]", file))  # it needs no more than `write`
            except RuntimeError as error:  # torch's writer hides what the file system said
                raise file.refused or error from None

    def save_json(self, name: str, value: Any) -> None:
        """A JSON value."""
        with self._writing(name) as file:
            file.write((json.dumps(value, indent=1) + "\n").encode())

    def seal(self, target: Path) -> None:
        """Everything on the disk, then the manifest. A folder knows its name: a renamed copy is no other state."""
        settle(self._folder)
        faults.point("state.manifest")
        (self._folder / MANIFEST).write_bytes(_manifest(target.name, self._files))
        settle(self._folder)

    @contextmanager
    def _writing(self, name: str) -> Iterator[_HashedFile]:
        with _HashedFile(self._folder / name) as file:
            yield file
        self._files[name] = {"bytes": file.size, "sha256": file.digest.hexdigest()}


class _HashedFile:
    """A file to write to that counts and hashes what it is given, and remembers a refusal."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self.digest = hashlib.sha256()
        self.size = 0
        self.refused: OSError | None = None

    def write(self, content: bytes | memoryview) -> int:
        """All of `content`."""
        view = memoryview(content).cast("B")
        try:
            faults.point("state.file")
            done = 0
            while done < len(view):
                done += self._file.write(view[done:]) or 0
        except OSError as error:
            self.refused = error
            raise
        self.digest.update(view)
        self.size += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""

    def __enter__(self) -> _HashedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def sealed_folder(target: Path, *, num_bytes: int, remedy: str) -> Iterator[Sealing]:
    """Write a new folder `target`: under its name it is whole, on the disk, and lists itself.

    num_bytes: about how much will be written, for the message; remedy: its last sentence.

    Raises:
        StorageError: the file system refuses; nothing is left of the folder.

    """
    with refusals(target, num_bytes=num_bytes, remedy=remedy):
        faults.point("state.begin")
        with temporary_folder(target) as staging:
            files = Sealing(staging)
            yield files
            files.seal(target)
            faults.point("state.rename")
            os.rename(staging, target)
        faults.point("state.renamed")
        sync(target.parent)


def damage(folder: Path) -> str:
    """What is wrong with a sealed folder; empty where it is whole, bit for bit."""
    try:
        files = _read_manifest(folder)
    except FileNotFoundError:
        return f"has no {MANIFEST}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"has a damaged {MANIFEST} ({str(error)[:80] or type(error).__name__})"
    try:
        there = {str(path.relative_to(folder)) for path in folder.rglob("*")} - {MANIFEST}
        if missing := sorted(files.keys() - there):
            return f"lacks {', '.join(missing)}"
        if foreign := sorted(there - files.keys()):
            return f"holds {', '.join(foreign)}, which its {MANIFEST} does not name"
        for name, listed in sorted(files.items(), key=lambda item: item[1]["bytes"]):
            size = (folder / name).stat().st_size
            if size != listed["bytes"]:
                return f"has {size:,} of {listed['bytes']:,} bytes of {name}"
            if (found := _sha256(folder / name)) != listed["sha256"]:
                return f"has another {name} than was written (sha256 {found[:12]}, not {listed['sha256'][:12]})"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return ""


def _manifest(name: str, files: dict[str, Any]) -> bytes:
    """Canonical bytes, with their own digest: any other bytes are a damaged manifest."""
    content = {"name": name, "files": files}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({"content": content, "sha256": digest}, indent=1, sort_keys=True) + "\n").encode()


def _read_manifest(folder: Path) -> dict[str, Any]:
    written = (folder / MANIFEST).read_bytes()
    content = json.loads(written)["content"]
    files: dict[str, Any] = content["files"]
    if _manifest(content["name"], files) != written:
        raise ValueError("its digest is another")
    if content["name"] != folder.name:
        raise ValueError(f"it is of {content['name']}")
    return files


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
