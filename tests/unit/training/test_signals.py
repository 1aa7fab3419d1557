"""Signals noted in this process; from outside: tests/faults."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from spanwright import train
from spanwright.training import signals as signals_module
from spanwright.training.signals import StopSignals
from support.data import sentences
from support.runs import CASES, faults, states_in, without_curves


@pytest.fixture
def ended(monkeypatch):
    """What would have ended the process."""
    codes: list[int] = []
    monkeypatch.setattr(signals_module.os, "_exit", codes.append)
    return codes


def test_the_first_is_noted_and_the_second_ends(ended, capfd):
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals(30.0) as signals:
        assert signals.received == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        assert not ended
        os.kill(os.getpid(), signal.SIGINT)
        assert ended == [143]
    assert signal.getsignal(signal.SIGTERM) is before
    assert "ended at once, by a second signal" in capfd.readouterr().err


def test_a_launchers_copy_is_the_same_signal(ended, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    with StopSignals(30.0) as signals:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        assert not ended


def test_the_grace_period_ends(ended):
    with StopSignals(0.01) as signals:
        signals.note(signal.SIGTERM)
        until = time.monotonic() + 10
        while not ended and time.monotonic() < until:
            time.sleep(0.01)
    assert ended == [143]


def test_outside_the_main_thread_nothing_is_set():
    before, found = signal.getsignal(signal.SIGINT), []

    def look():
        with StopSignals(1.0):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.parametrize(
    ("action", "error", "code"), [("term", SystemExit, 143), ("int", KeyboardInterrupt, "stopped after step 3")]
)
def test_a_run_saves_and_says_so(action, error, code, tmp_path, monkeypatch, capsys):
    without_curves(monkeypatch)
    case = CASES["plain"]
    with faults.planted(f"step.backward:{action}@3"), pytest.raises(error) as stop:
        train(
            case.extractor(),
            sentences(),
            output=tmp_path / "run",
            config=case.config(save_every=100),
            show=True,
        )
    assert stop.value.args == (code,)
    assert [state.name for state in states_in(tmp_path / "run")] == ["state-000003"]
    assert "step 3 is done and its state is in" in capsys.readouterr().err


def test_an_evaluation_under_way_is_given_up_and_made_later(tmp_path, monkeypatch):
    without_curves(monkeypatch)
    case = CASES["early stopping, 2 workers"]
    with faults.planted("evaluation.slice:term@1"), pytest.raises(SystemExit):
        case.run(tmp_path / "run", num_workers=0, save_every=100)
    assert [state.name for state in states_in(tmp_path / "run")] == ["state-000003-early"]
    with faults.planted("step.data:term@1"), pytest.raises(SystemExit):
        case.run(tmp_path / "run", num_workers=0, save_every=100, resume=True)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"step": 3, "f1"' in lines
