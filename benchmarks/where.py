"""Where the time of a training step goes: waiting for rows, the host, the device and its kernels.

    python benchmarks/where.py --model ENCODER --train F --set training.batch_size=96 ...
    PYTHONPATH=src python benchmarks/where.py --shape minilm-l6 --set training.batch_size=96 training.num_workers=14 ...

Steps after the warm-up are timed without the profiler first; then as many with it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ours
import shapes
import torch
from torch.profiler import ProfilerActivity, profile

from spanwright import train
from spanwright.cli.options import read_config
from spanwright.training import loop as loop_module
from spanwright.training.record import Recorder


class Watch(Recorder):
    """Notes when each step ends, and profiles the last ones."""

    times: list[float]
    rows: list[int]
    waits: list[float]
    start, stop = 0, 0
    profiler: Any = None

    def step(self, step: int, values: Any, num_rows: int) -> None:
        """As `Recorder.step`."""
        super().step(step, values, num_rows)
        self.times.append(time.perf_counter())
        self.rows.append(num_rows)
        if step == self.start:
            Watch.profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            self.profiler.__enter__()
        if step == self.stop:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.profiler.__exit__(None, None, None)


def timed(source: Iterator[Any]) -> Iterator[Any]:
    while True:
        started = time.perf_counter()
        value = next(source, None)
        Watch.waits.append(time.perf_counter() - started)
        if value is None:
            return
        yield value


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    work = parser.add_mutually_exclusive_group(required=True)
    work.add_argument("--model")
    work.add_argument("--shape", choices=shapes.SHAPES, help="a random model of that shape on CrossNER politics")
    parser.add_argument("--train", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", nargs="+", action="extend", default=[])
    parser.add_argument("--warm-up", type=int, default=60)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lines", type=int, default=15)
    options = parser.parse_args(arguments)

    Watch.times, Watch.rows, Watch.waits = [], [], []
    Watch.start, Watch.stop = options.warm_up + options.steps, options.warm_up + options.steps + 20
    config = read_config(options.config, [*options.set, f"training.max_steps={Watch.stop}"])
    loop_module.Recorder = Watch  # type: ignore[misc]
    stream = loop_module.stream
    loop_module.stream = lambda *args, **kwargs: timed(stream(*args, **kwargs))  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        model, rows = options.model, options.train
        if options.shape:
            size = config.training.batch_size
            model = shapes.extractor(options.shape)
            rows = ours.examples(shapes.sentences("train") * (1 + Watch.stop * size // 200), shapes.label_names())
        train(model, rows, output=Path(folder) / "run", config=config, skip_invalid=True)
    first, last = options.warm_up - 1, options.warm_up + options.steps - 1
    seconds = Watch.times[last] - Watch.times[first]
    gaps = [
        after - before for before, after in zip(Watch.times[first:last], Watch.times[first + 1 : last + 1], strict=True)
    ]
    rows = sum(Watch.rows[first + 1 : last + 1])
    waits = Watch.waits[first + 1 : last + 1]
    print(
        f"{rows / seconds:,.0f} rows/s, {seconds / options.steps * 1e3:.1f} ms a step (median "
        f"{statistics.median(gaps) * 1e3:.1f}), of which {sum(waits) / options.steps * 1e3:.1f} ms wait for rows"
    )
    averages = Watch.profiler.key_averages()
    if torch.cuda.is_available():
        kernels = [event for event in averages if event.device_type == torch.autograd.DeviceType.CUDA]
        busy = sum(event.self_device_time_total for event in kernels) / 20 / 1e3
        count = sum(event.count for event in kernels) / 20
        print(f"device busy {busy:.1f} ms a step in {count:,.0f} kernels and copies")
        print(averages.table(sort_by="self_cuda_time_total", row_limit=options.lines, max_name_column_width=90))
    print(averages.table(sort_by="self_cpu_time_total", row_limit=options.lines, max_name_column_width=90))


if __name__ == "__main__":
    main()
