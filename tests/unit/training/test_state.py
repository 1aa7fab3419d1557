"""The states of a run's folder: which is taken, which are kept."""

from __future__ import annotations

import os
import random

import pytest
import torch

from spanwright import faults
from spanwright.errors import StorageError
from spanwright.training.state import (
    Progress,
    State,
    clear_leftovers,
    load_state,
    newest_state,
    save_state,
    state_of_step,
    states_in,
)
from support.corruption import KINDS, corrupt


def state(step: int, *, best: int = 0, evaluated: bool = True) -> State:
    return State(
        progress=Progress(step, step * 2, 0.5, best, 0, evaluated),
        model={"w": torch.full((4,), float(step))},
        optimizer={"state": {}, "param_groups": []},
        random=[{"torch": torch.random.get_rng_state()}],
        schedule={"num_steps": 100, "base_rates": [0.1]},
        scaler={},
        data={"rows": 8},
        labels={"seed": 0},
        modes={"(model)": "train"},
        config={"training": {"seed": 0}},
        world={"processes": 1},
    )


def names(folder) -> list[str]:
    return [path.name for path in states_in(folder)]


def test_the_newest_and_the_best_stay(tmp_path):
    for step in (10, 20, 30, 40):
        save_state(tmp_path, state(step, best=10), keep=2)
    assert names(tmp_path) == ["state-000040", "state-000030", "state-000010"]
    assert state_of_step(tmp_path, 10) == tmp_path / "state-000010"
    assert state_of_step(tmp_path, 20) is None


def test_a_state_before_its_evaluation_is_older_than_that_after_it(tmp_path):
    save_state(tmp_path, state(10, evaluated=False), keep=5)
    save_state(tmp_path, state(10), keep=5)
    save_state(tmp_path, state(9), keep=5)
    assert names(tmp_path) == ["state-000010", "state-000010-early", "state-000009"]


def test_steps_of_seven_digits_are_newer(tmp_path):
    for step in (999_999, 1_000_000):
        save_state(tmp_path, state(step), keep=5)
    assert names(tmp_path)[0] == "state-1000000"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_passed_over_and_named(kind, tmp_path):
    for step in (10, 20, 30):
        save_state(tmp_path, state(step), keep=5)
    save_state(tmp_path / "other", state(40), keep=1)
    for seed, step in enumerate((30, 20)):
        folder = tmp_path / f"state-{step:06}"
        corrupt(folder, kind, random.Random(seed), name="model.pt", other=tmp_path / "other" / "state-000040")
    told: list[str] = []
    assert newest_state(tmp_path, told.append) == tmp_path / "state-000010"
    assert [line.split(" is passed over: it ")[0] for line in told] == [
        f"{tmp_path}/state-000030",
        f"{tmp_path}/state-000020",
    ]


def test_nothing_whole_is_nothing(tmp_path):
    save_state(tmp_path, state(10), keep=1)
    (tmp_path / "state-000010" / "manifest.json").unlink()
    told: list[str] = []
    assert newest_state(tmp_path, told.append) is None
    assert told == [f"{tmp_path}/state-000010 is passed over: it has no manifest.json."]


def test_a_damaged_state_in_the_way_is_replaced(tmp_path):
    save_state(tmp_path, state(10), keep=1)
    (tmp_path / "state-000010" / "model.pt").write_bytes(b"")
    save_state(tmp_path, state(10), keep=1)
    assert newest_state(tmp_path, print) == tmp_path / "state-000010"


@pytest.mark.parametrize("point", ["state.begin", "state.file", "state.manifest", "state.rename"])
def test_a_refusal_names_the_state_before(point, tmp_path):
    save_state(tmp_path, state(10), keep=1)
    with faults.planted(f"{point}:full"), pytest.raises(StorageError, match=r"state-000010, is as it was\. Make room"):
        save_state(tmp_path, state(20), keep=1)
    assert names(tmp_path) == ["state-000010"]
    assert torch.equal(load_state(tmp_path / "state-000010").model["w"], torch.full((4,), 10.0))


def test_a_removal_that_fails_does_not_stop_the_run(tmp_path):
    for step in (10, 20):
        save_state(tmp_path, state(step), keep=1)
    with faults.planted("state.rotate:io"), pytest.raises(OSError, match="Input/output"):
        save_state(tmp_path, state(30), keep=1)
    assert newest_state(tmp_path, print) == tmp_path / "state-000030"


def test_leftovers_go_and_nothing_else(tmp_path):
    save_state(tmp_path, state(10), keep=1)
    (tmp_path / ".state-000020-123").mkdir()
    (tmp_path / ".state-000020-123" / "model.pt").write_bytes(b"half")
    (tmp_path / "metrics.jsonl").write_text("")
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "state-000010"]


def test_no_history_loses_the_newest_or_the_best(tmp_path, monkeypatch):
    """Random histories of saves, damage and crashes: a save that ends is the newest, one that does not loses none."""
    monkeypatch.setattr("os.fsync", lambda _: None)  # two thousand saves
    rng = random.Random(0)
    for history in range(1000 if os.environ.get("SPANWRIGHT_FAULTS_FULL") else 100):
        folder, best = tmp_path / str(history), 0
        for step in range(1, 8):
            best = step if rng.random() < 0.3 else best
            there = states_in(folder)
            if there and rng.random() < 0.25:
                (rng.choice(there) / "model.pt").write_bytes(b"")
            before = newest_state(folder, lambda _: None)
            best_before = state_of_step(folder, best)
            point = rng.choice(["", "", "state.begin", "state.file", "state.manifest", "state.rename", "state.rotate"])
            try:
                with faults.planted(f"{point}:raise" if point else ""):
                    save_state(folder, state(step, best=best), keep=rng.choice([1, 2, 3]))
                written = True
            except RuntimeError:
                written = point == "state.rotate"
            found = newest_state(folder, lambda _: None)
            assert found == (folder / f"state-{step:06}" if written else before), history
            if best_before is not None or (written and best == step):
                assert state_of_step(folder, best) is not None, history
