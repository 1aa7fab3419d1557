"""Two processes (gloo): they equal one, decide together, and end together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from spanwright import Extractor
from spanwright.training.record import read_metrics
from spanwright.training.state import load_state, newest_state, states_in
from support.nursery import TESTS, Nursery
from support.ranks import start_ranks
from support.runs import STEPS, differences, everything
from support.scale import FULL, times

LAST = f"state-{STEPS:06}"


@pytest.fixture(scope="module")
def nursery():
    with Nursery("support.ranks", "torch.distributed.tensor") as nursery:
        yield nursery


def together(nursery, call, *arguments, folder: Path, codes=(0, 0), timeout=90.0, **env):
    """Run and wait for both; what each wrote."""
    children = start_ranks(nursery, f"support.ranks:{call}", *arguments, folder=folder, **env)
    found = tuple(child.wait(timeout) for child in children)
    logs = [child.told for child in children]
    assert found == codes, "\n".join(logs)
    return logs


def results(folder: Path) -> list[dict]:
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_equal_one(nursery, tmp_path):
    """30 steps of the same global batch, evaluations between; more dev sentences than slices divide."""
    together(nursery, "whole_run", str(tmp_path / "two"), 135, {}, folder=tmp_path)
    alone = nursery.start("support.ranks:whole_run", str(tmp_path / "one"), 135, {}, log=tmp_path / "log")
    assert alone.wait() == 0, alone.told
    one, two, other = (
        torch.load(tmp_path / name, weights_only=True)
        for name in ("one/weights-0.pt", "two/weights-0.pt", "two/weights-1.pt")
    )
    for name, value in one.items():
        assert torch.equal(two[name], other[name]), name
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6)
    reports = [
        (tmp_path / name).read_text() for name in ("one/report-0.json", "two/report-0.json", "two/report-1.json")
    ]
    assert reports[0] == reports[1] == reports[2]
    assert json.loads(reports[0])["num_examples"] == 135
    lines = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("one", "two")]
    for mine, theirs in zip(*lines, strict=True):
        assert mine["step"] == theirs["step"]
        assert mine.get("f1") == theirs.get("f1")
        assert mine.get("loss", 0) == pytest.approx(theirs.get("loss", 0), abs=1e-6)
    assert sorted(path.name for path in (tmp_path / "two").glob("state-*")) == sorted(
        path.name for path in (tmp_path / "one").glob("state-*")
    )


def test_every_flip_of_a_module_on_one_rank_is_caught(nursery, tmp_path):
    together(nursery, "flips", str(tmp_path), folder=tmp_path)
    first, second = results(tmp_path)
    assert not first["moved"]
    assert not second["moved"]
    assert first["goes on"]
    assert len(first["found"]) == len(second["found"]) >= 2 * 60
    for one, other in zip(first["found"], second["found"], strict=True):
        name, culprit = one[:2]
        assert one[2] in ("ModeError", "TrainingError"), one
        assert other[2] in ("ModeError", "TrainingError"), other
        for text in (one[3], other[3]):
            assert (name or "the model itself") in text, one
            assert f"rank {culprit}" in text.lower(), one


def test_a_plan_that_only_one_rank_has_is_caught(nursery, tmp_path):
    together(nursery, "plans", str(tmp_path), folder=tmp_path)
    for found in results(tmp_path):
        kind, text = found["found"]
        assert kind == "ModeError"
        assert "all ranks must have the same modes, but differ in" in text
        assert "context (evaluation, declared frozen on rank 1" in text or "context (training, declared train" in text


def test_trouble_on_one_rank_is_everyones_and_mispairs_nothing(nursery, tmp_path):
    together(nursery, "troubles", str(tmp_path / "a"), folder=tmp_path / "a")
    together(nursery, "undisturbed", str(tmp_path / "b"), folder=tmp_path / "b")
    found = results(tmp_path / "a")
    for one, other in zip(*(part["found"] for part in found), strict=True):
        assert one[0] == other[0]
        culprit = one[0][-1]
        for kind, text in (one[1:], other[1:]):
            assert kind == "TrainingError", (one, other)
            assert f"rank {culprit}" in text.lower(), (one, other)
    calm = results(tmp_path / "b")
    assert found[0]["weights"] == found[1]["weights"] == calm[0]["weights"] == calm[1]["weights"]


def test_a_build_in_which_ranks_skip_alone_is_found_out(nursery, tmp_path):
    children = start_ranks(nursery, "support.ranks:skipping", str(tmp_path / "a"), folder=tmp_path / "a")
    ended = []
    for child in children:
        try:
            ended.append(child.wait(6))
        except TimeoutError:
            ended.append(None)
    together(nursery, "undisturbed", str(tmp_path / "b"), folder=tmp_path / "b")
    calm = results(tmp_path / "b")[0]["weights"]
    assert ended != [0, 0] or any(part["weights"] != calm for part in results(tmp_path / "a"))


def test_a_signal_to_one_rank_stops_both_and_they_go_on_exactly(nursery, tmp_path):
    name, options = "plain", {"accumulate": 1}
    together(nursery, "one_life", name, str(tmp_path / "whole"), options, folder=tmp_path / "w")
    for point, culprit in (("step.forward", 1), ("step.data", 0))[: times(1, 2)]:
        run = tmp_path / f"run-{culprit}"
        together(
            nursery,
            "one_life",
            name,
            str(run),
            options,
            folder=tmp_path / f"log-{culprit}",
            codes=(143, 143),
            SPANWRIGHT_FAULTS=f"{point}:term@12/{culprit}",
        )
        assert newest_state(run, print).name == "state-000012"
        together(nursery, "one_life", name, str(run), options, folder=tmp_path / f"again-{culprit}")
        one, other = everything(tmp_path / "whole" / LAST), everything(run / LAST)
        assert len(one["random"]) == 2
        assert not differences(one, other)
        first, second = one["random"]
        assert not torch.equal(first["torch"], second["torch"])  # they drop out differently


def test_another_number_of_processes_is_refused(nursery, tmp_path):
    together(nursery, "one_life", "plain", str(tmp_path / "run"), {}, folder=tmp_path, codes=(143, 143),
             SPANWRIGHT_FAULTS="step.forward:term@3/0")  # fmt: skip
    child = nursery.start("support.ranks:one_life", "plain", str(tmp_path / "run"), {}, log=tmp_path / "log")
    assert child.wait() == 1
    assert "world: processes (2 then, 1 now)" in child.told


@pytest.mark.parametrize(
    "moment", ["step.forward", "step.exchange", "step.updated", "state.rename", "evaluation.slice"]
)
@pytest.mark.parametrize(("action", "culprit"), [("kill", 1), ("raise", 0)])
def test_a_rank_that_dies_ends_the_job(moment, action, culprit, nursery, tmp_path):
    if moment == "state.rename" and culprit == 1:
        culprit = 0  # who writes
    started = time.monotonic()
    children = start_ranks(
        nursery,
        "support.ranks:whole_run",
        str(tmp_path / "run"),
        70,
        {"rank_timeout": 5.0, "save_every": 2},
        folder=tmp_path,
        SPANWRIGHT_FAULTS=f"{moment}:{action}@2/{culprit}",
    )
    codes = [child.wait(30) for child in children]
    assert time.monotonic() - started < 30
    logs = [child.told for child in children]
    assert 0 not in codes
    assert codes[culprit] == (-9 if action == "kill" else 1)
    if action == "raise":
        assert "a planted fault" in logs[culprit]
    survivor = logs[1 - culprit]
    assert "TrainingError" in survivor
    assert "rank" in survivor.lower()


def test_a_rank_that_stops_is_named_and_killed(nursery, tmp_path):
    started = time.monotonic()
    children = start_ranks(
        nursery,
        "support.ranks:whole_run",
        str(tmp_path / "run"),
        8,
        {"rank_timeout": 4.0},
        folder=tmp_path,
        SPANWRIGHT_FAULTS="step.forward:stop@3/1",
    )
    assert children[0].wait(30) == 1
    assert children[1].wait(10) == -signal.SIGKILL
    assert time.monotonic() - started < 30
    assert f"within 4 s, but rank 1 (process {children[1].pid} on" in children[0].told


def test_torchrun_ends_with_the_ranks_own_error(place, tmp_path):
    """The launcher itself: one machine, two processes, the command line."""
    from support.saving import train_arguments

    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        f"--master-port={29500 + os.getpid() % 500}",
    ]
    command += ["-m", "spanwright", *train_arguments(str(place), str(tmp_path / "run"), 6), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    if FULL:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        assert load_state(states_in(tmp_path / "run")[0]).world == {"processes": 2}
        assert Extractor.from_pretrained(tmp_path / "run", device="cpu")
        shutil.rmtree(tmp_path / "run")
    environment["SPANWRIGHT_FAULTS"] = "step.backward:memory@3/1"
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 1
    assert time.monotonic() - started < 45
    # both ranks write to one terminal, so a sentence may stand behind another's progress bar
    assert "spanwright: On rank 1: Step 3: memory must hold a micro-batch of" in done.stderr
    given_up = "spanwright: Step 3 was given up on all 2 ranks, for rank 1: TrainingError: Step 3: memory"
    assert given_up in done.stderr, done.stderr


def test_sharded_and_replicated_weights_make_the_same_package(nursery, tmp_path):
    """FSDP2 as `accelerate launch` sets it, against replicated weights."""
    sharded = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}
    sharded |= {"FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}
    options = {"max_steps": 10}
    together(nursery, "whole_run", str(tmp_path / "ddp"), 8, options, folder=tmp_path / "1")
    together(nursery, "whole_run", str(tmp_path / "fsdp"), 8, options, folder=tmp_path / "2", **sharded)
    files = [sorted(p.name for p in (tmp_path / run).iterdir() if p.is_file()) for run in ("ddp", "fsdp")]
    assert files[0] == files[1]
    one, other = (Extractor.from_pretrained(tmp_path / run, device="cpu").model.state_dict() for run in ("ddp", "fsdp"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-6)
    stopped = tmp_path / "stopped"
    for log, codes, faults in (("3", (143, 143), "step.forward:term@5/1"), ("4", (0, 0), "")):
        folder = tmp_path / log
        arguments = ("whole_run", str(stopped), 8, options)
        together(nursery, *arguments, folder=folder, codes=codes, SPANWRIGHT_FAULTS=faults, **sharded)
    one, other = (everything(run / "state-000010") for run in (tmp_path / "fsdp", stopped))
    assert not differences(one, other)
