"""The GPU scripts run here too, with what a CPU can show."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.filterwarnings("ignore")
def test_the_modes_on_a_cpu(capsys):
    assert loaded("modes_on_gpu").main([]) == 0
    assert "| mode grid | 1024 cases, 0 violations | as it must be |" in capsys.readouterr().out


def test_the_architectures_on_a_cpu():
    script = loaded("architectures_on_gpu")
    difference, errors, dropped = script.look("bert", script.ARCHITECTURES["bi-encoder, fused"])
    assert difference < 1e-6
    assert errors == 0
    assert dropped


@pytest.mark.filterwarnings("ignore")
def test_exact_resume_on_a_cpu():
    script = loaded("faults_on_gpu")
    before = torch.are_deterministic_algorithms_enabled()
    try:
        right, told = script.exact_resume("bf16", 1)
    finally:
        torch.use_deterministic_algorithms(before)
    assert right, told
    assert "5 of 5 equal bit for bit; a second run repeats: True" in told


def test_the_replays_can_be_read(monkeypatch):
    """A processor has nothing to record; what a script of the GPU names must exist all the same."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    script = loaded("replays_on_gpu")
    for name in ("shapes", "replays_on_gpu"):
        sys.modules.pop(name, None)
    assert {"bert", "deberta-v2", "modernbert"} <= set(script.FAMILIES)
    assert set(script.FAMILIES) >= script.replays_module.ENCODERS
