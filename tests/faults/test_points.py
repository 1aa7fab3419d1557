"""A kill at every fault point, one after the other: whatever was being done, the run goes on to the same end."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from spanwright import ConfigError, faults
from spanwright.faults import POINTS
from spanwright.training.state import states_in
from support.runs import differences, everything
from support.saving import train_arguments
from support.scale import FULL

ROOT = Path(__file__).parents[2]
SHORT = ["state.renamed", "state.load", "package.begin", "package.moved", "evaluation.begin", "step.agree"]
LAST = "state-000006"


def run(nursery, place, output, faults: str = ""):
    arguments = [*train_arguments(str(place), str(output), 6), "--resume"]
    log = output.with_suffix(".log")
    child = nursery.start("support.saving:command_line", *arguments, log=log, SPANWRIGHT_FAULTS=faults)
    return child.wait(), child


@pytest.fixture(scope="module")
def whole(nursery, place, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    code, child = run(nursery, place, output)
    assert code == 0, child.told
    return output


@pytest.fixture(scope="module")
def begun(nursery, place, tmp_path_factory):
    output = tmp_path_factory.mktemp("begun") / "run"
    code, child = run(nursery, place, output, "step.update:term@3")
    assert code == 143, child.told
    return output


@pytest.mark.parametrize("count", [1, 2] if FULL else [1])
@pytest.mark.parametrize("point", POINTS if FULL else SHORT)
def test_a_kill_at(point, count, nursery, place, begun, whole, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(begun, output)
    code, child = run(nursery, place, output, f"{point}:kill@{count}")
    assert code == -9 or (count == 2 and code == 0), child.told  # not every point is reached twice
    code, child = run(nursery, place, output)
    assert code == 0, child.told
    assert not differences(everything(whole / LAST), everything(output / LAST))
    assert (output / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not list(output.glob(".state-*"))
    assert len(states_in(output)) <= 3


def test_the_list_of_points_is_that_of_the_code():
    code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py") if path.name != "faults.py")
    there = re.findall(r'faults\.point\("([\w.]+)"\)', code)
    assert set(there) == set(POINTS)


@pytest.mark.parametrize("text", ["state.renam:kill", "state.rename:explode", "state.rename:kill@x"])
def test_a_fault_that_cannot_be_meant_is_refused(text):
    with pytest.raises(ConfigError, match="`SPANWRIGHT_FAULTS` must be point:action@count"), faults.planted(text):
        pass


def test_faults_count_and_end(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with faults.planted("step.data:raise@2,step.forward:raise/0"):
        faults.point("step.data")
        faults.point("step.forward")  # of rank 0
        with pytest.raises(RuntimeError, match="planted"):
            faults.point("step.data")
        faults.point("step.data")
    faults.point("step.data")
