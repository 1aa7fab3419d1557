"""Sealed folders: whole, on the disk, listed; any change is found."""

from __future__ import annotations

import os
import random
import re
import shutil
import stat
import subprocess
import sys

import pytest
import torch

from spanwright import faults
from spanwright.checkpoint.sealed import MANIFEST, damage, sealed_folder
from spanwright.errors import StorageError
from support.corruption import KINDS, corrupt

CONTENT = {"weights": torch.arange(3000, dtype=torch.float32), "step": 7}


def write(folder, value=CONTENT):
    with sealed_folder(folder, num_bytes=12_000, remedy="The rest stays.") as files:
        files.save("model.pt", value)
        files.save_json("run.json", {"step": value["step"]})


def test_what_is_written_is_whole(tmp_path):
    write(tmp_path / "state-000007")
    assert damage(tmp_path / "state-000007") == ""
    assert torch.equal(torch.load(tmp_path / "state-000007" / "model.pt")["weights"], CONTENT["weights"])
    assert [path.name for path in tmp_path.iterdir()] == ["state-000007"]


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077, 0o027])
def test_permissions_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write(tmp_path / "s")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o777 & ~mask
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "s").iterdir()} == {0o666 & ~mask}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_damage_is_found_in_every_file(kind, tmp_path):
    write(tmp_path / "state-000007")
    other = tmp_path / "other" / "state-000003"
    write(other, {"weights": torch.ones(3000), "step": 3})
    rng = random.Random(kind)
    for name in ("model.pt", "run.json", MANIFEST):
        copy = tmp_path / "copies" / "state-000007"
        shutil.copytree(tmp_path / "state-000007", copy)
        corrupt(copy, kind, rng, name=name, other=other)
        assert damage(copy), f"{kind} of {name}"
        shutil.rmtree(copy)


def test_a_renamed_copy_is_no_other_state(tmp_path):
    write(tmp_path / "state-000007")
    shutil.copytree(tmp_path / "state-000007", tmp_path / "state-000009")
    assert damage(tmp_path / "state-000009") == f"has a damaged {MANIFEST} (it is of state-000007)"


@pytest.mark.parametrize("point", ["state.begin", "state.file", "state.manifest", "state.rename"])
@pytest.mark.parametrize(
    ("action", "reason"),
    [("full", "No space left"), ("quota", "quota exceeded"), ("readonly", "Read-only"), ("io", "Input/output error")],
)
def test_a_refusal_names_path_and_bytes_and_leaves_nothing(point, action, reason, tmp_path):
    with faults.planted(f"{point}:{action}"), pytest.raises(StorageError) as told:
        write(tmp_path / "state-000007")
    message = str(told.value)
    assert message.startswith(f"{tmp_path}/state-000007 must be writable with room for 12,000 bytes, but is not: ")
    assert reason in message
    assert re.search(r"[\d,]+ bytes free\. The rest stays\.$", message)
    assert told.value.exit_code == 74
    assert not list(tmp_path.iterdir())


def test_another_error_leaves_nothing_either(tmp_path):
    with faults.planted("state.rename:raise"), pytest.raises(RuntimeError, match="planted"):
        write(tmp_path / "state-000007")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_everything_is_on_the_disk_before_its_name(tmp_path):
    """Kills cannot show a missing fsync; the order of the system calls can."""
    script = (
        "from pathlib import Path; from spanwright.checkpoint.sealed import sealed_folder\n"
        f"with sealed_folder(Path({str(tmp_path)!r}) / 's', num_bytes=1, remedy='') as files:\n"
        "    files.save_json('a.json', 1); files.save_json('b.json', 2)\n"
    )
    log = tmp_path / "log"
    command = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-y",
        "-e",
        "trace=fsync,rename,renameat,renameat2",
        "-o",
        str(log),
        sys.executable,
    ]
    done = subprocess.run([*command, "-c", script], capture_output=True, text=True)
    if "ptrace" in done.stderr.lower():
        pytest.skip("this place does not let strace trace")
    assert done.returncode == 0, done.stderr
    calls = [line for line in log.read_text().splitlines() if str(tmp_path) in line]
    order = ["rename" if "rename" in line else re.search(r"<(.*?)>", line)[1].rpartition("/")[2] for line in calls]
    renamed = order.index("rename")
    staging = next(name for name in order if name.startswith(".s-"))
    before = order[:renamed]
    assert {"a.json", "b.json", MANIFEST, staging} <= set(before)
    first_manifest = before.index(MANIFEST)
    assert {"a.json", "b.json"} <= set(before[:first_manifest])
    assert before[-1] == staging
    assert order[renamed + 1 :] == [tmp_path.name]
