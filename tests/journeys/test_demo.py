"""The demonstration, cut to a few steps."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.skipif(not os.environ.get("SPANWRIGHT_TEST_ENCODER"), reason="`make test` names the encoder")
def test_the_demonstration_runs_to_its_end(tmp_path, monkeypatch, capsys):
    encoder = os.environ["SPANWRIGHT_TEST_ENCODER"]
    cut = ["--set", "training.max_steps=3", "--set", "validation.every=3"]
    arguments = ["demo.py", "--encoder", encoder, "--output", str(tmp_path / "demo"), *cut]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(EXAMPLES / "demo.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "1,304 of 1,304 gold spans" in printed
    assert "250 held-out sentences" in printed
    for name in ("gliner_config.json", "model.safetensors", "learning-curve.png", "metrics.jsonl"):
        assert (tmp_path / "demo" / name).exists()
