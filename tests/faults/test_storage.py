"""File systems that refuse and disks that forget."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import subprocess

import pytest

from spanwright.checkpoint.sealed import damage
from spanwright.training.state import newest_state, states_in
from support.corruption import KINDS, corrupt
from support.runs import CASES, as_killed_after, differences, everything, without_curves
from support.saving import train_arguments
from support.scale import FULL, times

ENDED = "must be writable"


@pytest.fixture(scope="module")
def begun(nursery, place, tmp_path_factory):
    """A run of the command line that was stopped after step 3."""
    folder = tmp_path_factory.mktemp("begun")
    child = run(nursery, place, folder / "run", log=folder / "log", faults="step.update:term@3")
    assert child.wait() == 143, child.told
    return folder / "run"


def run(nursery, place, output, *, log, faults="", call="support.saving:command_line", before=()):
    arguments = train_arguments(str(place), str(output), 6)
    return nursery.start(call, *before, *arguments, "--resume", log=log, SPANWRIGHT_FAULTS=faults)


def require_stopped_cleanly(child, output, *, states) -> None:
    """Exit code 74, one sentence with path and bytes, the states that were there and no other, no leftovers."""
    assert child.wait() == 74, child.told
    told = [line for line in child.told.splitlines() if line.startswith("spanwright:")]
    assert len(told) == 1, child.told
    assert ENDED in told[0]
    assert str(output) in told[0]
    assert "Traceback" not in child.told
    assert [state.name for state in states_in(output)] == states
    assert not any(damage(state) for state in states_in(output))
    assert not list(output.glob(".state-*"))


@pytest.mark.parametrize("action", ["full", "quota", "readonly"])
@pytest.mark.parametrize("point", ["state.begin", "state.file", "state.manifest", "state.rename", "package.rename"])
def test_a_refusal_anywhere(point, action, nursery, place, begun, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(begun, output)
    before = [state.name for state in states_in(output)]
    child = run(nursery, place, output, log=tmp_path / "log", faults=f"{point}:{action}")
    if point == "package.rename":  # it is written at the evaluation of step 5, after its state
        assert child.wait() == 74, child.told
        before = ["state-000005", "state-000004"]
    require_stopped_cleanly(child, output, states=before)
    assert re.search(r"with room for [\d,]+ bytes, but is not: .*[\d,]+ bytes free", child.told)
    again = run(nursery, place, output, log=tmp_path / "again")
    assert again.wait() == 0, again.told
    assert (output / "model.safetensors").is_file()


def test_every_size_of_a_quota(nursery, place, begun, tmp_path, account):
    """No file may be larger than so many bytes (RLIMIT_FSIZE): 20 sizes up to that of the largest file of a state."""
    largest = max(path.stat().st_size for path in states_in(begun)[0].iterdir())
    sizes = [4096 + (largest - 4096) * number // 20 for number in range(20)]
    for size in random.Random(2).sample(sizes, times(4, 20)):
        output = tmp_path / str(size)
        shutil.copytree(begun, output)
        before = [state.name for state in states_in(output)]
        child = run(nursery, place, output, log=tmp_path / "log", call="support.saving:limited", before=[size])
        require_stopped_cleanly(child, output, states=before)
        assert "File too large" in child.told
        (tmp_path / "log").unlink()
    account("quotas", sizes=times(4, 20), old_state_damaged=0, leftovers=0)


@pytest.mark.skipif(not FULL, reason="part of `make faults`: mounts a small file system")
def test_a_disk_that_is_really_full(nursery, place, begun, tmp_path, account):
    sizes = [path.stat().st_size for path in begun.rglob("*") if path.is_file()]
    needed = sum(-(-size // 4096) * 4096 for size in sizes)  # a file system gives whole pages
    mount = tmp_path / "disk"
    mount.mkdir()
    tried = 0
    for share in range(20):
        size = needed + 20_000 + (needed * share) // 40
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount], capture_output=True)
        if made.returncode:
            pytest.skip(f"cannot mount here: {made.stderr.decode().strip()}")
        try:
            shutil.copytree(begun, mount / "run")
            before = [state.name for state in states_in(mount / "run")]
            child = run(nursery, place, mount / "run", log=tmp_path / "log")
            if child.wait() == 0:
                continue  # so much room was enough
            newest = newest_state(mount / "run", print)
            assert newest.name >= before[0]
            assert child.wait() == 74, child.told
            assert "No space left on device" in child.told
            assert not list((mount / "run").glob(".state-*"))
            (tmp_path / "log").unlink()
            tried += 1
        finally:
            subprocess.run(["umount", mount], check=True)
    account("full disks", sizes=tried, old_state_damaged=0, leftovers=0)
    assert tried >= 5


def test_every_corruption_is_found_and_named(tmp_path, account, monkeypatch):
    """The newest state damaged in a random file and way: the one before is taken, and the end is the same."""
    without_curves(monkeypatch)
    case = CASES["plain"]
    case.run(tmp_path / "whole", keep_states=30)
    rng = random.Random(7)
    found = 0
    trials = times(30, 100)
    for trial in range(trials):
        step = rng.randrange(3, 30)
        folder = as_killed_after(tmp_path / "whole", step, tmp_path / "run")
        shutil.copytree(tmp_path / "whole" / f"state-{step - 1:06}", folder / f"state-{step - 1:06}")
        corrupt(folder / f"state-{step:06}", KINDS[trial % len(KINDS)], rng, other=tmp_path / "whole" / "state-000002")
        told: list[str] = []
        newest = newest_state(folder, told.append)
        assert newest.name == f"state-{step - 1:06}", told
        found += len(told) == 1 and f"state-{step:06} is passed over: it" in told[0]
        if trial % 10 == 0:
            case.run(folder, seed=trial, resume=True, save_every=30)
            whole = everything(tmp_path / "whole" / "state-000030")
            assert not differences(whole, everything(folder / "state-000030"))
        shutil.rmtree(folder)
    account("corruptions", tried=trials, found=found)
    assert found == trials


def test_a_build_without_cleaning_up_is_found_out(nursery, place, begun, tmp_path):
    """No `finally` around the temporary folder: what a refusal leaves behind shows."""
    shutil.copytree(begun, tmp_path / "run")
    before = [state.name for state in states_in(tmp_path / "run")]
    child = run(
        nursery,
        place,
        tmp_path / "run",
        log=tmp_path / "log",
        faults="state.file:full@2",
        call="support.broken:no_finally",
    )
    child.wait()
    with pytest.raises(AssertionError):
        require_stopped_cleanly(child, tmp_path / "run", states=before)
    with contextlib.suppress(OSError):
        shutil.rmtree(tmp_path / "run")
