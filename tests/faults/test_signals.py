"""SIGTERM and SIGINT from outside, at random moments: what was begun is saved, and the run goes on exactly."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from spanwright.training.state import newest_state
from support.runs import STEPS, differences, everything
from support.scale import times

NAME = "early stopping, 2 workers"
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
LAST = f"state-{STEPS:06}"


@pytest.fixture(scope="module")
def whole(nursery, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    child = nursery.start("support.saving:train_case", NAME, str(folder / "run"), 0, log=folder / "log")
    assert child.wait() == 0, child.told
    return everything(folder / "run" / LAST)


def begin(nursery, folder: Path, seed: int = 0, *, faults: str = "", case: str = NAME):
    """A life of the run in `folder`, in a process group of its own, at a moment after its first state."""
    child = nursery.start(
        "support.saving:train_case", case, str(folder / "run"), seed, log=folder / "log", SPANWRIGHT_FAULTS=faults
    )
    until = time.monotonic() + 30
    while child.is_running and time.monotonic() < until and not any((folder / "run").glob("state-*")):
        time.sleep(0.005)
    return child


def nobody_is_left(group: int) -> bool:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_signal_at_any_moment(nursery, whole, tmp_path, account):
    """Signals to the process, or to its whole group with its loaders, as terminals and supervisors send them."""
    rng = random.Random(5)
    trials = times(5, 100)
    late = 0
    for trial in range(trials):
        folder = tmp_path / str(trial)
        folder.mkdir()
        number, everyone = rng.choice(list(CODES)), rng.random() < 0.5
        child = begin(nursery, folder)
        time.sleep(rng.uniform(0, 1.0))
        if child.is_running:
            (os.killpg if everyone else os.kill)(child.pid, number)
        code = child.wait()
        late += code == 0
        assert code in (0, CODES[number]), child.told
        assert nobody_is_left(child.pid), child.told
        assert newest_state(folder / "run", print) is not None
        again = nursery.start("support.saving:train_case", NAME, str(folder / "run"), trial, log=folder / "log")
        assert again.wait() == 0, again.told
        assert not differences(whole, everything(folder / "run" / LAST)), f"trial {trial}"
    account("signals at random moments", signals=trials, after_the_end=late, inexact=0, orphans=0)
    assert late < trials


@pytest.mark.parametrize("number", CODES)
def test_a_second_signal_stops_at_once(number, nursery, whole, tmp_path):
    rng = random.Random(number)
    for trial in range(times(1, 25)):
        folder = tmp_path / str(trial)
        folder.mkdir()
        child = begin(nursery, folder)
        time.sleep(rng.uniform(0, 0.5))
        for _ in range(2):
            if child.is_running:
                child.kill(number)
            time.sleep(rng.uniform(0, 0.05))
        # the second may come when the loop has put the caller's handlers back: then it does what it always did
        assert child.wait(10) in (0, CODES[number], -number), child.told
        assert nobody_is_left(child.pid)
        again = nursery.start("support.saving:train_case", NAME, str(folder / "run"), trial, log=folder / "log")
        assert again.wait() == 0, again.told
        assert not differences(whole, everything(folder / "run" / LAST))


def test_the_second_one_does_not_wait_for_the_step(nursery, tmp_path):
    """The step is stopped in its middle (SIGSTOP), signalled twice and woken: it ends there, and says so."""
    (tmp_path / "one").mkdir()
    child = begin(nursery, tmp_path / "one", faults="step.backward:term@20,step.update:int@20", case="plain")
    assert child.wait() == 143
    assert "by a second signal" in child.told
    assert int(newest_state(tmp_path / "one" / "run", print).name[6:]) == 19


def test_the_grace_period_ends_a_step_that_takes_too_long(nursery, place, tmp_path):
    from support.saving import train_arguments

    arguments = [*train_arguments(str(place), str(tmp_path / "run"), 50), "--set", "training.grace_period=0.02"]
    faults = "step.forward:term@5,step.backward:wait@5"
    child = nursery.start("support.saving:command_line", *arguments, log=tmp_path / "log", SPANWRIGHT_FAULTS=faults)
    assert child.wait() == 143
    assert "by 0.02 s after SIGTERM" in child.told
    assert newest_state(tmp_path / "run", print).name == "state-000004"


def test_a_loader_process_that_dies_ends_the_run_with_a_reason(nursery, tmp_path):
    """At random moments: it may hold the connection over which the main process receives a tensor."""
    rng = random.Random(3)
    for trial in range(times(2, 20)):
        folder = tmp_path / str(trial)
        folder.mkdir()
        child = begin(nursery, folder)
        time.sleep(rng.choice([0.0, rng.uniform(0, 0.4)]))
        workers = [int(pid) for pid in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()]
        assert workers
        os.kill(rng.choice(workers), signal.SIGKILL)
        assert child.wait(30) == 1
        assert "Every loader process must live, but one did not" in child.told
        assert nobody_is_left(child.pid)
