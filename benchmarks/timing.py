"""Repeated measurements, interleaved between the sides, and what is written of them."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall and of the processor, until the device is done."""
    _wait()
    wall, processor = time.perf_counter(), time.process_time()
    work()
    _wait()
    return time.perf_counter() - wall, time.process_time() - processor


def milliseconds(work: Callable[[], object], *, times: int = 5, warm_ups: int = 4) -> float:
    """Median milliseconds on the wall, until the device is done."""
    for _ in range(warm_ups):
        work()
    return statistics.median(timed(work)[0] for _ in range(times)) * 1e3


def side_by_side(works: Mapping[str, Callable[[], object]], *, repeats: int, warm_ups: int = 1) -> dict[str, Any]:
    """Median and spread of each work's seconds; the works take turns, so that a busy machine slows all of them."""
    for _ in range(warm_ups):
        for work in works.values():
            work()
    walls: dict[str, list[float]] = {name: [] for name in works}
    processors: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            gc.collect()
            wall, processor = timed(work)
            walls[name].append(wall)
            processors[name].append(processor)
    return {name: {**summary(walls[name]), "cpu": statistics.median(processors[name])} for name in works}


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds), "runs": len(seconds)}


def peak_memory(work: Callable[[], object]) -> tuple[float, float]:
    """GiB that tensors held at most during `work`, above what they held before; and torch for all of them together."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30, torch.cuda.max_memory_reserved() / 2**30


def machine() -> dict[str, Any]:
    """What was measured on, and with which versions."""
    packages = ("spanwright", "torch", "transformers", "tokenizers", "accelerate", "numpy", "gliner")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "commit": _commit(),
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
    }


def write(name: str, rows: Sequence[Mapping[str, Any]], *, to: Path | None = None) -> Path:
    """The rows and the machine as JSON, in `results` or where `to` says."""
    path = to or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "rows": list(rows)}, indent=1) + "\n", encoding="utf-8")
    return path


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        asked = ["git", "rev-parse", "--short", "HEAD"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
