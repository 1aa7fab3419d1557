"""Kill -9 at random moments of a run that is always saving."""

from __future__ import annotations

import importlib
import random
import shutil
import time
from pathlib import Path

import pytest

from spanwright.checkpoint.sealed import damage
from spanwright.errors import SpanwrightError
from spanwright.training.state import load_state, states_in
from support.nursery import Nursery
from support.runs import differences, everything
from support.saving import train_arguments
from support.scale import FULL, times

STEPS = 10_000  # more than are ever taken
SEED = 11


def killed(
    nursery,
    place,
    folder: Path,
    kills: int,
    *,
    call: str = "support.saving:train_always_saving",
    newest_first=states_in,
    step_in=None,
    until_found: bool = False,
) -> dict:
    """Start or resume the run in `folder`, kill it at a random moment; `kills` times. What was found after each.

    The two functions list what the run has saved and read one of them; a peer has its own.
    """
    rng, step_in = random.Random(SEED), step_in or _step_in
    folder.mkdir()
    output, acknowledged = folder / "run", folder / "acknowledged"
    done = unreadable = lost = in_a_save = 0
    while done < kills:
        done += 1
        before = _acknowledged(acknowledged)
        child = nursery.start(call, str(place), str(output), STEPS, str(acknowledged), "--resume", log=folder / "log")
        until = time.monotonic() + 30
        while _acknowledged(acknowledged) <= before and child.is_running and time.monotonic() < until:
            time.sleep(0.005)  # it has begun to save; from here on any moment is as likely as another
        time.sleep(rng.uniform(0, 0.15))
        child.kill()
        assert child.wait() == -9, child.told
        in_a_save += any(output.glob(".state-*"))
        steps = [step_in(state) for state in newest_first(output)]
        unreadable += steps[0] is None
        lost += max(step or 0 for step in steps) < _acknowledged(acknowledged)
        if until_found and (unreadable or lost):
            break
    return {"kills": done, "in a save": in_a_save, "unreadable": unreadable, "lost": lost}


def _step_in(state: Path) -> int | None:
    """The step of a state that can be read, whatever its manifest says."""
    try:
        return load_state(state).progress.step
    except SpanwrightError:
        return None


def _acknowledged(path: Path) -> int:
    lines = path.read_text().split() if path.exists() else []
    return max(map(int, lines), default=0)


def test_no_kill_damages_or_loses_anything(nursery, place, tmp_path, account):
    found = killed(nursery, place, tmp_path / "killed", times(30, 300))
    account("kill -9 while saving", **found)
    assert found["unreadable"] == found["lost"] == 0
    assert not any(damage(state) for state in states_in(tmp_path / "killed" / "run"))
    assert found["in a save"] or not FULL, "no kill met a save: the campaign shows nothing"

    last = states_in(tmp_path / "killed" / "run")[0]
    steps = load_state(last).progress.step
    shutil.copytree(tmp_path / "killed" / "run" / last.name, tmp_path / "end" / last.name)
    arguments = [str(part) for part in train_arguments(str(place), str(tmp_path / "whole"), STEPS)]
    child = nursery.start(
        "support.saving:command_line", *arguments, log=tmp_path / "log", SPANWRIGHT_FAULTS=f"step.updated:term@{steps}"
    )
    assert child.wait(600) == 143, child.told
    whole = next(state for state in states_in(tmp_path / "whole") if state.name.startswith(f"state-{steps:06}"))
    one, other = everything(whole), everything(tmp_path / "end" / last.name)
    del one["progress"]["evaluated"], other["progress"]["evaluated"]
    if whole.name == last.name:
        assert not differences(one, other)
    else:
        assert not differences(one["model"], other["model"])


@pytest.mark.parametrize("broken", ["in_place", "no_manifest"])
def test_a_broken_build_is_found_out(broken, nursery, place, tmp_path, account):
    """The campaign fails where states are written in place, or where nothing says whether they are whole."""
    found = killed(nursery, place, tmp_path / "killed", 60, call=f"support.broken:{broken}", until_found=not FULL)
    account(f"the same, broken on purpose ({broken})", **found)
    assert found["unreadable"] or found["lost"]


@pytest.mark.skipif(not FULL, reason="part of `make faults`: gliner's trainer under the same kills")
def test_the_same_kills_with_gliner(place, tmp_path, account):
    peer = importlib.import_module("support.peer_saving")
    with Nursery("support.peer_saving") as nursery:
        found = killed(
            nursery,
            place,
            tmp_path / "killed",
            300,
            call="support.peer_saving:train_always_saving",
            newest_first=peer.checkpoints,
            step_in=peer.step_in,
        )
    del found["in a save"]  # it saves in place: there is no sign of it
    account("the same with gliner 0.2.29's trainer", **found)
    assert found["unreadable"] > 0
