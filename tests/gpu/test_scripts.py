"""The GPU script runs here too, with what a CPU can show."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.filterwarnings("ignore")
def test_the_script_passes_on_a_cpu(capsys):
    spec = importlib.util.spec_from_file_location("modes_on_gpu", Path(__file__).parent / "modes_on_gpu.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main([]) == 0
    assert "| mode grid | 1024 cases, 0 violations | as it must be |" in capsys.readouterr().out
