"""The benchmark beside gliner runs, on a model of a few thousand weights: what it says of speed is not looked at."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

pytest.importorskip("gliner")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.filterwarnings("ignore")
def test_every_row_of_a_shape(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cpu

    options = argparse.Namespace(texts=6, repeats=1, steps=1, sizes=[4])
    rows = cpu.look("tiny", options)
    for name in ("cpu", "gpu", "cases", "ours", "peer", "shapes", "timing", "parity"):
        sys.modules.pop(name, None)
    cases = [row["case"] for row in rows]
    assert cases == ["parity", "extract_many"] * 2 + ["one text", "labels", "training", "training"]
    assert all(row["right"] for row in rows if row["case"] == "parity")
    assert all(row["ratio"] > 0 for row in rows if "ratio" in row)
    assert {row["precision"] for row in rows if row["case"] == "training"} == {"fp32", "bf16"}
    from gpu import table

    assert len(table(rows).splitlines()) == 2 + len(rows)
