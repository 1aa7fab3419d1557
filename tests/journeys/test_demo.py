"""The demonstration, cut to a few steps."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_demonstration_runs_to_its_end(tmp_path, monkeypatch, capsys):
    cut = ["--set", "training.max_steps=3", "--set", "validation.every=3"]
    arguments = ["demo.py", "--output", str(tmp_path / "demo"), *cut]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(EXAMPLES / "demo.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "1,304 of 1,304 gold spans" in printed
    assert "250 held-out sentences" in printed
    assert all(f"crossner_{name}" in printed for name in ("music", "politics", "science"))
    for name in ("gliner_config.json", "model.safetensors", "learning-curve.png", "metrics.jsonl"):
        assert (tmp_path / "demo" / name).exists()
