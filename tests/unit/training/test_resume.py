"""Exact resume: a run that stopped anywhere and went on is, bit for bit, the run that did not stop."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from spanwright import CheckpointError, ConfigError, Extractor, TrainConfig, faults, modes, train
from spanwright.checkpoint.sealed import MANIFEST, _manifest, damage
from spanwright.training import loop as loop_module
from spanwright.training.record import read_metrics
from spanwright.training.state import load_state, states_in
from support.data import sentences
from support.runs import CASES, STEPS, as_killed_after, differences, everything, stopped_each_step, without_curves

FULL = bool(os.environ.get("SPANWRIGHT_FAULTS_FULL"))
LAST = f"state-{STEPS:06}"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    without_curves(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run of each case, with every state that it passed through."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("whole") / "run"
            CASES[name].run(made[name], keep_states=STEPS)
        return made[name]

    return get


def reseal(folder: Path) -> None:
    """Write a manifest that fits the files as they are."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in folder.iterdir()
        if path.name != MANIFEST
    }
    (folder / MANIFEST).write_bytes(_manifest(folder.name, files))


@pytest.mark.parametrize("name", CASES)
def test_killed_after_any_step(name, whole, tmp_path):
    stops = range(1, STEPS) if FULL else sorted(random.Random(name).sample(range(1, STEPS), 3))
    for step in stops:
        folder = as_killed_after(whole(name), step, tmp_path / str(step))
        CASES[name].run(folder, seed=step, resume=True, save_every=STEPS)
        assert not differences(everything(whole(name) / LAST), everything(folder / LAST)), f"killed after {step}"
        assert (folder / "model.safetensors").read_bytes() == (whole(name) / "model.safetensors").read_bytes()
        lines = [
            [{**line, "rows_per_second": 0} for line in read_metrics(f / "metrics.jsonl")]
            for f in (folder, whole(name))
        ]
        assert lines[0] == lines[1]


@pytest.mark.parametrize("name", CASES if FULL else ["accumulation 3, frozen parts, two LSTM layers"])
def test_stopped_after_every_step(name, whole, tmp_path):
    """Thirty lives of one step each. Where an evaluation is due at the stop, the next life makes it."""
    stopped_each_step(CASES[name], tmp_path / "run", STEPS - 1)
    assert not differences(everything(whole(name) / LAST), everything(tmp_path / "run" / LAST))


SCORES = {2: 0.1, 4: 0.2, 6: 0.5, 8: 0.4, 10: 0.3, 12: 0.9}


def scripted_run(folder, monkeypatch, *, forgetting=""):
    """Patience 2, F1 by script: best at step 6. Stopped after step 9, resumed; (evaluated at, last step, best step)."""
    now: list[int] = []
    real = loop_module.Loop._validate

    def note(self, run):
        now.append(run.progress.step)
        real(self, run)

    def measured(self, *_):
        value = SCORES[now[-1]]
        counts = type("Micro", (), {"f1": value, "precision": value, "recall": value})()
        report = type("Report", (), {"micro": counts, "macro_f1": value, "headline_f1": value, "relations": None})()
        return type("Measured", (), {"report": report, "loss": 0.1})()

    monkeypatch.setattr(loop_module.Loop, "_validate", note)
    monkeypatch.setattr(loop_module.Validator, "measure", measured)
    case = replace(CASES["plain"], dev=True, training={"max_steps": 12}, validation={"every": 2, "patience": 2})
    with faults.planted("step.update:term@9"), pytest.raises(SystemExit):
        case.run(folder)
    if forgetting:
        forget(forgetting, monkeypatch)
    case.run(folder, seed=5, resume=True)
    progress = load_state(states_in(folder)[0]).progress
    return now, progress.step, progress.best_step


def test_early_stopping_goes_on_counting(tmp_path, monkeypatch):
    assert scripted_run(tmp_path / "run", monkeypatch) == ([2, 4, 6, 8, 10], 10, 6)
    assert [state.name for state in states_in(tmp_path / "run")] == ["state-000010", "state-000009", "state-000006"]
    again = Extractor.from_pretrained(tmp_path / "run", device="cpu").model.state_dict()
    best = load_state(tmp_path / "run" / "state-000006").model
    assert not differences(dict(best), {name: again[name] for name in best})


@pytest.mark.parametrize("part", ["best_f1", "best_step", "evaluations_without_gain"])
def test_a_part_of_early_stopping_that_is_not_restored_shows(part, tmp_path, monkeypatch):
    assert scripted_run(tmp_path / "run", monkeypatch, forgetting=part) != ([2, 4, 6, 8, 10], 10, 6)


PARTS = {
    "model.pt": None,
    "optimizer.pt": None,
    "random.pt": None,
    **dict.fromkeys(("progress", "schedule", "scaler", "data", "labels", "modes", "config", "world"), "run.json"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_state_that_lacks_a_part_is_refused_by_name(part, whole, tmp_path):
    folder = as_killed_after(whole("plain"), 7, tmp_path / "run")
    state = folder / "state-000007"
    if PARTS[part] is None:
        (state / part).unlink()
    else:
        record = json.loads((state / "run.json").read_text())
        del record[part]
        (state / "run.json").write_text(json.dumps(record))
    reseal(state)
    assert damage(state) == ""
    with pytest.raises(CheckpointError, match=f"every part of a training state, but lacks {part.removesuffix('.pt')}"):
        CASES["plain"].run(folder, resume=True)


def forget(part, monkeypatch):
    """A build that saves and reads a part, and does not use it."""
    if part == "model":
        real = loop_module.World.restore
        own = lambda self, twin, o, weights, state: real(self, twin, o, twin.state_dict(), state)  # noqa: E731
        monkeypatch.setattr(loop_module.World, "restore", own)
    elif part == "optimizer":
        monkeypatch.setattr(
            loop_module.World, "restore", lambda self, twin, o, weights, state: twin.load_state_dict(weights)
        )
    elif part in ("python", "numpy", "torch"):
        real_set = loop_module.set_random_state
        monkeypatch.setattr(
            loop_module,
            "set_random_state",
            lambda state: real_set({**state, part: loop_module.random_state()[part]}),
        )
    else:
        real_load = loop_module.load_state

        def load(folder):
            state = real_load(folder)
            fresh = {"position": 0, "best_f1": -1.0, "best_step": 0, "evaluations_without_gain": 0, "step": 0}[part]
            return replace(state, progress=replace(state.progress, **{part: fresh}))

        monkeypatch.setattr(loop_module, "load_state", load)


@pytest.mark.parametrize("part", ["model", "optimizer", "torch", "python", "numpy", "position", "step"])
def test_a_part_that_is_not_restored_shows(part, whole, tmp_path, monkeypatch):
    """So the comparison of the tests above sees each part."""
    name = "accumulation 3, frozen parts, two LSTM layers"
    folder = as_killed_after(whole(name), 23, tmp_path / "run")
    forget(part, monkeypatch)
    CASES[name].run(folder, seed=7, resume=True, save_every=STEPS)
    newest = states_in(folder)[0]
    assert differences(everything(whole(name) / LAST), everything(newest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, training=replace(c.training, seed=4)), r"training.seed \(0 then, 4 now\)"),
        (lambda c: replace(c, optimizer=replace(c.optimizer, lr=0.5)), r"optimizer.lr \(0.005 then, 0.5 now\)"),
        (lambda c: replace(c, labels=replace(c.labels, max_labels=2)), r"labels.max_labels \(3 then, 2 now\)"),
    ],
)
def test_another_configuration_is_refused_or_accepted(change, message, whole, tmp_path):
    folder = as_killed_after(whole("plain"), 28, tmp_path / "run")
    case = CASES["plain"]
    changed: TrainConfig = change(case.config())
    arguments = {"output": folder, "config": changed, "resume": True}
    with pytest.raises(ConfigError, match=message):
        train(case.extractor(), sentences(), **arguments)
    told: list[str] = []
    result = train(case.extractor(), sentences(), **arguments, accept_changes=True, tell=told.append)
    assert result.num_steps == STEPS
    assert any(" then, " in line and " now" in line for line in told)


def test_other_data_modes_and_processes_are_refused(whole, tmp_path):
    case = CASES["plain"]
    folder = as_killed_after(whole("plain"), 28, tmp_path / "run")
    arguments = {"output": folder, "config": case.config(), "resume": True}
    with pytest.raises(ConfigError, match=r"data: rows \(8 then, 7 now\)"):
        train(case.extractor(), sentences()[:7], **arguments)
    reordered = [*sentences()[1:], sentences()[0]]
    with pytest.raises(ConfigError, match="data: digest"):
        train(case.extractor(), reordered, **arguments)
    frozen = case.extractor()
    modes.freeze(frozen.model, "labels")
    with pytest.raises(ConfigError, match=r"modes: labels \('train' then, 'frozen' now\)"):
        train(frozen, sentences(), **arguments)
    record = json.loads((folder / "state-000028" / "run.json").read_text())
    record["world"]["processes"] = 4
    (folder / "state-000028" / "run.json").write_text(json.dumps(record))
    reseal(folder / "state-000028")
    with pytest.raises(ConfigError, match=r"world: processes \(4 then, 1 now\)"):
        train(case.extractor(), sentences(), **arguments)
    assert train(case.extractor(), sentences(), **arguments, accept_changes=True).num_steps == STEPS


def test_settings_that_move_no_weight_may_change(whole, tmp_path):
    folder = as_killed_after(whole("plain"), 25, tmp_path / "run")
    CASES["plain"].run(folder, resume=True, save_every=3, keep_states=1, num_workers=1, grace_period=3.0)
    assert not differences(everything(whole("plain") / LAST), everything(folder / LAST))


def test_resume_begins_where_there_is_nothing(tmp_path, whole):
    CASES["plain"].run(tmp_path / "run", resume=True, keep_states=STEPS)
    assert not differences(everything(whole("plain") / LAST), everything(tmp_path / "run" / LAST))


def test_a_finished_run_changes_nothing_when_resumed(tmp_path, whole):
    name = "early stopping, 2 workers"
    shutil.copytree(whole(name), tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    CASES[name].run(tmp_path / "run", resume=True, keep_states=STEPS)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_an_adapted_model_becomes_a_package_that_loads(whole):
    extractor = Extractor.from_pretrained(whole("LoRA"), device="cpu")
    best = load_state(states_in(whole("LoRA"))[0]).progress.best_step
    adapted = CASES["LoRA"].extractor()
    adapted.model.load_state_dict(load_state(whole("LoRA") / f"state-{best:06}").model)
    text = "Ada went to Rome ."
    found, expected = (
        [(e.start, e.end, e.label, round(e.score, 4)) for e in one.extract(text, ["city", "person"])]
        for one in (extractor, adapted)
    )
    assert found == expected


def test_the_callers_random_states_stay(tmp_path):
    import torch

    torch.manual_seed(3)
    random.seed(3)
    before = torch.random.get_rng_state(), random.getstate()
    CASES["plain"].run(tmp_path / "run", max_steps=2)
    torch.manual_seed(0)  # `extractor` seeds, so look at what `train` alone does
    extractor = CASES["plain"].extractor()
    before = torch.random.get_rng_state(), random.getstate()
    train(extractor, sentences(), output=tmp_path / "again", config=CASES["plain"].config(max_steps=2))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == random.getstate()
