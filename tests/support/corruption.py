"""Damage to files, as disks, transfers and people do it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

KINDS = ("truncated", "missing", "emptied", "one bit flipped", "another's file", "foreign file")


def corrupt(folder: Path, kind: str, rng: random.Random, *, name: str = "", other: Path | None = None) -> str:
    """Damage one file of a folder; what was done comes back. `other` is a folder of the same kind."""
    path = folder / (name or rng.choice(sorted(p.name for p in folder.iterdir())))
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: rng.randrange(1, len(content))])
    elif kind == "missing":
        path.unlink()
    elif kind == "emptied":
        path.write_bytes(b"")
    elif kind == "one bit flipped":
        place = rng.randrange(len(content) * 8)
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(changed))
    elif kind == "another's file":
        assert other is not None
        shutil.copyfile(other / path.name, path)
    else:
        (folder / "notes.txt").write_text("who put this here?")
    return f"{path.name}: {kind}"
